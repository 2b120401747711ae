//! HSDO's server is `lbctl discover`.

use super::given::Given;
use super::variable as var;
use super::variable::Variable;
use super::{BACKEND, translate_common};
use crate::config::{Layer, Origin};
use crate::model::SlotNumber;

/// The section that the server's settings become. Its values stand at the section and not at the
/// backend, so that lbctl's variables win over them.
const SECTION: &str = "discover";

const SOURCE: &str = "discover.source";

pub fn translate(given: &Given, layer: &mut Layer) {
    if given.differs("SERVER_") {
        layer.speak_of(SECTION);
    }
    let (_, origin) = given.value(var::SERVER_MODE);
    layer.set("discover.backends[0].name", BACKEND, origin);
    translate_source(given, layer);
    set_number(
        given,
        var::HAPROXY_BACKEND_SERVERS_LIST_SIZE,
        SlotNumber::MAX.get(),
        "slots",
        layer,
    );
    translate_ramp(given, layer);
    translate_common(given, SECTION, "interval", layer);
}

fn translate_source(given: &Given, layer: &mut Layer) {
    let Some((mode, origin)) = given.text(var::SERVER_MODE, SOURCE, layer) else { return };
    match mode.as_str() {
        "aws" => translate_groups(given, layer),
        "consul" => translate_consul(given, layer),
        "" => layer.contradiction(SOURCE, &origin, "is not set: it is aws or consul"),
        other => layer.mistake(SOURCE, &origin, format!("{other:?} is neither aws nor consul")),
    }
}

fn translate_groups(given: &Given, layer: &mut Layer) {
    let Some((names, origin)) = given.names(var::SERVER_ASG_NAMES, SOURCE, layer) else { return };
    // AWS allows none in a name, and to lbctl's source it would mean a region or a tag.
    if let Some(name) = names.iter().find(|name| name.contains(':')) {
        let problem = format!("{name:?} has a colon, which no Auto Scaling group's name has");
        return layer.mistake(SOURCE, &origin, problem);
    }
    set_source(layer, "asg", &names, origin, "name the Auto Scaling groups");
}

fn translate_consul(given: &Given, layer: &mut Layer) {
    if let Some((names, origin)) = given.names(var::SERVER_CONSUL_SERVICE_NAME, SOURCE, layer) {
        set_source(layer, "consul", &names, origin, "name the services");
    }
    let path = "discover.consul-address";
    let Some((address, origin)) = given.text(var::SERVER_CONSUL_API_URL, path, layer) else {
        return;
    };
    match address.is_empty() {
        true => layer.contradiction(path, &origin, "is not set: give Consul's URL"),
        false => layer.set(path, address, origin),
    }
}

fn set_source(layer: &mut Layer, kind: &str, names: &[String], origin: Origin, remedy: &str) {
    match names {
        [] => {
            let problem = format!("is empty: {remedy}, separated by commas");
            layer.contradiction(SOURCE, &origin, problem);
        }
        names => layer.set(SOURCE, format!("{kind}:{}", names.join(",")), origin),
    }
}

fn translate_ramp(given: &Given, layer: &mut Layer) {
    // From 1 on: in HSDO's table 0 is the weight of a slot that is free, or drains.
    let min = set_weight(given, var::SERVER_HAPROXY_BACKEND_SERVER_MIN_WEIGHT, "min-weight", layer);
    let max = set_weight(given, var::SERVER_HAPROXY_BACKEND_SERVER_MAX_WEIGHT, "max-weight", layer);
    let step = var::SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT;
    set_weight(given, step, "weight-step", layer);
    let interval = var::SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT_INTERVAL;
    given.set_seconds(interval, "discover.weight-interval", layer);
    if let (Some((min, origin)), Some((max, _))) = (min, max)
        && min > max
    {
        let name = var::SERVER_HAPROXY_BACKEND_SERVER_MAX_WEIGHT.name;
        layer.contradiction("discover.max-weight", &origin, format!("{min} is over {name}, {max}"));
    }
}

fn set_weight(
    given: &Given,
    variable: Variable,
    name: &str,
    layer: &mut Layer,
) -> Option<(u32, Origin)> {
    set_number(given, variable, 256, name, layer)
}

fn set_number(
    given: &Given,
    variable: Variable,
    most: u32,
    name: &str,
    layer: &mut Layer,
) -> Option<(u32, Origin)> {
    let path = format!("{SECTION}.{name}");
    let (number, origin) = given.number(variable, 1..=most, &path, layer)?;
    layer.set(path, number, origin.clone());
    Some((number, origin))
}
