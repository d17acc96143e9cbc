// The seed part of the contract (create, send, close, background) in Rust with tokio-tungstenite,
// written the way its users would: a task that reads and one that writes each connection, one
// buffered writer for stdout that is flushed when nothing is left to write.
use std::collections::HashMap;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{json, Value};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{timeout, Duration};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const MAX_CONNECTIONS: usize = 5;
const BUFFER_SIZE: usize = 64 << 10;
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Lines = mpsc::Sender<Vec<u8>>;

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    id: Value,
    action: String,
    #[serde(default)]
    payload: Payload,
}

// The fields of all actions: serde decodes a line in one go.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Payload {
    url: String,
    headers: HashMap<String, String>,
    protocols: Vec<String>,
    id: String,
    r#type: String,
    data: Option<Box<RawValue>>,
    code: Option<u16>,
    reason: String,
}

#[derive(Serialize)]
struct Event<'a, P> {
    event: &'static str,
    payload: EventPayload<'a, P>,
}

#[derive(Serialize)]
struct EventPayload<'a, P> {
    id: &'a str,
    name: &'static str,
    payload: P,
}

#[derive(Serialize)]
struct Data<D> {
    r#type: &'static str,
    data: D,
}

struct Send {
    request: Value,
    message: Message,
}

struct Connection {
    id: String,
    sends: mpsc::Sender<Send>,
    closing: bool,
    closed: watch::Receiver<bool>,
}

async fn write(lines: &Lines, value: &impl Serialize) {
    let mut line = serde_json::to_vec(value).expect("what is written is JSON");
    line.push(b'\n');
    let _ = lines.send(line).await; // the writer ends only with the process
}

async fn respond(lines: &Lines, id: &Value, response: Value) {
    if !id.is_null() {
        write(lines, &json!({"id": id, "response": response})).await;
    }
}

async fn fail(lines: &Lines, id: &Value, code: &str, message: String) {
    write(lines, &json!({"id": id, "error": {"code": code, "errMsg": message}})).await;
}

async fn emit(lines: &Lines, id: &str, name: &'static str, payload: impl Serialize) {
    let payload = EventPayload { id, name, payload };
    write(lines, &Event { event: "websocket-event", payload }).await;
}

async fn write_lines(mut lines: mpsc::Receiver<Vec<u8>>) {
    let mut output = BufWriter::with_capacity(BUFFER_SIZE, tokio::io::stdout());
    while let Some(line) = lines.recv().await {
        let failed = output.write_all(&line).await.is_err()
            || (lines.is_empty() && output.flush().await.is_err());
        if failed {
            std::process::exit(1); // the host is gone
        }
    }
    let _ = output.flush().await;
}

async fn write_frames(
    mut sink: SplitSink<Socket, Message>,
    mut sends: mpsc::Receiver<Send>,
    lines: Lines,
    mut closed: watch::Receiver<bool>,
) {
    loop {
        let send = tokio::select! {
            send = sends.recv() => send,
            _ = closed.changed() => None,
        };
        let Some(Send { request, message }) = send else { return };
        let is_close = message.is_close();
        match sink.send(message).await {
            Ok(()) if !is_close => respond(&lines, &request, json!({})).await,
            Err(error) if !is_close => fail(&lines, &request, "not-open", error.to_string()).await,
            _ => {}
        }
    }
}

async fn read_messages(
    stream: &mut SplitStream<Socket>,
    id: &str,
    lines: &Lines,
) -> Result<(u16, String), String> {
    while let Some(message) = stream.next().await {
        match message.map_err(|error| error.to_string())? {
            Message::Text(text) => {
                emit(lines, id, "message", Data { r#type: "text", data: text.as_str() }).await
            }
            Message::Binary(data) => {
                emit(lines, id, "message", Data { r#type: "arraybuffer", data: &data[..] }).await
            }
            Message::Close(Some(frame)) => return Ok((frame.code.into(), frame.reason.to_string())),
            Message::Close(None) => return Ok((1005, String::new())),
            _ => {}
        }
    }
    Err("the connection was lost".to_string())
}

// The life of one connection, from the opening handshake to its close event.
async fn run(
    id: String,
    payload: Payload,
    sends: mpsc::Receiver<Send>,
    lines: Lines,
    over: watch::Sender<bool>,
) {
    let end = match open(&payload).await {
        Err(message) => Err(message),
        Ok((socket, headers)) => {
            emit(&lines, &id, "open", json!({"headers": headers})).await;
            let (sink, mut stream) = socket.split();
            tokio::spawn(write_frames(sink, sends, lines.clone(), over.subscribe()));
            read_messages(&mut stream, &id, &lines).await
        }
    };
    let (code, reason) = match end {
        Ok(close) => close,
        Err(message) => {
            emit(&lines, &id, "error", json!({"errMsg": message})).await;
            (1006, String::new())
        }
    };
    emit(&lines, &id, "close", json!({"code": code, "reason": reason})).await;
    let _ = over.send(true);
}

async fn open(payload: &Payload) -> Result<(Socket, HashMap<String, String>), String> {
    let mut request =
        payload.url.as_str().into_client_request().map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in &payload.headers {
        let name: HeaderName = name.parse().map_err(|_| format!("no header name: {name}"))?;
        let value = value.parse().map_err(|_| format!("no value of {name}"))?;
        headers.insert(name, value);
    }
    if !payload.protocols.is_empty() {
        let value = payload.protocols.join(", ").parse().map_err(|_| "no subprotocol")?;
        headers.insert("sec-websocket-protocol", value);
    }
    let connecting = tokio_tungstenite::connect_async_with_config(request, None, true);
    let (socket, answer) = timeout(OPEN_TIMEOUT, connecting)
        .await
        .map_err(|_| "no opening handshake in time".to_string())?
        .map_err(|error| error.to_string())?;
    let headers = answer
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    Ok((socket, headers))
}

// Carries out the actions, one at a time, in the order of their lines.
struct Manager {
    lines: Lines,
    connections: Vec<Connection>, // oldest first, closed ones included until the next create
    last_id: usize,
}

impl Manager {
    async fn dispatch(&mut self, line: &[u8]) {
        let request: Request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                return fail(&self.lines, &Value::Null, "invalid-json", error.to_string()).await
            }
        };
        let id = request.id;
        match request.action.as_str() {
            "websocket-create" => self.create(id, request.payload).await,
            "websocket-send" => self.send(id, request.payload).await,
            "websocket-close" => {
                let payload = request.payload;
                let place = self.connections.iter().position(|c| c.id == payload.id);
                if let Some(place) = place {
                    self.close(place, payload.code.unwrap_or(1000), payload.reason).await;
                }
                respond(&self.lines, &id, json!({})).await;
            }
            "app-background" => {
                let over = self.close_all("application entered background").await;
                let lines = self.lines.clone();
                tokio::spawn(async move {
                    let _ = over.await;
                    respond(&lines, &id, json!({})).await;
                });
            }
            other => fail(&self.lines, &id, "unknown-action", other.to_string()).await,
        }
    }

    async fn create(&mut self, id: Value, payload: Payload) {
        if payload.headers.keys().any(|name| name.eq_ignore_ascii_case("referer")) {
            let message = "payload.headers: Referer cannot be set".to_string();
            return fail(&self.lines, &id, "invalid-payload", message).await;
        }
        self.last_id += 1;
        let name = format!("ws-{}", self.last_id);
        respond(&self.lines, &id, json!({"id": name})).await;
        let (sends, waiting) = mpsc::channel(64);
        let (over, closed) = watch::channel(false);
        self.connections.retain(|connection| !*connection.closed.borrow());
        self.connections.push(Connection { id: name.clone(), sends, closing: false, closed });
        if self.connections.len() > MAX_CONNECTIONS {
            let reason = format!("connection limit of {MAX_CONNECTIONS} reached");
            self.close(0, 1001, reason).await;
        }
        tokio::spawn(run(name, payload, waiting, self.lines.clone(), over));
    }

    async fn send(&mut self, id: Value, payload: Payload) {
        let found = self.connections.iter().find(|c| c.id == payload.id && !c.closing);
        let Some(connection) = found else {
            let message = format!("{} is not open", payload.id);
            return fail(&self.lines, &id, "not-open", message).await;
        };
        let data = payload.data.as_deref().map_or("null", RawValue::get);
        let message = if payload.r#type == "text" {
            serde_json::from_str::<String>(data).map(Message::text)
        } else {
            serde_json::from_str::<Vec<u8>>(data).map(Message::binary)
        };
        match message {
            Err(error) => fail(&self.lines, &id, "invalid-payload", error.to_string()).await,
            Ok(message) => {
                if connection.sends.send(Send { request: id.clone(), message }).await.is_err() {
                    let message = format!("{} is closed", connection.id);
                    fail(&self.lines, &id, "not-open", message).await;
                }
            }
        }
    }

    async fn close(&mut self, place: usize, code: u16, reason: String) {
        let connection = &mut self.connections[place];
        if !connection.closing {
            connection.closing = true;
            let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
            let message = Message::Close(Some(frame));
            let _ = connection.sends.send(Send { request: Value::Null, message }).await;
        }
    }

    async fn close_all(&mut self, reason: &str) -> oneshot::Receiver<()> {
        for place in 0..self.connections.len() {
            self.close(place, 1001, reason.to_string()).await;
        }
        let all: Vec<_> = self.connections.iter().map(|c| c.closed.clone()).collect();
        let (over, told) = oneshot::channel();
        tokio::spawn(async move {
            for mut closed in all {
                let _ = timeout(CLOSE_TIMEOUT, closed.wait_for(|closed| *closed)).await;
            }
            let _ = over.send(());
        });
        told
    }
}

#[tokio::main]
async fn main() {
    let (lines, waiting) = mpsc::channel(64);
    let writer = tokio::spawn(write_lines(waiting));
    let mut manager = Manager { lines, connections: Vec::new(), last_id: 0 };
    let mut input = BufReader::with_capacity(BUFFER_SIZE, tokio::io::stdin());
    let mut line = Vec::new();
    while matches!(input.read_until(b'\n', &mut line).await, Ok(size) if size > 0) {
        if !line.trim_ascii().is_empty() {
            manager.dispatch(&line).await;
        }
        line.clear();
    }
    let _ = manager.close_all("plugin shutting down").await.await;
    drop(manager);
    let _ = timeout(CLOSE_TIMEOUT, writer).await;
}
