//! HSDO's server is `lbctl discover`.

use std::time::Duration;

use super::given::Given;
use super::variable as var;
use super::variable::Variable;
use super::{Named, translate_common};
use crate::config::{Layer, Origin};
use crate::model::{SlotNumber, Weight, format_duration};

/// The section that the server's settings become. Its values stand at the section and not at the
/// backend, so that lbctl's variables win over them.
const SECTION: &str = "discover";

const SOURCE: &str = "discover.source";

/// HSDO loops without a pause where it is told to; the sources are asked once a second at most.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

pub fn translate(given: &Given, named: &Named, layer: &mut Layer) {
    if given.differs("SERVER_") {
        layer.speak_of(SECTION);
    }
    named.set("discover.backends[0].name", layer);
    translate_source(given, layer);
    translate_slots(given, layer);
    translate_ramp(given, layer);
    translate_common(given, SECTION, ("interval", LEAST_INTERVAL), layer);
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
    // To lbctl's source a backslash may keep a comma, which HSDO's names have none of.
    let names: Vec<String> = names.iter().map(|name| name.replace('\\', r"\\")).collect();
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

fn translate_slots(given: &Given, layer: &mut Layer) {
    let (size, path) = (var::HAPROXY_BACKEND_SERVERS_LIST_SIZE, "discover.slots");
    if let Some((slots, origin)) = given.number(size, 1..=SlotNumber::MAX.get(), path, layer) {
        layer.set(path, slots, origin);
    }
}

fn translate_ramp(given: &Given, layer: &mut Layer) {
    let [min, max, step] = [
        // From 1 on: in HSDO's table 0 is the weight of a slot that is free, or drains.
        (var::SERVER_HAPROXY_BACKEND_SERVER_MIN_WEIGHT, 1, "min-weight"),
        (var::SERVER_HAPROXY_BACKEND_SERVER_MAX_WEIGHT, 1, "max-weight"),
        (var::SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT, 0, "weight-step"),
    ]
    .map(|(variable, least, name)| weight(given, variable, least, name, layer));
    translate_step_time(given, layer);
    if let (Some((min, origin)), Some((max, _))) = (&min, &max)
        && min > max
    {
        let name = var::SERVER_HAPROXY_BACKEND_SERVER_MAX_WEIGHT.name;
        let problem = format!("{min} is over {name}, {max}, and HSDO then raises no weight");
        layer.contradiction("discover.max-weight", origin, problem);
    }
    let (Some((min, origin)), Some((mut max, max_origin)), Some((step, step_origin))) =
        (min, max, step)
    else {
        return;
    };
    if step == 0 {
        let warning =
            format!("is 0, so that no weight grows, as with HSDO: every server is at {min}");
        layer.warn("discover.max-weight", &step_origin, warning);
        max = min;
    }
    layer.set("discover.min-weight", min, origin);
    layer.set("discover.max-weight", max, max_origin);
    layer.set("discover.weight-step", step.max(1), step_origin);
}

/// HSDO cuts a fraction off, and takes one step a loop where nothing is left.
fn translate_step_time(given: &Given, layer: &mut Layer) {
    let variable = var::SERVER_HAPROXY_BACKEND_SERVER_INCREASE_WEIGHT_INTERVAL;
    let path = "discover.weight-interval";
    let Some((time, origin)) = given.seconds(variable, path, layer) else { return };
    let whole = Duration::from_secs(time.as_secs());
    let mut quiet = Layer::default();
    let pause = given.interval(LEAST_INTERVAL, path, &mut quiet);
    let step = match (whole.is_zero(), pause) {
        (true, Some((pause, _))) => pause,
        _ => whole.max(LEAST_INTERVAL),
    };
    if step != time {
        let (time, step) = (format_duration(time), format_duration(step));
        layer.warn(path, &origin, format!("is {time}, which HSDO takes for {step}, and so here"));
    }
    layer.set(path, format_duration(step), origin);
}

/// A weight or a step of weights. HAProxy refuses more than its greatest, which HSDO does not see.
fn weight(
    given: &Given,
    variable: Variable,
    least: u32,
    name: &str,
    layer: &mut Layer,
) -> Option<(u32, Origin)> {
    let (path, most) = (format!("{SECTION}.{name}"), u32::from(Weight::MAX.get()));
    let (number, origin) = given.number(variable, least..=u32::MAX, &path, layer)?;
    if number > most && name == "max-weight" {
        let warning = format!("is {number}, and HAProxy takes no weight over {most}: it is {most}");
        layer.warn(&path, &origin, warning);
    }
    Some((number.min(most), origin))
}
