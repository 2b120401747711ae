//! The program itself.

use std::process::{Command, Stdio};

use super::report::{Report, Row, Target, Unit};
use super::samples::{in_turn, time};
use super::support::lbctl;

pub fn measure(report: &mut Report) {
    #[expect(clippy::cast_precision_loss, reason = "far under 2^52")]
    let size = std::fs::metadata(lbctl()).unwrap().len() as f64 / 1e6;
    let (what, target) = ("size of the stripped program".into(), Target::AtMost(25.0));
    report.add(Row { what, unit: Unit::Megabytes, figure: size, peer: None, target });
    let run = |program: &std::path::Path| {
        time(|| {
            let status =
                Command::new(program).arg("--version").stdout(Stdio::null()).status().unwrap();
            assert!(status.success());
        })
    };
    let (ours, peer) = in_turn(200, || run(&lbctl()), || run("true".as_ref()));
    let (what, target) = ("`lbctl --version`, beside `true`".into(), Target::AtMost(10.0));
    let (figure, peer) = (ours.median(), Some(peer.median()));
    report.add(Row { what, unit: Unit::Milliseconds, figure, peer, target });
}
