//! What commands print on stdout: the result and nothing else, in a form for people or for programs.

use std::io::{ErrorKind, Write as _};
use std::ops::ControlFlow;
use std::time::Duration;

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::error::{CommandError, CommandResult};

/// The form of a command's result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people: aligned columns, coloured on a terminal.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Writes bytes to stdout as they are; `Break` once nobody reads any more, which is no failure.
pub fn write(bytes: &[u8]) -> CommandResult<ControlFlow<()>> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(unwritten(error)),
    }
}

/// Waits until nobody reads stdout any more; a program that waits for events would never notice by
/// writing.
pub async fn reader_is_gone(check: Duration) {
    loop {
        tokio::time::sleep(check).await;
        let stdout = std::io::stdout();
        // A pipe without a reader is in error, whatever else is asked of it.
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        let asked = poll(&mut polled, Some(&Timespec::default()));
        if asked.is_ok() && polled[0].revents().contains(PollFlags::ERR) {
            return;
        }
    }
}

/// Writes text to stdout; colours only reach a terminal, and a closed pipe is a success.
pub fn print(text: &str) -> CommandResult {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(unwritten(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn unwritten(error: std::io::Error) -> CommandError {
    CommandError::from(error).context("cannot write to stdout")
}

/// Writes a value as JSON, indented, with a newline.
pub fn print_json(value: &impl Serialize) -> CommandResult {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::new)?;
    print(&format!("{text}\n"))
}

/// Writes a value as one line of JSON: for streams.
pub fn print_json_line(value: &impl Serialize) -> CommandResult {
    let text = serde_json::to_string(value).map_err(anyhow::Error::new)?;
    print(&format!("{text}\n"))
}

/// An empty table in the project's look: no lines, two spaces between columns.
pub fn table<const N: usize>(columns: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .enforce_styling()
        .set_header(columns.map(|column| Cell::new(column).fg(Color::DarkGrey)));
    table.style_text_only();
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A table as text, without the blanks that pad its last column.
pub fn render(table: &Table) -> String {
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_plain_columns_without_trailing_blanks() {
        let mut table = table(["SLOT", "STATE"]);
        table.add_row(["1", "ready"]);
        table.add_row(["10", "x"]);
        let plain = anstream::adapter::strip_str(&render(&table)).to_string();
        assert_eq!(plain, "SLOT  STATE\n1     ready\n10    x\n");
    }
}
