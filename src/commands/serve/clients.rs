//! Who is connected to this server.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// How often [`Clients::settled`] looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How long those who have left may take to be seen to: they are known when it begins, so nobody
/// can draw it out, and ten thousand of them take a busy machine a while.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// The connections of one server; clones share it.
///
/// A connection that was just accepted is *undecided*: it may be a health probe. It becomes a
/// client when its [`Seat`] says so.
#[derive(Debug, Clone)]
pub struct Clients(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    count: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    connections: usize,
    last_id: u64,
    undecided: BTreeSet<u64>,
    /// Ordered as they are shown. The id keeps two connections apart that a proxy says are from
    /// one address.
    members: BTreeMap<(Box<str>, u64), Weak<Line>>,
    /// The first two lines of `WHO` for these members; made when asked for, shared by all who ask.
    listing: Option<Bytes>,
}

/// A connection's socket.
#[derive(Debug)]
pub struct Line {
    pub stream: TcpStream,
    /// Commands are being answered, so that its end is not looked at now.
    answering: AtomicBool,
}

impl Line {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, answering: AtomicBool::new(false) }
    }

    pub fn set_answering(&self, answering: bool) {
        self.answering.store(answering, Ordering::Release);
    }
}

/// What `WHO` says of this server alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The reply's first two lines.
    pub lines: Bytes,
    pub count: usize,
}

impl Clients {
    pub fn new() -> Self {
        let state = State {
            connections: 0,
            last_id: 0,
            undecided: BTreeSet::new(),
            members: BTreeMap::new(),
            listing: None,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), count: watch::Sender::new(0) }))
    }

    /// Takes in a connection, unless `limit` are there already.
    pub fn admit(&self, limit: usize) -> Option<Seat> {
        let mut state = self.0.lock();
        if state.connections >= limit {
            return None;
        }
        state.connections += 1;
        state.last_id += 1;
        let id = state.last_id;
        state.undecided.insert(id);
        Some(Seat { shared: self.0.clone(), id, shown: None, excused: false })
    }

    /// How many clients there are; changes are seen at once.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.0.count.subscribe()
    }

    /// Every client as of now.
    pub fn listing(&self) -> Listing {
        let mut state = self.0.lock();
        let count = state.members.len();
        let State { members, listing, .. } = &mut *state;
        let lines = listing.get_or_insert_with(|| lines_of(members)).clone();
        Listing { lines, count }
    }

    /// Waits until everybody who came before this call is decided on, and everybody who left before
    /// it is out of the listing, so that `WHO` right after a thousand connects or disconnects is
    /// exact. The first takes `limit` at most, the second two seconds; on a quiet server neither
    /// takes any time.
    pub async fn settled(&self, limit: Duration) {
        let last_id = self.0.lock().last_id;
        let decided = async {
            while self.0.lock().has_undecided(last_id) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let undecided = timeout(limit, decided).await.is_err();
        let mut leaving = going(self.0.lock().idle());
        let left = async {
            while !leaving.is_empty() {
                tokio::time::sleep(LOOK_AGAIN).await;
                leaving.retain(|line| line.strong_count() > 0);
            }
        };
        if timeout(limit.max(LEAVE_LIMIT), left).await.is_err() || undecided {
            tracing::debug!(?limit, "somebody is still coming or going");
        }
    }
}

/// The lines that the other side has closed, which their own tasks have not noticed yet: the
/// kernel knows it at once, a busy runtime some milliseconds later.
fn going(lines: Vec<Arc<Line>>) -> Vec<Weak<Line>> {
    let closed = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut polled: Vec<PollFd<'_>> =
        lines.iter().map(|line| PollFd::new(&line.stream, PollFlags::RDHUP)).collect();
    match poll(&mut polled, Some(&Timespec::default())) {
        Ok(0) => return Vec::new(),
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(%error, "cannot look at the connections");
            return Vec::new();
        }
    }
    let gone = polled.iter().zip(&lines).filter(|(fd, _)| fd.revents().intersects(closed));
    gone.map(|(_, line)| Arc::downgrade(line)).collect()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Later arrivals do not hold an answer up, or a busy server would never give one.
    fn has_undecided(&self, last_id: u64) -> bool {
        self.undecided.first().is_some_and(|first| *first <= last_id)
    }

    fn idle(&self) -> Vec<Arc<Line>> {
        let lines = self.members.values().filter_map(Weak::upgrade);
        lines.filter(|line| !line.answering.load(Ordering::Acquire)).collect()
    }
}

fn lines_of(members: &BTreeMap<(Box<str>, u64), Weak<Line>>) -> Bytes {
    let len: usize = members.keys().map(|(address, _)| address.len() + 4).sum();
    let mut text = String::with_capacity(len + 128);
    text.push_str("IP:PORT of clients connected to this server: {");
    for (index, (address, _)) in members.keys().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        _ = write!(text, "{comma}'{address}'");
    }
    _ = write!(text, "}}\nclients connected to this server: {}\n", members.len());
    text.into()
}

/// A connection's place; dropping it frees the place.
#[derive(Debug)]
pub struct Seat {
    shared: Arc<Shared>,
    id: u64,
    /// The address it is a client under.
    shown: Option<Box<str>>,
    /// It is never to be a client.
    excused: bool,
}

impl Seat {
    /// It is a client from now on, unless that was decided before.
    pub fn join(&mut self, address: SocketAddr, line: &Arc<Line>) {
        if self.is_decided() {
            return;
        }
        let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
        let text: Box<str> = canonical.to_string().into();
        let mut state = self.shared.lock();
        state.undecided.remove(&self.id);
        state.members.insert((text.clone(), self.id), Arc::downgrade(line));
        self.shown = Some(text);
        self.shared.changed(state);
    }

    /// It will never be a client, such as a proxy's own probe.
    pub fn excuse(&mut self) {
        self.excused |= self.shown.is_none();
        self.shared.lock().undecided.remove(&self.id);
    }

    /// Whether it is known to be a client, or known not to be one.
    pub fn is_decided(&self) -> bool {
        self.excused || self.shown.is_some()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.connections -= 1;
        state.undecided.remove(&self.id);
        if let Some(address) = self.shown.take() {
            state.members.remove(&(address, self.id));
            self.shared.changed(state);
        }
    }
}

impl Shared {
    /// The count is sent under the lock, so that the last one sent is the last one true.
    fn changed(&self, mut state: MutexGuard<'_, State>) {
        state.listing = None;
        self.count.send_replace(state.members.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(n: u16) -> SocketAddr {
        format!("127.0.0.1:{n}").parse().unwrap()
    }

    /// A line whose socket does not matter.
    fn line() -> Arc<Line> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _entered = runtime.enter();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        Arc::new(Line::new(TcpStream::from_std(stream).unwrap()))
    }

    fn shown(clients: &Clients) -> String {
        String::from_utf8(clients.listing().lines.to_vec()).unwrap()
    }

    #[test]
    fn the_listing_is_the_original_server_s_with_its_entries_sorted() {
        let clients = Clients::new();
        let mut seats: Vec<Seat> = (0..3).map(|_| clients.admit(9).unwrap()).collect();
        let line = line();
        seats[0].join(address(5001), &line);
        seats[1].join("[::1]:7".parse().unwrap(), &line);
        seats[2].join("[::ffff:127.0.0.1]:40000".parse().unwrap(), &line);
        assert_eq!(
            shown(&clients),
            "IP:PORT of clients connected to this server: \
             {'127.0.0.1:40000', '127.0.0.1:5001', '[::1]:7'}\n\
             clients connected to this server: 3\n"
        );
        seats.clear();
        assert!(shown(&clients).ends_with("server: {}\nclients connected to this server: 0\n"));
    }

    #[test]
    fn a_connection_is_no_client_before_it_joins_but_takes_a_place() {
        let clients = Clients::new();
        let seat = clients.admit(1).unwrap();
        assert_eq!(clients.listing().count, 0);
        assert!(clients.admit(1).is_none());
        drop(seat);
        assert!(clients.admit(1).is_some());
    }

    #[test]
    fn two_connections_said_to_be_from_one_address_are_two_clients() {
        let clients = Clients::new();
        let mut seats = [clients.admit(9).unwrap(), clients.admit(9).unwrap()];
        let line = line();
        seats.iter_mut().for_each(|seat| seat.join(address(1), &line));
        assert_eq!(*clients.count().borrow(), 2);
        let [first, _second] = seats;
        drop(first);
        assert!(shown(&clients).contains("{'127.0.0.1:1'}"));
    }

    /// How long settling takes.
    async fn settling(clients: &Clients, limit: Duration) -> Duration {
        let start = tokio::time::Instant::now();
        clients.settled(limit).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn settling_waits_for_the_undecided_but_not_for_later_ones_nor_for_ever() {
        let (clients, limit) = (Clients::new(), Duration::from_millis(300));
        assert_eq!(settling(&clients, limit).await, Duration::ZERO);
        let mut seat = clients.admit(9).unwrap();
        assert!(settling(&clients, limit).await >= limit);
        let (waited, _later) = tokio::join!(settling(&clients, limit), async {
            tokio::time::sleep(limit / 2).await;
            let later = clients.admit(9).unwrap();
            seat.excuse();
            later
        });
        assert!(waited >= limit / 2 && waited < limit, "{waited:?}");
    }

    #[tokio::test]
    async fn settling_waits_for_who_has_closed_unless_they_are_being_answered() {
        let (clients, limit) = (Clients::new(), Duration::from_millis(200));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let line = Arc::new(Line::new(listener.accept().await.unwrap().0));
        let mut seat = clients.admit(9).unwrap();
        seat.join(address(1), &line);
        assert!(settling(&clients, limit).await < limit);
        drop(far);
        assert!(settling(&clients, limit).await >= LEAVE_LIMIT);
        line.set_answering(true);
        assert!(settling(&clients, limit).await < limit);
        line.set_answering(false);
        let (waited, ()) = tokio::join!(settling(&clients, limit * 50), async {
            tokio::time::sleep(limit / 4).await;
            drop((seat, line));
        });
        assert!(waited < limit * 50, "{waited:?}");
    }

    proptest! {
        #[test]
        fn the_count_is_always_the_number_of_clients(
            steps in proptest::collection::vec((0u8..4, any::<prop::sample::Index>()), 0..60),
        ) {
            let (clients, line) = (Clients::new(), line());
            let mut seats: Vec<Seat> = Vec::new();
            for (step, which) in steps {
                if step == 0 || seats.is_empty() {
                    seats.extend(clients.admit(20));
                    continue;
                }
                let at = which.index(seats.len());
                match step {
                    1 => seats[at].join(address(1), &line),
                    2 => seats[at].excuse(),
                    _ => drop(seats.swap_remove(at)),
                }
                let joined = seats.iter().filter(|s| s.shown.is_some()).count();
                prop_assert_eq!(clients.listing().count, joined);
                prop_assert_eq!(*clients.count().borrow(), joined);
                prop_assert_eq!(clients.0.lock().connections, seats.len());
            }
        }
    }
}
