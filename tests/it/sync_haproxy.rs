//! `sync_haproxy`.
