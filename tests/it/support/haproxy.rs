//! A real HAProxy.
