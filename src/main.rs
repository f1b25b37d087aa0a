//! The command `tessera`: see `tessera --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tessera::cli::main()
}
