use std::fmt;
use std::str::FromStr;

use crate::aws::RegionName;
use crate::config::{Flags, Kind, Reader, choice_setting, from_str_setting, named};

/// How a backend's table lies in a database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TableLayout {
    /// In lbctl's own store
    #[default]
    Lbctl,
    /// In HSDO's table too, so that its servers and clients run beside lbctl's
    Hsdo,
}

/// A table of DynamoDB.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName(String);

/// Where HSDO's table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePlace {
    pub table: TableName,
    /// Before `AWS_REGION`, the profile and the instance's own region.
    pub region: Option<RegionName>,
}

/// The flags for the layout.
#[derive(Debug, Clone, clap::Args)]
pub struct LayoutFlags {
    /// How the table lies in the database [default: lbctl]
    #[arg(long, value_name = "LAYOUT", help_heading = "HSDO's table")]
    table_layout: Option<TableLayout>,

    /// HSDO's table in DynamoDB: its DYNAMODB_TABLE_NAME
    #[arg(long, value_name = "NAME", help_heading = "HSDO's table")]
    hsdo_table: Option<String>,
}

impl LayoutFlags {
    /// As settings under a path.
    pub fn set(&self, base: &str, flags: Flags) -> Flags {
        let Self { table_layout, hsdo_table } = self;
        flags.all(base, named![table_layout, hsdo_table])
    }
}

impl TablePlace {
    /// HSDO's table, where the layout set under a path is HSDO's; what contradicts is told.
    pub fn of(
        reader: &mut Reader,
        base: &str,
        layout: TableLayout,
        table: Option<TableName>,
        region: Option<RegionName>,
    ) -> Option<Self> {
        match (layout, table) {
            (TableLayout::Hsdo, Some(table)) => Some(Self { table, region }),
            (TableLayout::Hsdo, None) => {
                let message =
                    "table-layout = \"hsdo\" needs the name of HSDO's table: set hsdo-table";
                reader.problem(&format!("{base}.table-layout"), message);
                None
            }
            (TableLayout::Lbctl, Some(table)) => {
                reader.warn(&format!(
                    "hsdo-table = \"{table}\" does nothing without table-layout = \"hsdo\""
                ));
                None
            }
            (TableLayout::Lbctl, None) => None,
        }
    }
}

impl TableName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TableName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if !(3..=255).contains(&text.len()) || !text.chars().all(allowed) {
            return Err(format!(
                "{text:?} is not a table of DynamoDB (3 to 255 letters, digits, _ - or .)"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

from_str_setting! { TableName: [Kind::Text]; }
choice_setting!(TableLayout);
