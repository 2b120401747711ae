//! `haproxy`.
