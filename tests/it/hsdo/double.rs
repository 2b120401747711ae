//! HSDO's server and client as far as others notice them: what they read, decide, write and send.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aws_sdk_dynamodb::Client as Dynamo;
use jiff::Zoned;
use jiff::civil::DateTime;
use tokio::runtime::{Builder, Runtime};

use super::{Instance, Row, Running};

/// HSDO's INTERVAL, five times as fast.
const INTERVAL: Duration = Duration::from_millis(200);

/// Its ramp, as that of discover: from 1 to 10, a step at a time.
const MAX_WEIGHT: u32 = 10;
const WEIGHT_INTERVAL: jiff::SignedDuration = jiff::SignedDuration::from_millis(300);

/// Python's `str(datetime.now())`.
pub fn now() -> String {
    let now = Zoned::now();
    let whole = now.strftime("%Y-%m-%d %H:%M:%S").to_string();
    match now.subsec_nanosecond() / 1000 {
        0 => whole,
        micros => format!("{whole}.{micros:06}"),
    }
}

/// A loop in a thread of its own, ended on drop.
struct Loop {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Loop {
    fn start(mut turn: impl FnMut(&Runtime) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            while !stopped.load(Ordering::SeqCst) {
                turn(&runtime);
                #[expect(clippy::disallowed_methods, reason = "HSDO's own pace")]
                std::thread::sleep(INTERVAL);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.expect("HSDO's loop");
        }
    }
}

/// Every row, in the order of a scan, page by page.
fn scan(runtime: &Runtime, client: &Dynamo, table: &str) -> Vec<Row> {
    let request = client.scan().table_name(table).into_paginator().items().send();
    let items = runtime.block_on(request.collect::<Result<Vec<_>, _>>()).unwrap();
    items.iter().filter_map(Row::read).collect()
}

/// HSDO's server; it stops when it is dropped.
pub struct Server(#[expect(dead_code, reason = "it ends when it is dropped")] Loop);

impl Server {
    pub fn start(client: Dynamo, table: &str, size: u32, running: Running) -> Self {
        let (table, mut old) = (table.to_owned(), Vec::new());
        Self(Loop::start(move |runtime| {
            let source = running.lock().unwrap().clone();
            let mut rows = scan(runtime, &client, &table);
            assert!(rows.len() <= size as usize, "HSDO's server ends where rows are too many");
            for id in rows.len() as u32 + 1..=size {
                let row = Row::free(id);
                let request = client.put_item().table_name(&table).set_item(Some(row.to_item()));
                runtime.block_on(request.send()).unwrap();
                rows.push(row);
            }
            remove(&mut rows, &source);
            add(&mut rows, source);
            ramp(&mut rows);
            for row in rows.iter().filter(|row| !old.contains(*row)) {
                update(runtime, &client, &table, row);
            }
            old = rows;
        }))
    }
}

/// All attributes, whatever stands there by now.
fn update(runtime: &Runtime, client: &Dynamo, table: &str, row: &Row) {
    let mut item = row.to_item();
    let key = item.remove("BackendServerID").unwrap();
    let set: Vec<String> = item.keys().map(|name| format!("{name} = :{name}")).collect();
    let values = item.into_iter().map(|(name, value)| (format!(":{name}"), value)).collect();
    let request = client.update_item().table_name(table).key("BackendServerID", key);
    let request = request.update_expression(format!("SET {}", set.join(", ")));
    runtime.block_on(request.set_expression_attribute_values(Some(values)).send()).unwrap();
}

fn remove(rows: &mut [Row], source: &[Instance]) {
    for row in rows.iter_mut().filter(|row| row.status != "disabled") {
        if !source.iter().any(|instance| instance.ip == row.ip) {
            *row = Row::free(row.id);
        }
    }
}

/// The last of the source first, each into the first free row of the scan.
fn add(rows: &mut [Row], source: Vec<Instance>) {
    let mut source: VecDeque<Instance> = source.into();
    while let Some(instance) = source.pop_back() {
        if rows.iter().any(|row| row.ip == instance.ip) {
            continue;
        }
        if let Some(row) = rows.iter_mut().find(|row| row.ip == "none") {
            *row = Row::of(row.id, &instance, 1);
        }
    }
}

fn ramp(rows: &mut [Row]) {
    for row in rows.iter_mut().filter(|row| (1..MAX_WEIGHT).contains(&row.weight)) {
        let updated: DateTime = row.updated.parse().unwrap();
        if Zoned::now().datetime().duration_since(updated) > WEIGHT_INTERVAL {
            row.weight += 1;
            row.updated = now();
        }
    }
}

/// HSDO's client for the backend `app`; it stops when it is dropped.
pub struct Client(#[expect(dead_code, reason = "it ends when it is dropped")] Loop);

impl Client {
    pub fn start(client: Dynamo, table: &str, socket: PathBuf) -> Self {
        let table = table.to_owned();
        Self(Loop::start(move |runtime| {
            for row in scan(runtime, &client, &table) {
                commands(&row).iter().for_each(|command| send(&socket, command));
            }
        }))
    }
}

/// What it sends for a row, whatever HAProxy has.
fn commands(row: &Row) -> Vec<String> {
    let server = format!("set server app/srv{}", row.id);
    if row.ip == "none" {
        return vec![format!("{server} state maint")];
    }
    vec![
        format!("{server} addr {} port 80", row.ip),
        format!("{server} weight {}", row.weight),
        format!("{server} state ready"),
    ]
}

/// A connection a command, and nobody reads what HAProxy thinks of it.
fn send(socket: &Path, command: &str) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(format!("{command}\n").as_bytes()).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}
