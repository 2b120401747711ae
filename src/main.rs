//! The `lbctl` binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    lbctl::cli::main()
}
