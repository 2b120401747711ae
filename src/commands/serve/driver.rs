//! Runs the server: listening, the links to the store, and the order in which it all ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::advertise::advertised;
use super::clients::Clients;
use super::cluster::{self, Count, Others};
use super::server::{self, Metrics, Server, Shared};
use super::settings::{Limits, Register, Settings};
use crate::daemon::{Context, OwnedTask, Reload, raise_open_files, spawn_owned};
use crate::error::CommandResult;
use crate::model::{Endpoint, EndpointId, ServerAddress, keys};
use crate::presence::Presence;
use crate::registry::{Left, Registrar, RegistrarState, Until, open_patiently};
use crate::store::Key;

/// How much of the grace period goes to the load balancers at most; the clients get the rest.
const LEAVE_SHARE: f64 = 0.4;

/// What is kept of the grace period to end the leases in.
const CLOSE_TIME: Duration = Duration::from_millis(2500);

/// At most one write in this time, and one status: changes in between go together.
const PACE: Duration = Duration::from_millis(25);

/// Serves until the shutdown, and ends in order: deregister, stop accepting, let clients finish.
pub(super) async fn serve(
    mut settings: Settings,
    context: Context,
    reload: Reload<Settings>,
) -> CommandResult {
    fit_open_files(&mut settings.limits);
    let listener = server::listen(&settings.host, settings.port, settings.keepalive).await?;
    let listener = Arc::new(listener);
    let listening = listener.local_addr()?;
    let instance = uuid::Uuid::new_v4();
    let id = settings.id.clone().unwrap_or_else(|| instance.into());
    let endpoint = match &settings.register {
        Some(register) => {
            let address = advertised(register.advertise, listening, &settings.store.url)?;
            Some(endpoint(id.clone(), address, register))
        }
        None => None,
    };
    tracing::info!(%listening, %id, "serving WHO, WHERE, WHY and QUIT");
    let (sender, others) = watch::channel(Others::Unavailable("not asked yet".into()));
    let clients = Clients::new();
    let (limits, limits_now) = watch::channel(settings.limits.clone());
    let _reloading = spawn_owned(take_settings(context.clone(), reload, limits));
    let server = Server::new(Shared {
        id: id.clone(),
        clients: clients.clone(),
        others: others.clone(),
        limits: limits_now,
        proxy_protocol: settings.proxy_protocol,
        metrics: Metrics::new(),
        listener: Arc::downgrade(&listener),
        looked: Mutex::default(),
    });
    let own = keys::serving(&id, instance);
    let registered = watch::Sender::new(RegistrarState::Starting);
    let report = Report { id: id.clone(), listening, endpoint: endpoint.clone() };
    let _report =
        spawn_owned(report.run(context.clone(), clients.count(), others, registered.subscribe()));
    let links = connect(settings, id, own, endpoint, clients, sender, registered);
    run(server, listener, links, &context).await;
    Ok(())
}

/// Takes new limits at each SIGHUP.
async fn take_settings(
    context: Context,
    mut settings: Reload<Settings>,
    limits: watch::Sender<Limits>,
) {
    let mut reload = pin!(context.reload.notified());
    loop {
        reload.as_mut().await;
        // Before the work, so that a signal during it is not missed.
        reload.set(context.reload.notified());
        if let Some(mut changed) = settings.again().await {
            fit_open_files(&mut changed.limits);
            limits.send_replace(changed.limits);
        }
    }
}

/// What this server has in the store.
struct Links {
    presence: Arc<Presence>,
    registrar: Option<Registrar>,
    _tasks: Vec<OwnedTask<()>>,
}

async fn run(
    server: Server,
    listener: Arc<TcpListener>,
    links: impl Future<Output = Links>,
    context: &Context,
) {
    let stop = CancellationToken::new();
    let coordinate = async {
        let links = tokio::select! {
            () = context.shutdown.cancelled() => None,
            links = links => Some(links),
        };
        context.shutdown.cancelled().await;
        let asked = Instant::now();
        if let Some(registrar) = links.as_ref().and_then(|l| l.registrar.as_ref()) {
            leave(registrar, context.grace.mul_f64(LEAVE_SHARE)).await;
        }
        stop.cancel();
        (links, asked)
    };
    let ((links, asked), ()) = tokio::join!(coordinate, server.accept(listener, &stop));
    let grace = context.grace.saturating_sub(asked.elapsed());
    server.finish(grace.saturating_sub(CLOSE_TIME.min(context.grace / 4))).await;
    if let Some(Links { presence, registrar, _tasks }) = links {
        let deregister = async {
            if let Some(registrar) = registrar {
                registrar.close().await;
            }
        };
        tokio::join!(presence.close(), deregister);
    }
}

/// Deregisters. While load balancers have sessions on this server it stays in their tables as
/// leaving, so that nobody cuts those sessions off.
async fn leave(registrar: &Registrar, deadline: Duration) {
    match registrar.leave(Until::NoNewSessions, deadline).await {
        Left::Drained { sessions: 0 } => {
            registrar.close().await;
            tracing::info!("deregistered");
        }
        Left::Drained { sessions } => tracing::info!(sessions, "drained; no new sessions come"),
        Left::TimedOut(what) => tracing::warn!("not waiting longer for {what}"),
    }
}

/// Opens the store for as long as it takes, then starts what needs it.
async fn connect(
    settings: Settings,
    id: EndpointId,
    own: Key,
    endpoint: Option<Endpoint>,
    clients: Clients,
    others: watch::Sender<Others>,
    registered: watch::Sender<RegistrarState>,
) -> Links {
    let store = open_patiently(&settings.store, |problem| {
        others.send_replace(Others::Unavailable(problem.to_owned()));
        registered.send_replace(RegistrarState::Failing(problem.to_owned()));
    })
    .await;
    let presence = Presence::start(store.clone(), settings.ttl).with_min_interval(PACE);
    let mut tasks = vec![spawn_owned(cluster::follow(store.clone(), id, own.clone(), others))];
    let registrar = settings.register.zip(endpoint).map(|(register, endpoint)| {
        let registrar = Registrar::start(store, register.backend, endpoint, settings.ttl);
        tasks.push(spawn_owned(forward(registrar.state(), registered)));
        registrar
    });
    let presence = Arc::new(presence);
    tasks.push(spawn_owned(announce(presence.clone(), own, clients.count())));
    Links { presence, registrar, _tasks: tasks }
}

/// Writes this server's count whenever it changes; the presence makes one write of many.
async fn announce(presence: Arc<Presence>, own: Key, mut count: watch::Receiver<usize>) {
    loop {
        let clients = *count.borrow_and_update() as u64;
        presence.set(own.clone(), Count { clients }.to_value());
        tokio::time::sleep(PACE).await;
        if count.changed().await.is_err() {
            return;
        }
    }
}

async fn forward(mut from: watch::Receiver<RegistrarState>, to: watch::Sender<RegistrarState>) {
    loop {
        let state = from.borrow_and_update().clone();
        to.send_replace(state);
        if from.changed().await.is_err() {
            return;
        }
    }
}

fn endpoint(id: EndpointId, address: ServerAddress, register: &Register) -> Endpoint {
    let Register { backend: _, advertise: _, weight, group, zone } = register.clone();
    Endpoint { id, address, name: None, group, zone, weight, leaving: false }
}

/// What `/status`, `/readyz` and the gauges say.
struct Report {
    id: EndpointId,
    listening: std::net::SocketAddr,
    endpoint: Option<Endpoint>,
}

impl Report {
    async fn run(
        self,
        context: Context,
        mut count: watch::Receiver<usize>,
        mut others: watch::Receiver<Others>,
        mut registered: watch::Receiver<RegistrarState>,
    ) {
        let gate = context.readiness.gate("registration", "starting");
        loop {
            let clients = *count.borrow_and_update();
            let others_now = others.borrow_and_update().clone();
            let state = registered.borrow_and_update().clone();
            match (&self.endpoint, &state) {
                (None, _) | (_, RegistrarState::Registered) => gate.open(),
                (_, RegistrarState::Starting) => gate.close("not registered yet"),
                (_, RegistrarState::Failing(why)) => gate.close(why),
            }
            self.publish(&context, clients, &others_now, &state);
            tokio::time::sleep(PACE).await;
            tokio::select! {
                _ = count.changed() => {}
                _ = others.changed() => {}
                changed = registered.changed() => if changed.is_err() {
                    // Only at the end, when the links are gone.
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    fn publish(&self, context: &Context, clients: usize, others: &Others, state: &RegistrarState) {
        let (all, why) = match others {
            Others::Clients(sum) => (Some(sum.saturating_add(clients as u64)), None),
            Others::Unavailable(why) => (None, Some(why)),
        };
        server::set_gauges(clients, all);
        let registration = self.endpoint.as_ref().map(|endpoint| {
            let failing = match state {
                RegistrarState::Failing(why) => Some(why),
                RegistrarState::Starting | RegistrarState::Registered => None,
            };
            json!({
                "address": endpoint.address,
                "registered": *state == RegistrarState::Registered,
                "failing": failing,
            })
        });
        let status = json!({
            "id": self.id, "listening": self.listening, "clients": clients,
            "cluster_clients": all, "cluster_unavailable": why, "registration": registration,
        });
        context.status.publish("serve", &status);
    }
}

/// What this server needs besides its clients: the store, the admin server, the refused.
const OTHER_FILES: usize = 192;

/// What does not fit into the limit of open files lowers `max-clients`, or is warned of where
/// somebody asked for it.
fn fit_open_files(limits: &mut Limits) {
    let open_files = raise_open_files();
    let places = usize::try_from(open_files).unwrap_or(usize::MAX);
    let places = places - OTHER_FILES.min(places / 2);
    let max_clients = limits.max_clients;
    if max_clients <= places {
        return;
    }
    if limits.max_clients_is_set {
        tracing::warn!(
            open_files,
            max_clients,
            "the limit of open files is too low for max-clients: raise it (ulimit -n, LimitNOFILE=)"
        );
        return;
    }
    limits.max_clients = places.max(1);
    let max_clients = limits.max_clients;
    tracing::info!(open_files, max_clients, "max-clients is what the limit of open files allows");
}
