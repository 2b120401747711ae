use std::fmt::Write as _;

use serde_json::json;

/// What is measured in one unit.
#[derive(Debug, Clone, Copy)]
pub enum Unit {
    Milliseconds,
    Percent,
    Megabytes,
    Bytes,
    PerSecond,
    Count,
    Hundredths,
}

impl Unit {
    fn show(self, figure: f64) -> String {
        match self {
            Self::Milliseconds if figure < 10.0 => format!("{figure:.2} ms"),
            Self::Milliseconds => format!("{figure:.1} ms"),
            Self::Percent => format!("{figure:.3} %"),
            Self::Megabytes => format!("{figure:.1} MB"),
            Self::Bytes => format!("{figure:.0} B"),
            Self::PerSecond => format!("{figure:.0}/s"),
            Self::Count => format!("{figure:.0}"),
            Self::Hundredths => format!("{figure:.2}"),
        }
    }
}

/// What a figure is to be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtMost(f64),
    /// So many times the peer's.
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// So much more than the peer's.
    AboveAtMost(f64),
    /// For information.
    None,
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    pub what: String,
    pub unit: Unit,
    pub figure: f64,
    pub peer: Option<f64>,
    pub target: Target,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.peer.map(|peer| self.figure / peer)
    }

    fn is_met(&self) -> Option<bool> {
        let (figure, peer) = (self.figure, self.peer.unwrap_or(f64::NAN));
        match self.target {
            Target::AtMost(most) => Some(figure <= most),
            Target::RatioAtMost(most) => Some(figure / peer <= most),
            Target::RatioAtLeast(least) => Some(figure / peer >= least),
            Target::AboveAtMost(most) => Some(figure - peer <= most),
            Target::None => None,
        }
    }

    fn target(&self) -> String {
        match self.target {
            Target::AtMost(most) => format!("≤ {}", self.unit.show(most)),
            Target::RatioAtMost(most) => format!("≤ {most} ×"),
            Target::RatioAtLeast(least) => format!("≥ {least} ×"),
            Target::AboveAtMost(most) => format!("≤ peer + {}", self.unit.show(most)),
            Target::None => "–".into(),
        }
    }

    fn cells(&self) -> [String; 6] {
        [
            self.what.clone(),
            self.unit.show(self.figure),
            self.peer.map_or("–".into(), |peer| self.unit.show(peer)),
            self.ratio().map_or("–".into(), |ratio| format!("{ratio:.2}")),
            self.target(),
            match self.is_met() {
                Some(true) => "met".into(),
                Some(false) => "**MISSED**".into(),
                None => "–".into(),
            },
        ]
    }
}

/// Every figure of a run.
#[derive(Debug)]
pub struct Report {
    json: bool,
    section: &'static str,
    rows: Vec<Row>,
}

const HEADER: [&str; 6] = ["what", "lbctl", "peer", "ratio", "target", ""];

impl Report {
    /// `json` prints a line of JSON a figure in place of the table.
    pub fn new(json: bool) -> Self {
        Self { json, section: "", rows: Vec::new() }
    }

    pub fn section(&mut self, name: &'static str) {
        self.section = name;
    }

    /// Takes a figure, and shows it at once on stderr: the whole takes minutes.
    pub fn add(&mut self, row: Row) {
        eprintln!("{}: {}", self.section, row.cells().join(" | "));
        if self.json {
            let (ratio, met) = (row.ratio(), row.is_met());
            let Row { what, figure, peer, .. } = &row;
            let unit = format!("{:?}", row.unit).to_lowercase();
            println!(
                "{}",
                json!({
                    "section": self.section, "what": what, "figure": figure, "unit": unit,
                    "peer": peer, "ratio": ratio, "target": row.target(), "met": met,
                })
            );
        }
        self.rows.push(row);
    }

    /// A Markdown table, so that it can be kept.
    pub fn print(&self) {
        if !self.json {
            println!("{}", self.table());
        }
        let missed = self.rows.iter().filter(|row| row.is_met() == Some(false)).count();
        if missed > 0 {
            eprintln!("{missed} of {} figures MISSED their target", self.rows.len());
        }
    }

    fn table(&self) -> String {
        let cells: Vec<[String; 6]> = self.rows.iter().map(Row::cells).collect();
        let width = |column: usize| {
            let long = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            long.max(HEADER[column].len())
        };
        let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
        let line = |cells: &[String; 6]| {
            let padded =
                cells.iter().zip(&widths).map(|(cell, &width)| format!(" {cell:width$} |"));
            format!("|{}", padded.collect::<String>())
        };
        let mut text = line(&HEADER.map(str::to_owned));
        let rule: String = widths.iter().map(|width| "-".repeat(width + 2) + "|").collect();
        write!(text, "\n|{rule}").unwrap();
        for row in &cells {
            write!(text, "\n{}", line(row)).unwrap();
        }
        text
    }
}
