//! Keys that exist as long as this process does.
