//! HSDO's settings and their values as it is shipped.

/// A setting of HSDO, in its file and in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    /// Its value in HSDO's own `conf/env.yaml`; empty where it has none.
    pub shipped: &'static str,
}

macro_rules! variables {
    ($($name:ident = $shipped:literal;)*) => {
        $(pub const $name: Variable = Variable { name: stringify!($name), shipped: $shipped };)*

        pub const ALL: &[Variable] = &[$($name),*];
    };
}

variables! {
    SERVER_MODE = "";
    SERVER_ASG_NAMES = "";
    SERVER_CONSUL_API_URL = "";
    SERVER_CONSUL_SERVICE_NAME = "";
    SERVER_HAPROXY_BACKEND_SERVER_MIN_WEIGHT = "1";
    SERVER_HAPROXY_BACKEND_SERVER_MAX_WEIGHT = "10";
    SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT = "1";
    SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT_INTERVAL = "30";
    CLIENT_HAPROXY_SOCKET_PATH = "/var/run/haproxy/admin.sock";
    CLIENT_HAPROXY_BACKEND_LIST = "";
    CLIENT_HAPROXY_BACKEND_NAME = "";
    CLIENT_HAPROXY_BACKEND_BASE_NAME = "";
    CLIENT_HAPROXY_BACKEND_SERVER_PORT = "80";
    CLIENT_DEDICATED_ASG = "false";
    CLIENT_ASG_NAMES = "";
    CLIENT_HAPROXY_FALLBACK_BACKEND_NAME = "";
    CLIENT_HAPROXY_FALLBACK_BACKEND_BASE_NAME = "";
    CLIENT_ALL_SERVERS_IN_FALLBACK_BACKEND = "false";
    INTERVAL = "1";
    HAPROXY_BACKEND_SERVERS_LIST_SIZE = "10";
    DEBUG = "false";
    DYNAMODB_TABLE_NAME = "";
    AWS_DEFAULT_REGION = "eu-west-1";
    EXPORTER_PORT = "9000";
}
