//! `polity-sim`: see [`polity_sim::cli`].

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<ExitCode> {
    // `RUST_LOG=polity_kv=debug polity-sim run ...` shows what the nodes say.
    if std::env::var_os(EnvFilter::DEFAULT_ENV).is_some() {
        tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let status = polity_sim::cli::main(&args, &mut std::io::stdout())?;
    Ok(ExitCode::from(status))
}
