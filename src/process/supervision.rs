//! What happens between the first signal and the command's end, as a state machine: no process, no
//! clock.

/// A signal that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal<N> {
    /// SIGTERM or SIGINT: end.
    Stop(N),
    /// One that lbctl has no use for itself.
    Other(N),
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<N> {
    Nothing,
    /// Mark the server as leaving and wait for it to drain; say so with [`Supervision::left`].
    Leave,
    /// Pass a signal on to the command.
    Pass(N),
    /// There is no command to wait for: deregister and end well.
    End,
    /// There is no command and the user does not want to wait: end by this signal.
    EndBy(N),
}

/// Where a registered command stands; `N` names a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supervision<N> {
    has_command: bool,
    stage: Stage<N>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage<N> {
    Running,
    /// Drains; then this signal is passed on.
    Leaving(N),
    /// The command was told to end.
    Told,
}

impl<N: Copy> Supervision<N> {
    pub fn new(has_command: bool) -> Self {
        Self { has_command, stage: Stage::Running }
    }

    pub fn signal(&mut self, signal: Signal<N>) -> Action<N> {
        match (signal, self.stage) {
            (Signal::Other(_), _) if !self.has_command => Action::Nothing,
            (Signal::Other(number), _) => Action::Pass(number),
            (Signal::Stop(number), Stage::Running) => {
                self.stage = Stage::Leaving(number);
                Action::Leave
            }
            (Signal::Stop(number), _) if !self.has_command => Action::EndBy(number),
            (Signal::Stop(number), _) => {
                self.stage = Stage::Told;
                Action::Pass(number)
            }
        }
    }

    /// The server has drained, or its deadline came.
    pub fn left(&mut self) -> Action<N> {
        match self.stage {
            Stage::Leaving(_) if !self.has_command => Action::End,
            Stage::Leaving(number) => {
                self.stage = Stage::Told;
                Action::Pass(number)
            }
            Stage::Running | Stage::Told => Action::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT: i32 = 2;
    const USR1: i32 = 10;
    const TERM: i32 = 15;

    #[test]
    fn the_command_is_told_to_end_only_after_the_drain() {
        let mut supervision = Supervision::new(true);
        assert_eq!(supervision.signal(Signal::Stop(INT)), Action::Leave);
        assert_eq!(supervision.left(), Action::Pass(INT));
        assert_eq!(supervision.signal(Signal::Stop(TERM)), Action::Pass(TERM));
    }

    #[test]
    fn a_second_signal_is_passed_on_at_once_and_the_first_not_again() {
        let mut supervision = Supervision::new(true);
        assert_eq!(supervision.signal(Signal::Stop(TERM)), Action::Leave);
        assert_eq!(supervision.signal(Signal::Stop(INT)), Action::Pass(INT));
        assert_eq!(supervision.left(), Action::Nothing);
    }

    #[test]
    fn other_signals_are_the_command_s_own_business_at_any_time() {
        let mut supervision = Supervision::new(true);
        assert_eq!(supervision.signal(Signal::Other(USR1)), Action::Pass(USR1));
        supervision.signal(Signal::Stop(TERM));
        assert_eq!(supervision.signal(Signal::Other(USR1)), Action::Pass(USR1));
        assert_eq!(supervision.left(), Action::Pass(TERM));
    }

    #[test]
    fn without_a_command_the_drain_is_the_end_and_a_second_signal_skips_it() {
        let mut supervision = Supervision::new(false);
        assert_eq!(supervision.signal(Signal::Other(USR1)), Action::Nothing);
        assert_eq!(supervision.signal(Signal::Stop(TERM)), Action::Leave);
        let mut impatient = supervision;
        assert_eq!(supervision.left(), Action::End);
        assert_eq!(impatient.signal(Signal::Stop(INT)), Action::EndBy(INT));
    }
}
