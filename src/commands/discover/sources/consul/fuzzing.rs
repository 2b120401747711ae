use super::answer::Found;
use super::settings::Health;
use super::target::Wanted;
use crate::commands::discover::plan::Answer;
use crate::model::Weight;

/// Reads an answer of a Consul that was asked for all that is not critical: how many instances it
/// has of these, and what is made of them.
pub fn read(data: &[u8]) -> Option<(usize, Answer)> {
    let wanted = Wanted { health: Health::Warning, tags: Vec::new() };
    let found = Found::read(&"web".parse().ok()?, &wanted, data).ok()?;
    let list: Vec<serde_json::Value> = serde_json::from_slice(data).ok()?;
    let serves =
        |check: &serde_json::Value| matches!(check["Status"].as_str(), Some("passing" | "warning"));
    let asked_for = |instance: &&serde_json::Value| {
        instance["Checks"].as_array().into_iter().flatten().all(serves)
    };
    let asked_for = list.iter().filter(asked_for).count();
    Some((asked_for, Found::merge([&found].into_iter(), Weight::MAX)))
}
