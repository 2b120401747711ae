//! Servers that announce themselves: writing a registration, leaving, and reading a registry.
