//! discover and sync-haproxy in the places of HSDO's server and client, with HSDO's configuration as
//! it is: Auto Scaling groups, HSDO's table, a backend and its fallback.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Site;
use crate::support::haproxy::{Backend, Haproxy, Options};
use crate::support::{Cloud, Process, eventually, free_port, http_get};

struct Fleet {
    site: Site,
    cloud: Cloud,
    haproxy: Haproxy,
    /// HSDO's `conf/env.yaml`.
    file: PathBuf,
    near: String,
    far: String,
}

impl Fleet {
    /// With two instances in the group of this load balancer and one in another.
    fn start() -> Option<Self> {
        let (site, cloud) = (Site::start(0)?, Cloud::new()?);
        let backends = ["app", "rest"].map(|name| Backend::new(name, 6).prefix("srv"));
        let haproxy = Haproxy::start(Options::new(backends))?;
        let (near, far) = (cloud.group("near", 2), cloud.group("far", 1));
        let file = site.world.dir.path().join("env.yaml");
        let fleet = Self { site, cloud, haproxy, file, near, far };
        fleet.write(10, "");
        Some(fleet)
    }

    fn write(&self, max_weight: u32, more: &str) {
        let Self { site, haproxy, near, far, .. } = self;
        let (table, socket) = (&site.table, haproxy.socket_path().display().to_string());
        let text = format!(
            "SERVER_MODE: aws\nSERVER_ASG_NAMES: \"{near},{far}\"\n\
             SERVER_HAPROXY_BACKEND_SERVER_MAX_WEIGHT: {max_weight}\n\
             SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT: 5\n\
             SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT_INTERVAL: 1\n\
             HAPROXY_BACKEND_SERVERS_LIST_SIZE: 6\nDYNAMODB_TABLE_NAME: {table}\n\
             CLIENT_HAPROXY_SOCKET_PATH: {socket}\n\
             CLIENT_HAPROXY_BACKEND_LIST:\n  app: {{ baseName: srv, serverPort: \"8081\" }}\n\
             CLIENT_HAPROXY_BACKEND_SERVER_PORT: 8082\n\
             CLIENT_DEDICATED_ASG: \"true\"\nCLIENT_ASG_NAMES: {near}\n\
             CLIENT_HAPROXY_FALLBACK_BACKEND_NAME: rest\n\
             CLIENT_HAPROXY_FALLBACK_BACKEND_BASE_NAME: srv\n{more}"
        );
        std::fs::write(&self.file, text).unwrap();
    }

    /// A daemon with HSDO's configuration, and its exporter's port.
    fn run(&self, command: &str) -> (Process, u16) {
        let port = free_port();
        let variables = [("EXPORTER_PORT", port.to_string())];
        (self.start_with(command, "--hsdo-config", &self.file, &variables), port)
    }

    /// A daemon with a configuration of its own.
    fn run_own(&self, command: &str, file: &Path) -> Process {
        let variables = [
            ("LBCTL_DISCOVER_ADMIN", "off".to_owned()),
            ("LBCTL_SYNC_HAPROXY_ADMIN", "off".to_owned()),
        ];
        self.start_with(command, "--config", file, &variables)
    }

    fn start_with(
        &self,
        command: &str,
        flag: &str,
        file: &Path,
        variables: &[(&str, String)],
    ) -> Process {
        let mut process = self.site.command(&[command, flag]);
        let aws = format!("http://127.0.0.1:{}", self.cloud.moto.port());
        process.arg(file).envs(variables.iter().map(|(name, value)| (name, value)));
        process.env("AWS_ENDPOINT_URL_AUTO_SCALING", &aws).env("AWS_ENDPOINT_URL_EC2", &aws);
        process.env("LBCTL_DISCOVER_TTL", "2s");
        Process::start(command, self.site.world.dir.path(), &mut process)
    }

    /// HSDO's configuration as a file of lbctl's, without the lines that begin so in a section.
    fn written(&self, without: &[&str], section: &str) -> PathBuf {
        let mut show = self.site.command(&["config", "show", "--output", "toml", "--hsdo-config"]);
        let output = show.arg(&self.file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut within = false;
        let keep = |line: &&str| {
            if line.starts_with('[') {
                within = *line == format!("[{section}]");
            }
            !within || !without.iter().any(|start| line.starts_with(start))
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let kept: Vec<&str> = text.lines().filter(keep).collect();
        let path = self.site.world.dir.path().join("written.toml");
        std::fs::write(&path, kept.join("\n")).unwrap();
        path
    }

    /// Which place each server has, in both backends.
    fn places(&self) -> [BTreeMap<u32, (String, u32)>; 2] {
        ["app", "rest"].map(|backend| super::serving(&self.haproxy, backend))
    }

    /// Waits until the backend serves the instances of its groups and the fallback the others.
    fn serves(&self, said: impl Fn() -> String) {
        let of = |group: &str, port: u16| -> BTreeSet<(String, u32)> {
            let addresses = self.cloud.in_service(group).into_values();
            addresses.map(|ip| (format!("{ip}:{port}"), 10)).collect()
        };
        let wanted = (of(&self.near, 8081), of(&self.far, 8082));
        let serving =
            |backend: &str| super::serving(&self.haproxy, backend).into_values().collect();
        let what = format!("{wanted:?} in HAProxy");
        eventually(&format!("{what}\n{}", said()), || {
            ((serving("app"), serving("rest")) == wanted).then_some(())
        });
    }
}

#[test]
fn hsdos_configuration_makes_a_fleet_and_a_signal_reads_it_again() {
    let Some(fleet) = Fleet::start() else { return };
    let (mut discover, of_discover) = fleet.run("discover");
    let (mut sync, of_sync) = fleet.run("sync-haproxy");
    fleet.serves(|| discover.tail() + &sync.tail());
    let rows = fleet.site.rows();
    assert_eq!(rows.len(), 6, "{rows:?}");
    assert_eq!(fleet.site.held().iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [1, 2, 3]);
    for port in [of_discover, of_sync] {
        let metrics = http_get(port, "/metrics").unwrap();
        assert!(metrics.contains("hsdo_server_weight{"), "{metrics}");
    }
    fleet.cloud.scale(&fleet.near, 3);
    fleet.serves(|| discover.tail() + &sync.tail());

    fleet.write(10, "SERVER_HAPROXY_BACKEND_SERVER_MIN_WEIGHT: 20\n");
    discover.signal("HUP");
    discover.wait_for_log("MIN_WEIGHT: 20 is over SERVER_HAPROXY_BACKEND_SERVER_MAX_WEIGHT, 10");
    discover.wait_for_log("the old settings go on");
    fleet.write(5, "DEBUG: \"True\"\n");
    for daemon in [&mut discover, &mut sync] {
        daemon.signal("HUP");
        daemon.wait_for_log("changed: log.level is debug, was info");
    }
    discover.wait_for_log("changed: discover.max-weight is 5, was 10");
    end(discover);
    end(sync);
}

/// As docs/from-hsdo.md has it: first the load balancers, then discover.
#[test]
fn the_written_file_takes_over_and_leads_to_lbctls_own_table_without_a_move() {
    let Some(fleet) = Fleet::start() else { return };
    let (discover, _) = fleet.run("discover");
    let (sync, _) = fleet.run("sync-haproxy");
    fleet.serves(|| discover.tail() + &sync.tail());
    let places = fleet.places();
    end(sync);
    let own = fleet.written(&["table-layout", "hsdo-table", "table-poll"], "sync-haproxy");
    let sync = fleet.run_own("sync-haproxy", &own);
    fleet.cloud.scale(&fleet.far, 2);
    fleet.serves(|| discover.tail() + &sync.tail());
    end(discover);
    let own = fleet.written(&["table-layout", "hsdo-table"], "discover");
    let rows = fleet.site.rows();
    let discover = fleet.run_own("discover", &own);
    fleet.cloud.scale(&fleet.near, 3);
    fleet.serves(|| discover.tail() + &sync.tail());
    for (before, after) in places.iter().zip(fleet.places()) {
        assert!(before.iter().all(|(place, server)| after.get(place) == Some(server)));
    }
    assert_eq!(fleet.site.rows(), rows, "discover still writes HSDO's table");
    end(discover);
    end(sync);
}

fn end(mut daemon: Process) {
    daemon.signal("TERM");
    assert!(daemon.wait().success(), "{}", daemon.tail());
}
