use std::net::SocketAddr;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use natterjack_nats_config::contract::Subjects;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::{Nemesis, Scene};
use crate::house::TENANT;

/// How many of each.
const READERS: usize = 20;
/// As small as the system makes a receive buffer, so that the line is full at once.
const BUFFER: u32 = 2048;
/// Requests that each sends without reading an answer.
const REQUESTS: usize = 50;
/// Who they are: a member who reads nothing otherwise.
pub(crate) const USER: &str = "stalled";

/// Readers who never read: over HTTP by many requests on one connection, over NATS by a subscription.
#[derive(Default)]
pub(super) struct Stall {
    lines: Vec<TcpStream>,
}

impl Stall {
    async fn open(&mut self, scene: &Scene) -> anyhow::Result<()> {
        let house = &scene.setting.house;
        let token = house.token(USER)?;
        let rooms = scene.setting.rooms.join(",");
        let ask = format!(
            "GET /v1/events?cursor=earliest&rooms={rooms}&wait=0&limit=1000&max_bytes=786432 HTTP/1.1\r\n\
             Host: faults\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        for at in 0..READERS {
            if let Some(bridge) = house.bridges.get(at % house.bridges.len().max(1)) {
                let mut line = slow_line(*bridge).await?;
                let _ = line.try_write(ask.repeat(REQUESTS).as_bytes());
                line.flush().await?;
                self.lines.push(line);
            }
            let all = house.servers.addresses();
            let Some((server, _)) = all.get(at % all.len().max(1)) else {
                continue;
            };
            let mut line = slow_line(*server).await?;
            let mut words = format!(
                "CONNECT {}\r\n",
                serde_json::json!({"verbose": false, "auth_token": token})
            );
            for room in scene.setting.rooms.iter() {
                let subject = Subjects::default().room_log(&TENANT.parse()?, &room.parse()?);
                words = [words, format!("SUB {subject} {}\r\n", self.lines.len())].concat();
            }
            line.write_all(words.as_bytes()).await?;
            self.lines.push(line);
        }
        Ok(())
    }
}

impl Nemesis for Stall {
    fn inject<'a>(&'a mut self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<String>> {
        async {
            self.open(scene).await?;
            Ok(format!("{} connections", self.lines.len()))
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, _: &'a Scene) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            self.lines.clear();
            Ok(())
        }
        .boxed()
    }
}

async fn slow_line(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER)?;
    Ok(socket.connect(to).await?)
}
