//! A program that embeds a node: `hello NAME IP:PORT [IP:PORT of any other node]...`
use std::time::Duration;

use polity::{Node, Preset};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or("n1".into());
    let listen = args.next().unwrap_or("127.0.0.1:7001".into());
    let node = Node::builder(&name).cluster("hello").preset(Preset::Local).listen(listen).seeds(args).start().await?;
    node.kv().put("newest", name).await?;

    let mut changes = node.members().subscribe();
    loop {
        tokio::select! {
            _ = changes.next() => {
                let up: Vec<_> = node.members().snapshot().up().map(|member| member.id.name.to_string()).collect();
                let newest = node.kv().get("newest").await.map(|entry| entry.value().cloned());
                println!("up: {up:?}, newest: {newest:?}");
            }
            _ = tokio::signal::ctrl_c() => return Ok(node.leave(Duration::from_secs(10)).await?),
        }
    }
}
