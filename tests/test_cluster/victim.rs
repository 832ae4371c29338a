//! A program that starts a test cluster and waits to be killed. The suite of the test cluster
//! starts it, kills it, and checks that nothing is left behind.

use anyhow::{Result, bail};
use blackbox::{ApiCluster, NodeCluster};

#[expect(clippy::print_stdout, reason = "the test reads the folder from standard output")]
fn main() -> Result<()> {
    let kind = std::env::args().nth(1);
    match kind.as_deref() {
        Some("api") => {
            let api = ApiCluster::start()?;
            let scratch = api.scratch().map(|scratch| scratch.path().display().to_string());
            println!("victim {}", scratch.unwrap_or_default());
            std::thread::park();
        }
        Some("node") => {
            let node = NodeCluster::temporary()?;
            node.up()?;
            let run = node.network_handle().parent().map(|run| run.display().to_string());
            println!("victim {}", run.unwrap_or_default());
            std::thread::park();
        }
        _ => bail!("usage: victim api|node"),
    }
    Ok(())
}
