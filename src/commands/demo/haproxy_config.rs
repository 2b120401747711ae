//! The demo's HAProxy configuration: what a first one for lbctl looks like.

use std::path::Path;

/// Clients on `port`, a stats page on `stats_port`, ten places for servers, a socket of level admin.
pub(super) fn text(socket: &Path, port: u16, stats_port: u16) -> String {
    let socket = socket.display();
    format!(
        "\
global
  stats socket {socket} mode 600 level admin

defaults
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
  retries 3
  option redispatch 1

frontend clients
  bind 127.0.0.1:{port}
  default_backend web

backend web
  balance roundrobin
  server-template s 1-10 127.0.0.1:1 check inter 500ms send-proxy-v2 disabled

frontend stats
  mode http
  timeout client 10s
  bind 127.0.0.1:{stats_port}
  stats enable
  stats uri /
  stats refresh 2s
  stats hide-version
"
    )
}
