use std::fmt;

/// A HAProxy version, and all that differs between versions for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// Reads `2.6.12-1+deb12u4` or `3.5-dev2`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split(|c: char| !c.is_ascii_digit());
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        Some(Self { major, minor })
    }

    /// The oldest version with `add server` outside of its experimental mode (76e8b70e4).
    pub const DYNAMIC_SERVERS: Self = Self { major: 2, minor: 6 };

    /// `set server addr` returns before it is carried out, so that the new address must be seen
    /// before the server is made ready ("server_atomic_sync_task will apply the changes for us").
    pub fn sets_addresses_later(self) -> bool {
        self >= Self { major: 2, minor: 9 }
    }

    pub fn has_dynamic_servers(self) -> bool {
        self >= Self::DYNAMIC_SERVERS
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_every_packaging_read() {
        for (text, major, minor) in [
            ("2.6.12-1+deb12u4", 2, 6),
            ("3.0.11-1+deb13u3", 3, 0),
            ("3.4.7-1", 3, 4),
            ("3.5-dev2-aaaa", 3, 5),
            ("2.10", 2, 10),
        ] {
            assert_eq!(Version::parse(text), Some(Version { major, minor }), "{text}");
        }
        for text in ["", "x", "3", ".4", "99999999999.1"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_set_later_from_2_9_on() {
        let later = |text| Version::parse(text).unwrap().sets_addresses_later();
        assert!(!later("2.8.9") && later("2.9.0") && later("2.10.0") && later("3.0.1"));
    }
}
