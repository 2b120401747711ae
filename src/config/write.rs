//! Settings as a file that sets them.

use std::fmt::Write as _;

use super::{Effective, Origin};
use crate::text::one_line;

/// Writes what is set, with where it came from, as a TOML file that means the same.
pub fn as_toml(settings: &[Effective]) -> String {
    let mut text = String::new();
    for (table, members) in tables(settings) {
        let header = header(table);
        let start = if text.is_empty() { "" } else { "\n" };
        // Writing to a String cannot fail.
        _ = writeln!(text, "{start}{header}");
        for setting in members {
            _ = writeln!(text, "{}", line(setting));
        }
    }
    text
}

/// The settings that are set, under the path of the table that each stands in; the members of lists
/// behind their section's own.
fn tables(settings: &[Effective]) -> Vec<(&str, Vec<&Effective>)> {
    let mut tables: Vec<(&str, Vec<&Effective>)> = Vec::new();
    let is_set = |s: &&Effective| s.value.is_some() && s.origin != Origin::Default;
    for setting in settings.iter().filter(is_set) {
        let Some((table, _)) = setting.path.rsplit_once('.') else { continue };
        // Mostly the last one: a table's settings are read one after the other.
        match tables.iter_mut().rev().find(|(path, _)| *path == table) {
            Some((_, members)) => members.push(setting),
            None => tables.push((table, vec![setting])),
        }
    }
    let mut sections: Vec<&str> = Vec::new();
    for (table, _) in &tables {
        let section = section(table);
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    let place = |table: &str| sections.iter().position(|s| *s == section(table));
    tables.sort_by_key(|(table, _)| (place(table), table.contains('[')));
    tables
}

fn section(table: &str) -> &str {
    table.split(['.', '[']).next().unwrap_or(table)
}

fn header(table: &str) -> String {
    match table.split_once('[') {
        Some((list, _)) => format!("[[{list}]]"),
        None => format!("[{table}]"),
    }
}

fn line(setting: &Effective) -> String {
    let name = setting.path.rsplit_once('.').map_or("", |(_, name)| name);
    let from = setting.origin.to_string();
    let from = one_line(&from);
    match &setting.written {
        Some(value) => format!("{name} = {value} # {from}"),
        None => format!(
            "# {name} has a secret, which is not shown: set it here or where it was, {from}"
        ),
    }
}
