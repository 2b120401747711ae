//! How fast lbctl is: each figure stands beside that of a peer in the same run, the barest program
//! that does the same, so that a busy machine slows both alike. A missed target is shouted, yet it
//! is no failure: a bench is no test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench is a program for people, and one that cannot go on ends"
)]

mod backends;
mod bare;
mod binary;
mod fixture;
mod groups;
mod idle;
mod latency;
mod passes;
mod planner;
mod report;
mod samples;
mod sessions;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use report::Report;

/// What can be picked by name, and how it is measured.
type Section = (&'static str, fn(&mut Report));

const SECTIONS: [Section; 9] = [
    ("passes", passes::every_slot),
    ("small", passes::little_or_nothing),
    ("latency", latency::measure),
    ("idle", idle::measure),
    ("backends", backends::measure),
    ("groups", groups::measure),
    ("planner", planner::measure),
    ("sessions", sessions::measure),
    ("binary", binary::measure),
];

fn main() {
    // `cargo bench` adds a flag of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if words.first().is_some_and(|word| word == sessions::ECHO) {
        return sessions::echo_server();
    }
    let json = words.iter().any(|word| word == "--json");
    let names: Vec<&str> =
        words.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    if let Some(unknown) =
        names.iter().find(|name| SECTIONS.iter().all(|(known, _)| known != *name))
    {
        let known: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        eprintln!("nothing is called {unknown}: there are {} and --json", known.join(", "));
        return;
    }
    let mut report = Report::new(json);
    for (name, measure) in SECTIONS {
        if names.is_empty() || names.contains(&name) {
            report.section(name);
            measure(&mut report);
        }
    }
    report.print();
}
