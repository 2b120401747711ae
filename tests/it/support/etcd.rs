//! A real etcd.
