//! runnerctl: see and steer a running runner-master.

use std::process::ExitCode;

use clap::Parser;
use runner::client;

fn main() -> ExitCode {
    ExitCode::from(client::run(client::cli::Cli::parse()))
}
