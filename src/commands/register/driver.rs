//! Runs the command and the registration side by side.

use std::ffi::OsString;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustix::process::Signal as Number;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::signal::unix::SignalKind;
use tokio::time::timeout;

use super::settings::Settings;
use crate::daemon::{Backoff, spawn_owned};
use crate::error::{CommandError, CommandResult, Kind};
use crate::model::ServerAddress;
use crate::process::{self, Action, Child, Signal, Signals, Supervision, reap_orphans};
use crate::registry::{Left, Registrar, RegistrarState, Until, open_patiently};

/// How long one try to connect may take while the port is waited for.
const CONNECT_TIME: Duration = Duration::from_secs(1);

/// Runs to the command's end, or without one to a signal.
pub(super) async fn run(settings: Settings, command: Vec<OsString>) -> CommandResult {
    let mut signals = signals()?;
    let mut wrapped = start(&command)?;
    let _orphans = spawn_owned(reap_orphans());
    let mut supervision = Supervision::new(wrapped.is_some());
    let deadline = settings.drain_deadline;
    let (ready, mut registrar) = tokio::sync::watch::channel(None);
    let _registering = spawn_owned(async move {
        let registrar = Arc::new(register(settings).await);
        let _said = spawn_owned(say(registrar.clone()));
        ready.send_replace(Some(registrar));
        pending::<()>().await;
    });
    let mut leaving: Option<BoxFuture<'static, ()>> = None;
    let result = loop {
        let action = tokio::select! {
            signal = signals.next() => supervision.signal(signal),
            status = ended(&mut wrapped) => break process::result(status?),
            () = done(&mut leaving) => supervision.left(),
        };
        match action {
            Action::Nothing => {}
            Action::Leave => {
                let registrar = registrar.borrow_and_update().clone();
                leaving = Some(leave(registrar, deadline).boxed());
            }
            Action::Pass(number) => {
                if let Some(wrapped) = &wrapped {
                    wrapped.signal(number);
                }
            }
            Action::End => break Ok(()),
            Action::EndBy(number) => break Err(ended_by(number)),
        }
    };
    let registrar = registrar.borrow_and_update().clone();
    if let Some(registrar) = registrar {
        registrar.close().await;
    }
    result
}

/// Starts the command; `None` without one. It has this process's stdin, stdout and stderr.
fn start(command: &[OsString]) -> CommandResult<Option<Child>> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(None);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    Child::start(command).map(Some).map_err(|error| {
        tracing::error!(%error, "cannot start {}", program.display());
        // As shells have it: 127 not found, 126 not executable.
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        CommandError::exit_code_of_child(if missing { 127 } else { 126 })
    })
}

/// Registers, for as long as it takes.
async fn register(settings: Settings) -> Registrar {
    let Settings { store, backend, endpoint, ttl, drain_deadline: _, wait_port } = settings;
    let store = open_patiently(&store, |_| {}).await;
    if wait_port {
        accepts(endpoint.address).await;
    }
    Registrar::start(store, backend, endpoint, ttl)
}

/// Waits until something accepts connections there.
async fn accepts(address: ServerAddress) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    tracing::info!("registering once {address} accepts connections");
    while !matches!(
        timeout(CONNECT_TIME, TcpStream::connect(address.socket_addr())).await,
        Ok(Ok(_))
    ) {
        backoff.wait().await;
    }
}

/// Says when it is registered; what fails is said where it fails.
async fn say(registrar: Arc<Registrar>) {
    let mut state = registrar.state();
    while state.wait_for(|s| *s == RegistrarState::Registered).await.is_ok() {
        tracing::info!("registered");
        if state.wait_for(|s| *s != RegistrarState::Registered).await.is_err() {
            return;
        }
    }
}

/// Drains and deregisters; without a registration there is nothing to do.
async fn leave(registrar: Option<Arc<Registrar>>, deadline: Duration) {
    let Some(registrar) = registrar else {
        return;
    };
    tracing::info!(?deadline, "leaving once no session is left; a second signal ends the wait");
    match registrar.leave(Until::NoSessions, deadline).await {
        Left::Drained { .. } => tracing::info!("drained"),
        Left::TimedOut(what) => {
            tracing::warn!("the drain deadline of {deadline:?} is over, not waiting for {what}");
        }
    }
    registrar.close().await;
}

/// The end of the command; never without one.
async fn ended(wrapped: &mut Option<Child>) -> std::io::Result<std::process::ExitStatus> {
    match wrapped {
        Some(wrapped) => wrapped.wait().await,
        None => pending().await,
    }
}

/// The end of leaving, once; never while nobody leaves. Cancel-safe.
async fn done(leaving: &mut Option<BoxFuture<'static, ()>>) {
    match leaving {
        Some(task) => {
            task.await;
            *leaving = None;
        }
        None => pending().await,
    }
}

fn ended_by(number: Number) -> CommandError {
    let kind = if number == Number::INT { Kind::Interrupted } else { Kind::Terminated };
    CommandError::msg(kind, "ended at once by a second signal")
}

/// The signals that a supervisor or a person sends on purpose.
fn signals() -> std::io::Result<Signals<Signal<Number>>> {
    let ends = [
        (SignalKind::terminate(), Signal::Stop(Number::TERM)),
        (SignalKind::interrupt(), Signal::Stop(Number::INT)),
    ];
    let others = [
        (SignalKind::hangup(), Signal::Other(Number::HUP)),
        (SignalKind::quit(), Signal::Other(Number::QUIT)),
        (SignalKind::user_defined1(), Signal::Other(Number::USR1)),
        (SignalKind::user_defined2(), Signal::Other(Number::USR2)),
        (SignalKind::window_change(), Signal::Other(Number::WINCH)),
    ];
    Signals::listen(ends, others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_started_ends_as_a_shell_would() {
        for (program, wanted) in [("/nonexistent/program", 127), ("/etc/passwd", 126)] {
            let error = start(&[program.into()]).unwrap_err();
            assert_eq!(error.exit_code(), wanted.into());
        }
        assert!(start(&[]).unwrap().is_none());
    }
}
