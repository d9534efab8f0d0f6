//! A chat: `chat NAME IP:PORT [IP:PORT of any other node]...`, and a line of input is a message to all.
//!
//! What is said goes through a topic, and presence tells who is there to hear it.
use std::time::Duration;

use polity::{Node, PresenceEvent, Preset, TopicEvent};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or("ada".into());
    let listen = args.next().unwrap_or("127.0.0.1:7001".into());
    let node = Node::builder(&name).cluster("chat").preset(Preset::Local).listen(listen).seeds(args).start().await?;

    let room = node.topic::<String>("room")?;
    let (mut said, mut input) = (room.subscribe()?, BufReader::new(stdin()).lines());
    let people = node.presence::<()>("room")?;
    let mut changes = people.subscribe();
    let _here = people.track(&name, &())?;

    loop {
        tokio::select! {
            event = said.next() => match event {
                TopicEvent::Received { publisher, value, .. } if publisher.name.as_str() != name => {
                    println!("{}: {value}", publisher.name);
                }
                TopicEvent::Gap { publisher, missed, .. } => println!("({missed} lines of {} are lost)", publisher.name),
                _ => {}
            },
            event = changes.next() => match event {
                PresenceEvent::Joined { entry, .. } => println!("({} is here)", entry.key),
                PresenceEvent::Left { entry, .. } => println!("({} is gone)", entry.key),
                _ => {}
            },
            line = input.next_line() => match line? {
                Some(line) => drop(room.publish(&line).await?),
                None => return Ok(node.leave(Duration::from_secs(10)).await?),
            },
            _ = tokio::signal::ctrl_c() => return Ok(node.leave(Duration::from_secs(10)).await?),
        }
    }
}
