//! Files as people and broken programs leave them: the table never loses a live server.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lbctl::model::keys;
use rustix::fs::{CWD, Mode, inotify};
use rustix::io::Errno;

use super::history::History;
use super::{World, web};
use crate::support::{Process, eventually, eventually_async, soak};

/// A discover that follows a file, and has its three servers placed.
struct Followed {
    world: World,
    path: PathBuf,
    discover: Process,
}

const THREE: [&str; 3] = ["1 ready 127.0.0.1:1", "2 ready 127.0.0.1:2", "3 ready 127.0.0.1:3"];

impl Followed {
    async fn start(name: &str, flags: &[&str]) -> Self {
        let world = World::sqlite().await;
        let path = world.dir.path().join(name);
        std::fs::write(&path, list(name, &[1, 2, 3])).unwrap();
        let source = format!("file:{}", path.display());
        let discover = world.start("discover", &[&["--source", &source][..], flags].concat());
        world.becomes(&discover, &THREE).await;
        Self { world, path, discover }
    }

    /// Replaces the file whole, by something that is there already.
    fn replace_by(&self, name: &str) {
        std::fs::rename(self.world.dir.path().join(name), &self.path).unwrap();
    }

    fn replace(&self, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.world.dir.path().join("new"), bytes).unwrap();
        self.replace_by("new");
    }

    /// Waits until something is said once more than before.
    fn said_again(&self, text: &str, before: usize) {
        let count = || self.discover.log().matches(text).count();
        eventually(&format!("{text:?} to be said; {}", self.discover.tail()), || {
            (count() > before).then_some(())
        });
    }

    /// The file becomes bad and good again: meanwhile the table stays, and the log says why.
    async fn survives(&mut self, what: &str, spoil: impl FnOnce(&Self), says: &[&str]) {
        let (table, recovered) = (self.world.table().await, "has recovered");
        let before = self.discover.log().matches(recovered).count();
        let start = self.discover.log().len();
        spoil(self);
        for text in says {
            eventually(&format!("{what}: {text:?}; {}", self.discover.tail()), || {
                self.discover.log()[start..].contains(text).then_some(())
            });
        }
        let name = self.path.file_name().unwrap().to_str().unwrap().to_owned();
        self.replace(list(&name, &[1, 2, 3]));
        self.said_again(recovered, before);
        assert_eq!(self.world.table().await, table, "{what}: {}", self.discover.tail());
    }
}

/// Who reads a file, by inotify(7).
struct Readers(OwnedFd);

impl Readers {
    fn of(path: &Path) -> Self {
        let events = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&events, path, inotify::WatchFlags::CLOSE_NOWRITE).unwrap();
        Self(events)
    }

    /// Makes a change and waits until somebody has read the file since.
    fn wait_after(&self, change: impl FnOnce()) {
        while self.heard() {}
        change();
        eventually("the file to be read", || self.heard().then_some(()));
    }

    fn heard(&self) -> bool {
        match rustix::io::read(&self.0, &mut [0; 4096]) {
            Ok(_) => true,
            Err(Errno::AGAIN) => false,
            Err(error) => panic!("inotify: {error}"),
        }
    }
}

/// A list of servers at these ports of 127.0.0.1.
fn list(name: &str, ports: &[u32]) -> String {
    let addresses = ports.iter().map(|port| format!("127.0.0.1:{port}"));
    list_of(name, addresses)
}

fn list_of(name: &str, addresses: impl Iterator<Item = String>) -> String {
    let (start, end) = match name.rsplit_once('.').unwrap().1 {
        "toml" => ("endpoints = [\n", "]\n"),
        "json" => ("[\n", "\n]\n"),
        _ => ("", ""),
    };
    let lines: Vec<String> = match end {
        "" => addresses.map(|address| format!("- {address}")).collect(),
        _ => addresses.map(|address| format!("\"{address}\"")).collect(),
    };
    format!("{start}{}{end}", lines.join(if end.is_empty() { "\n" } else { ",\n" }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_takes_the_place_of_the_file_the_table_stays_and_the_log_says_why() {
    for name in ["web.json", "web.yaml", "web.toml"] {
        let mut world = Followed::start(name, &["--slots", "5"]).await;
        let at = |line: u32| format!("{name}:{line}: ");
        let (first, second) = (at(1), at(2));
        world.survives("empty", |w| w.replace(""), &["the file is empty: an empty list is"]).await;
        let nothing = list(name, &[]).replace("\n\n", "\n");
        let nothing = if nothing.trim().is_empty() { "[]\n".into() } else { nothing };
        world.replace(&nothing);
        world.discover.wait_for_log("refused: the source sees no server at all; 3 keep");
        world.replace(list(name, &[1, 2, 3]));
        world.discover.wait_for_log("no removal is refused any more");
        let torn = match name {
            "web.json" => "[\n\"127.0.0.1:1\",\n\"127.0.0.1",
            "web.yaml" => "- 127.0.0.1:1\n- 127.0.0",
            _ => "endpoints = [\n'127.0.0.1:1',\n'127.",
        };
        let line = at(torn.lines().count().try_into().unwrap());
        world.survives("torn", |w| w.replace(torn), &[&line]).await;
        let latin = b"\n\xe9\xff";
        world.survives("latin", |w| w.replace(latin), &[&second, "save the file as UTF-8"]).await;
        let huge = format!("'{}'", "x".repeat(3_000_000));
        let huge = list(name, &[1]).replace("127.0.0.1:1", &huge);
        world.survives("an enormous field", |w| w.replace(&huge), &[name]).await;
        let deep = "[".repeat(1_000_000);
        let deep = if name == "web.toml" { format!("endpoints = {deep}") } else { deep };
        world.survives("nested deep", |w| w.replace(&deep), &[&first]).await;
        let sparse = |w: &Followed| {
            let file = std::fs::File::create(w.world.dir.path().join("sparse")).unwrap();
            file.set_len(1 << 40).unwrap();
            w.replace_by("sparse");
        };
        world.survives("a terabyte", sparse, &["1099511627776 bytes", "is it the right"]).await;
        assert!(world.discover.log().len() < 64 * 1024, "{} bytes", world.discover.log().len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_pipes_devices_and_links_hang_nobody() {
    let mut world = Followed::start("web.json", &["--slots", "5"]).await;
    let gone = |w: &Followed| std::fs::remove_file(&w.path).unwrap();
    world.survives("missing", gone, &["No such file", "write the list there"]).await;
    let folder = |w: &Followed| {
        std::fs::remove_file(&w.path).unwrap();
        std::fs::create_dir(&w.path).unwrap();
        w.discover_says("it is a folder: put a regular file in its place");
        std::fs::remove_dir(&w.path).unwrap();
    };
    world.survives("a folder", folder, &["it is a folder"]).await;
    let pipe = |w: &Followed| {
        let pipe = w.world.dir.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        w.replace_by("pipe");
    };
    world.survives("a pipe", pipe, &["it is a device or a pipe"]).await;
    let link = |w: &Followed, to: &str| {
        std::os::unix::fs::symlink(to, w.world.dir.path().join("link")).unwrap();
        w.replace_by("link");
    };
    world.survives("zeros", |w| link(w, "/dev/zero"), &["it is a device or a pipe"]).await;
    world.survives("a loop", |w| link(w, "web.json"), &["symbolic link"]).await;
    world.survives("nowhere", |w| link(w, "nowhere"), &["No such file"]).await;
    if !rustix::process::geteuid().is_root() {
        let closed = |w: &Followed| {
            std::fs::set_permissions(&w.path, std::fs::Permissions::from_mode(0o000)).unwrap();
        };
        let says = ["let the user that discover runs as read it"];
        world.survives("unreadable", closed, &says).await;
    }
    stops_soon(&mut world.discover);
}

impl Followed {
    fn discover_says(&self, text: &str) {
        self.said_again(text, 0);
    }
}

/// A link that changes all the time between a good list and things that would hang a reader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_swapped_all_the_time_never_hangs_it_nor_mixes_lists_up() {
    let mut world = Followed::start("web.json", &["--slots", "5"]).await;
    let dir = world.world.dir.path().to_owned();
    rustix::fs::mknodat(CWD, dir.join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    std::fs::write(dir.join("good"), list("web.json", &[1, 2, 3])).unwrap();
    std::fs::write(dir.join("other"), list("web.json", &[1, 2, 3, 4])).unwrap();
    let targets = ["good", "pipe", "other", "/dev/zero", "nowhere"];
    let link = |to: &str| {
        std::os::unix::fs::symlink(to, dir.join("link")).unwrap();
        std::fs::rename(dir.join("link"), &world.path).unwrap();
    };
    let started = Instant::now();
    let mut swaps = 0;
    while started.elapsed() < soak(Duration::from_secs(2), Duration::from_secs(60)) {
        link(targets[swaps % targets.len()]);
        swaps += 1;
    }
    // What it says of each is what that one holds, and not what another held before.
    link("other");
    let four = [&THREE[..], &["4 ready 127.0.0.1:4"]].concat();
    world.world.becomes(&world.discover, &four).await;
    assert!(swaps > 100, "{swaps} swaps");
    stops_soon(&mut world.discover);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_pauses_in_the_middle_of_a_list_loses_nobody() {
    let world = Followed::start("web.yaml", &["--slots", "5"]).await;
    let history = History::start(&world.world.store).await;
    let readers = Readers::of(&world.path);
    for _ in 0..soak(3, 30) {
        for written in [&[1, 2][..], &[1, 2, 3]] {
            readers.wait_after(|| {
                std::fs::write(&world.path, list("web.yaml", written)).unwrap();
            });
        }
    }
    world.replace(list("web.yaml", &[1, 2, 3, 4]));
    let four = [&THREE[..], &["4 ready 127.0.0.1:4"]].concat();
    world.world.becomes(&world.discover, &four).await;
    assert_eq!(history.table_commits().await, 1, "{}", world.discover.tail());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_and_goes_every_second_moves_nobody() {
    let world = Followed::start("web.json", &["--slots", "5"]).await;
    let history = History::start(&world.world.store).await;
    let (before, _) = world.world.table().await;
    let rounds = soak(4, 60);
    for round in 0..rounds {
        let ports: &[u32] = if round % 2 == 0 { &[1, 3] } else { &[1, 2, 3] };
        world.replace(list("web.json", ports));
        // How long it is there or away: nothing is waited for.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (table, _) = world.world.table().await;
        assert_eq!((&table[0], &table[2]), (&before[0], &before[2]));
        // In the slot it always had, whatever it does there.
        assert!(table.len() == 3 && table[1].ends_with("127.0.0.1:2"), "{table:?}");
    }
    world.world.becomes(&world.discover, &THREE).await;
    assert!(history.table_commits().await <= rounds, "{}", history.table_commits().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_doubled_ids_and_addresses_one_counts_and_the_rest_are_told_in_short() {
    let mut world = Followed::start("web.json", &["--slots", "5"]).await;
    let doubled = |n: u32| format!("{{\"id\": \"127.0.0.1:1\", \"address\": \"127.0.1.1:{n}\"}}");
    let mut items: Vec<String> = vec!["\"127.0.0.1:1\"".into(), "\"127.0.0.1:2\"".into()];
    items.extend((1..5000).map(doubled));
    items.push("\"127.0.0.1:3\"".into());
    items.push("{\"id\": \"other\", \"address\": \"127.0.0.1:2\"}".into());
    world.replace(format!("[{}]", items.join(",\n")));
    world.discover.wait_for_log("id 127.0.0.1:1 is there twice, at 127.0.0.1:1 and 127.0.1.1:1");
    world.discover.wait_for_log("there are others like these: only 10 are told");
    world.discover.wait_for_log("1 endpoints have no slot");
    world.world.becomes(&world.discover, &THREE).await;
    let log = world.discover.log();
    assert!(log.matches("is there twice").count() <= 10, "{}", world.discover.tail());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_lines_fill_a_thousand_slots_and_the_rest_are_counted() {
    let world = World::sqlite().await;
    let history = History::start(&world.store).await;
    let address = |n: u32| format!("10.{}.{}.{}:80", n >> 16, n >> 8 & 255, n & 255);
    let text = list_of("web.json", (1..=100_000).map(address));
    let source = world.file("web.json", &text);
    let started = Instant::now();
    let mut discover = world.start("discover", &["--source", &source, "--slots", "1000"]);
    let what = format!("a thousand placed; {}", discover.tail());
    eventually_async(&what, async || {
        (world.store.list(&keys::slots(&web())).await.unwrap().entries.len() == 1000).then_some(())
    })
    .await;
    let placed = started.elapsed();
    discover.wait_for_log("99000 endpoints have no slot");
    // A thousand keys in batches, and no second go.
    assert!(history.table_commits().await <= 40, "{} commits", history.table_commits().await);
    let (log, status) = (discover.log(), world.spec().await.unplaced.len());
    assert!(log.len() < 256 * 1024, "{} bytes of log", log.len());
    assert!(log.lines().all(|line| line.len() < 1500) && status <= 500);
    let used = resident(&discover);
    let (commits, len) = (history.table_commits().await, log.len());
    eprintln!("placed after {placed:?} in {commits} commits; {used} bytes resident, {len} of log");
    assert!(used < 512 << 20, "{used} bytes resident");
    // A change in so long a list is taken in as well, and the stop is not held up by it.
    let longer = list_of("web.json", (1..=100_001).map(address));
    world.file("web.json", &longer);
    stops_soon(&mut discover);
}

/// The memory that a process holds.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn stops_soon(discover: &mut Process) {
    let asked = Instant::now();
    discover.signal("TERM");
    assert!(discover.wait().success(), "{}", discover.tail());
    // It takes some ten milliseconds, whatever is read or planned at that moment.
    assert!(asked.elapsed() < Duration::from_secs(1), "it took {:?}", asked.elapsed());
}
