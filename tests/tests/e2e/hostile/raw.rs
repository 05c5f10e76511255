//! Bytes on a socket, right or wrong.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, timeout},
};

use crate::world::{PATIENCE, Relay};

/// Kinds of frames (RFC 6455).
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The length is in the eight bytes that follow.
const LONG: u8 = 127;
/// It changes nothing, so that payloads go out as they are.
const MASK: [u8; 4] = [0; 4];

/// How long to listen for what may not come.
const BLINK: Duration = Duration::from_millis(20);

/// A connection that says whatever it likes. It does not mind being cut off.
pub struct Raw(TcpStream);

impl Raw {
    /// Connects, and says nothing.
    pub async fn dial(relay: &Relay) -> Raw {
        let stream = TcpStream::connect(&relay.run.listening().address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Raw(stream)
    }

    /// Connects, and has it become a websocket.
    pub async fn open(relay: &Relay) -> Raw {
        let mut raw = Raw::dial(relay).await;
        raw.write(Raw::handshake(relay).as_bytes()).await;
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, raw.0.read_u8()).await.expect("it is answered");
            response.push(byte.expect("it is answered"));
        }
        assert!(response.starts_with(b"HTTP/1.1 101 "), "{}", response.escape_ascii());
        raw
    }

    /// What a client says first.
    pub fn handshake(relay: &Relay) -> String {
        format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            relay.run.listening().address
        )
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    /// A whole frame.
    pub async fn say(&mut self, kind: u8, payload: &[u8]) {
        self.begin(kind, payload.len() as u64, true).await;
        self.write(payload).await;
    }

    /// The header of a frame of so many bytes.
    pub async fn begin(&mut self, kind: u8, bytes: u64, is_final: bool) {
        let first = kind | if is_final { FINAL } else { 0 };
        let mut header = vec![first, MASKED | LONG];
        header.extend(bytes.to_be_bytes());
        header.extend(MASK);
        self.write(&header).await;
    }

    /// Reads a little of what comes, if anything does.
    pub async fn read_some(&mut self) {
        let _ = timeout(BLINK, self.0.read(&mut [0; 4_096])).await;
    }

    pub async fn expect_cut_off(&mut self) {
        let ending =
            async { while !matches!(self.0.read(&mut [0; 4_096]).await, Ok(0) | Err(_)) {} };
        timeout(PATIENCE, ending).await.expect("the relay ends it");
    }
}
