//! WebSockets for an app, through wsplugin, which runs as a child process. Copy this file, and
//! `supervisor.rs` if the plugin shall be started again after it has died; it needs tokio,
//! `serde`, `serde_json`, `base64` and `futures-core`.
//!
//! ```no_run
//! use wsplugin::{Event, Host, Message, Options};
//!
//! # async fn example() -> Result<(), wsplugin::Error> {
//! let host = Host::start(Options::new(["wsplugin", "--allow-host", "example.com"])).await?;
//! let websocket = host.create("wss://example.com/", Default::default()).await?;
//! websocket.send("hello").await?;
//! while let Some(event) = websocket.next().await {
//!     match event {
//!         Event::Message(Message::Text(text)) => println!("{text}"),
//!         Event::Close(close) => println!("{} {}", close.code, close.reason),
//!         _ => {}
//!     }
//! }
//! host.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! Events are queued from `create` on, so none is lost. A queue that is full holds back its own
//! server, not the others. A [`WebSocket`] that is dropped closes its connection; the plugin ends
//! when the last [`Host`] and the last [`WebSocket`] have been dropped.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io::Write;
use std::pin::{Pin, pin};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc as blocking};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_core::Stream;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout};

mod supervisor;
pub use supervisor::{Clock, Death, Supervisor};

/// What a plugin has that was told to end, before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long the rest of the output is waited for after the process has ended. Another process may
/// have inherited the pipe and hold it open for ever.
const REST_OF_OUTPUT: Duration = Duration::from_secs(1);
const CHUNK: usize = 64 * 1024;
const PIPED: &str = "it was spawned with a pipe";
const OF_1_0: &str = "; this wsplugin is of 1.0; update it or start it without these options";

/// What happens to a connection.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "name", content = "payload", rename_all = "lowercase")]
pub enum Event {
    Open(Open),
    Message(Message),
    Error(Failure),
    /// The last event of each connection, even if the plugin dies.
    Close(Close),
}

/// The connection is open.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Open {
    /// Of the HTTP response, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The subprotocol that the server has chosen, or `""`.
    pub protocol: String,
    /// As negotiated, or `""`.
    pub extensions: String,
    /// The times of the opening, in ms; empty before wsplugin 1.1.
    pub profile: Map<String, Value>,
}

/// A message, from the server or to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub enum Message {
    Text(String),
    #[serde(rename = "base64", serialize_with = "to_base64", deserialize_with = "from_base64")]
    Binary(Vec<u8>),
}

fn to_base64<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(data))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let data = String::deserialize(deserializer)?;
    BASE64_STANDARD.decode(data).map_err(serde::de::Error::custom)
}

macro_rules! message_from {
    ($($data:ty => $variant:ident),*) => {
        $(impl From<$data> for Message {
            fn from(data: $data) -> Self {
                Self::$variant(data.into())
            }
        })*
    };
}
message_from!(&str => Text, String => Text, &[u8] => Binary, Vec<u8> => Binary);

/// The connection has failed; its close comes next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Failure {
    pub code: String,
    #[serde(rename = "errMsg")]
    pub message: String,
    /// Of the HTTP response that was none of a WebSocket.
    pub status: Option<u16>,
    pub headers: BTreeMap<String, String>,
}

/// The connection has ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Close {
    pub code: u16,
    pub reason: String,
    /// `host`, `server`, `limit`, `background`, `shutdown` or `failure`.
    pub cause: String,
}

/// Why a request has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The plugin has refused it: a stable code, and words for people.
    Request { code: String, message: String },
    /// The plugin is gone, or could not be started. If the request was `sent`, it may have been
    /// carried out.
    PluginEnded { reason: String, sent: bool },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { code, message } => write!(f, "{code}: {message}"),
            Self::PluginEnded { reason, .. } => f.write_str(reason),
        }
    }
}

impl std::error::Error for Error {}

/// What becomes of a line that the plugin writes to its stderr.
#[derive(Clone)]
pub enum Stderr {
    /// It goes to the stderr of this process.
    Inherit,
    /// This is called with it, on a thread of its own. While it blocks, lines are dropped, and all
    /// that follow if it panics.
    Lines(Arc<dyn Fn(&str) + Send + Sync>),
    Nowhere,
}

/// How to run the plugin.
#[derive(Clone)]
pub struct Options {
    pub command: Vec<String>,
    /// Whether `--parent-pid` and `--exit-timeout` are appended where the command has them not.
    /// Not where the PID would mean nothing (ssh, containers).
    pub append_options: bool,
    pub stderr: Stderr,
    /// The time that the plugin has to describe itself.
    pub start_timeout: Duration,
    /// How much of a connection may wait before its server is held back; what is on the way comes
    /// besides.
    pub queue_bytes: usize,
    pub queue_messages: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self::new(["wsplugin"])
    }
}

impl Options {
    /// The default ones, with a command line.
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            append_options: true,
            stderr: Stderr::Inherit,
            start_timeout: Duration::from_secs(5),
            queue_bytes: 1024 * 1024,
            queue_messages: 1024,
        }
    }

    fn command_line(&self) -> Vec<String> {
        let mut command = self.command.clone();
        let pid = std::process::id().to_string();
        for (name, value) in [("--parent-pid", &*pid), ("--exit-timeout", "1.5")] {
            let named = |arg: &String| arg.split('=').next() == Some(name);
            if self.append_options && !self.command.iter().any(named) {
                command.extend([name.to_owned(), value.to_owned()]);
            }
        }
        command
    }
}

/// How to create a connection. What is left out is the plugin's default.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    pub headers: BTreeMap<String, String>,
    pub protocols: Vec<String>,
    /// Until it must be open.
    pub timeout: Option<Duration>,
    pub per_message_deflate: Option<bool>,
    pub tcp_no_delay: Option<bool>,
    /// The app that it is for, if the host serves several.
    pub app: Option<String>,
    /// The host's own headers, in place of the app's of that name.
    pub host_headers: BTreeMap<String, String>,
}

/// Runs the plugin as a child process. A clone is another handle to the same.
#[derive(Clone)]
pub struct Host(Arc<Owner>);

/// The plugin ends with the last handle to it. The tasks that serve it have none.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close_input();
    }
}

struct Shared {
    options: Options,
    description: OnceLock<Value>,
    /// Whether the plugin can.
    pauses: OnceLock<bool>,
    /// How long the process may live on, for whoever watches it.
    lives: UnboundedSender<Duration>,
    /// The exit status, when the plugin is gone and everybody knows.
    ended: watch::Sender<Option<i32>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None behind the end of stdin.
    lines: Option<UnboundedSender<String>>,
    ids: u64,
    pending: HashMap<u64, Call>,
    websockets: HashMap<String, Arc<Connection>>,
    /// The last line of stderr, behind `": "`.
    last_error: String,
    /// Why stdout is no longer read.
    breach: Option<String>,
    /// Why no request is taken any more.
    end: Option<String>,
}

/// A response, and the connection that was created.
type Answer = Result<(Value, Option<WebSocket>)>;

/// How long the process may live on.
type Times = UnboundedReceiver<Duration>;

/// A request without an answer.
struct Call {
    answer: oneshot::Sender<Answer>,
    creates: Option<Weak<Owner>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    /// Run the plugin and ask what it is. If that fails no process is left. The tasks that serve
    /// it live in the tokio runtime of this call.
    ///
    /// # Errors
    ///
    /// [`Error::PluginEnded`], which says what came of which command.
    pub async fn start(options: Options) -> Result<Self> {
        let line = options.command_line();
        let failed = |words: String| Error::PluginEnded {
            reason: format!("{words} (command: {})", line.join(" ")),
            sent: false,
        };
        let mut command = Command::new(line.first().map_or("", String::as_str));
        command.args(line.iter().skip(1));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(windows)]
        command.creation_flags(0x0800_0000); // CREATE_NO_WINDOW
        let spawned = command.spawn();
        let mut child =
            spawned.map_err(|error| failed(format!("the plugin cannot be started: {error}")))?;
        let (lines, to_write) = unbounded_channel();
        let (lives, times) = unbounded_channel();
        let start_timeout = options.start_timeout;
        let shared = Arc::new(Shared {
            options,
            description: OnceLock::new(),
            pauses: OnceLock::new(),
            lives,
            ended: watch::Sender::new(None),
            state: Mutex::new(State { lines: Some(lines), ..State::default() }),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(shared.clone().write(child.stdin.take().expect(PIPED), to_write));
        tasks.spawn(shared.clone().read(child.stdout.take().expect(PIPED)));
        tasks.spawn(shared.clone().read_stderr(child.stderr.take().expect(PIPED)));
        tokio::spawn(shared.clone().watch(child, times, tasks));
        let host = Self(Arc::new(Owner(shared)));
        let words = match timeout(start_timeout, host.describe()).await {
            Ok(Ok(())) => return Ok(host),
            Ok(Err(words)) => words,
            Err(_) => format!("the plugin has not described itself within {start_timeout:?}"),
        };
        host.kill();
        host.ended().await;
        Err(failed(words))
    }

    /// Ask what the plugin is, or say why it is none.
    async fn describe(&self) -> Result<(), String> {
        let description = self.request("plugin-describe", None).await.map_err(|error| {
            let unknown = error.to_string().contains("unrecognized arguments: --");
            let old = unknown && *self.0.0.ended.borrow() == Some(2);
            format!("{error}{}", if old { OF_1_0 } else { "" })
        })?;
        if description["name"] != "wsplugin" || description["protocol"] != 1 {
            let (name, protocol) = (&description["name"], &description["protocol"]);
            return Err(format!("the plugin is no wsplugin of protocol 1: {name}, {protocol}"));
        }
        let _ = self.0.0.description.set(description); // the first and only time
        let _ = self.0.0.pauses.set(self.has("pause"));
        Ok(())
    }

    /// What the plugin has said of itself at its start: `version`, `actions`, `features`, `limits`.
    pub fn description(&self) -> &Value {
        self.0.0.description.get().unwrap_or(&Value::Null)
    }

    /// Whether the plugin has a feature, such as `ping`.
    pub fn has(&self, feature: &str) -> bool {
        let features = self.description()["features"].as_array();
        features.is_some_and(|features| features.iter().any(|name| name == feature))
    }

    /// Create a connection; returns at once, before it is open. If this future is dropped before
    /// the answer has come, the connection is closed again.
    ///
    /// # Errors
    ///
    /// As [`Host::request`].
    pub async fn create(&self, url: &str, options: CreateOptions) -> Result<WebSocket> {
        let payload = given(json!({
            "url": url,
            "binaryType": "base64",
            "headers": options.headers,
            "protocols": options.protocols,
            "timeout": milliseconds(options.timeout),
            "perMessageDeflate": options.per_message_deflate,
            "tcpNoDelay": options.tcp_no_delay,
        }));
        let headers = options.host_headers;
        let envelope = json!({"app": options.app, "headers": headers, "payload": payload});
        let creates = Some(Arc::downgrade(&self.0));
        let (_, websocket) = wait(self.0.0.begin("websocket-create", envelope, creates)).await?;
        Ok(websocket.expect("this handle lives"))
    }

    /// Tell that an app leaves the screen, or all of them if none is named: ends their
    /// connections, then returns.
    ///
    /// # Errors
    ///
    /// As [`Host::request`].
    pub async fn background(&self, app: Option<&str>) -> Result<()> {
        wait(self.0.0.begin("app-background", json!({"app": app}), None)).await.map(drop)
    }

    /// Make a request and return its response.
    ///
    /// # Errors
    ///
    /// The plugin has refused it, or ended before it answered.
    pub async fn request(&self, action: &str, payload: Option<Value>) -> Result<Value> {
        wait(self.0.0.request(action, payload)).await.map(|(response, _)| response)
    }

    /// End the plugin in good order and return its exit status; 128 + n stands for signal n. Its
    /// stdin is closed: the plugin then closes the connections and ends, within two seconds. One
    /// that has not ended after five seconds is killed.
    pub async fn stop(&self) -> i32 {
        lock(&self.0.0.state).end.get_or_insert("the host has stopped the plugin".to_owned());
        self.0.0.close_input();
        self.ended().await
    }

    /// Kill the plugin: nobody is told anything.
    pub fn kill(&self) {
        self.0.0.may_live(Duration::ZERO);
    }

    /// Wait until the plugin is gone, whoever has ended it, and return its exit status.
    pub async fn ended(&self) -> i32 {
        let mut ended = self.0.0.ended.subscribe();
        ended.wait_for(Option::is_some).await.expect("this has the sender").unwrap_or_default()
    }

    /// Why no request is taken any more, if so.
    pub fn end(&self) -> Option<String> {
        lock(&self.0.0.state).end.clone()
    }
}

fn milliseconds(time: Option<Duration>) -> Option<u64> {
    time.map(|time| time.as_millis() as u64)
}

/// The members that say something: null and the like are not for plugins before 1.1.
fn given(mut members: Value) -> Value {
    let nothing = [Value::Null, json!({}), json!([])];
    if let Some(members) = members.as_object_mut() {
        members.retain(|_, value| !nothing.contains(value));
    }
    members
}

/// An answer that is to come.
type Pending = oneshot::Receiver<Answer>;

async fn wait(pending: Pending) -> Answer {
    // Nobody drops the other side without a word, but for a runtime that ends.
    let reason = "the runtime has ended".to_owned();
    pending.await.unwrap_or(Err(Error::PluginEnded { reason, sent: true }))
}

impl Shared {
    fn request(&self, action: &str, payload: Option<Value>) -> Pending {
        let envelope = [("payload".to_owned(), payload.unwrap_or_default())].into_iter().collect();
        self.begin(action, envelope, None)
    }

    /// Put a request on its way, without waiting for anything. The id comes first: of a line that
    /// is too long the plugin reads no more than the start.
    fn begin(&self, action: &str, envelope: Value, creates: Option<Weak<Owner>>) -> Pending {
        let mut rest = String::new(); // encoded before anybody has to wait for the lock
        for (name, value) in given(envelope).as_object().into_iter().flatten() {
            rest += &format!(",\"{name}\":{value}");
        }
        let (answer, pending) = oneshot::channel();
        let mut state = lock(&self.state);
        if let Some(reason) = state.end.clone() {
            let _ = answer.send(Err(Error::PluginEnded { reason, sent: false }));
            return pending;
        }
        state.ids += 1;
        let id = state.ids;
        state.pending.insert(id, Call { answer, creates });
        if let Some(lines) = &state.lines {
            // Nobody takes them when stdin is broken: then the plugin is about to end.
            let _ = lines.send(format!("{{\"id\":{id},\"action\":\"{action}\"{rest}}}\n"));
        }
        pending
    }

    /// Close stdin behind the lines that are on their way, and bound what is left of the plugin's
    /// life.
    fn close_input(&self) {
        lock(&self.state).lines = None;
        self.may_live(GRACE);
    }

    fn may_live(&self, time: Duration) {
        let _ = self.lives.send(time); // or it is gone
    }

    async fn write(self: Arc<Self>, mut stdin: ChildStdin, mut lines: UnboundedReceiver<String>) {
        let _closing = Owner(self); // of what has ended, or lives on without reading
        while let Some(line) = lines.recv().await
            && stdin.write_all(line.as_bytes()).await.is_ok()
        {}
    }

    /// Read stdout to its end, always: a line is whole only when its LF has come.
    async fn read(self: Arc<Self>, stdout: ChildStdout) {
        let mut stdout = BufReader::with_capacity(CHUNK, stdout);
        let _closing = Owner(self.clone()); // a plugin that can tell nothing more is of no use
        let mut line = Vec::new();
        while stdout.read_until(b'\n', &mut line).await.is_ok() && line.ends_with(b"\n") {
            if let Err(why) = self.take(&line) {
                let words = "the plugin wrote what is no line of its protocol";
                let words =
                    format!("{words} ({why}): {:.200}", String::from_utf8_lossy(&line).trim());
                lock(&self.state).breach = Some(words);
                self.may_live(Duration::ZERO);
                break;
            }
            line = Vec::new(); // and not one that keeps the room of the longest
            yield_now().await; // so that a pause goes out before more is read
        }
    }

    /// Do what a line says. What a later plugin may add is passed over.
    fn take(&self, line: &[u8]) -> Result<(), String> {
        let mut message: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if message["event"] == "websocket-event" {
            return self.take_event(message["payload"].take());
        }
        let Some(id) = message["id"].as_u64() else { return Ok(()) };
        let mut state = lock(&self.state);
        let Some(call) = state.pending.get(&id) else { return Ok(()) };
        let creates = call.creates.clone();
        let answer = if let Value::Object(error) = message["error"].take() {
            let Failure { code, message, .. } = Failure::deserialize(error).unwrap_or_default();
            Err(Error::Request { code, message })
        } else {
            let response =
                message.get_mut("response").ok_or("an answer without response or error")?.take();
            let mut websocket = None;
            if let Some(owner) = creates {
                let id = response["id"].as_str().ok_or("a connection without an id")?;
                let connection =
                    Arc::new(Connection { id: id.to_owned(), ..Connection::default() });
                // Before the next line is looked at, which may be an event of this connection.
                state.websockets.insert(id.to_owned(), connection.clone());
                websocket = owner.upgrade().map(|owner| WebSocket { owner, connection });
            }
            Ok((response, websocket))
        };
        let call = state.pending.remove(&id);
        drop(state);
        // Whoever has asked may be gone. A connection then closes as it is dropped.
        let _ = call.map(|call| call.answer.send(answer));
        Ok(())
    }

    fn take_event(&self, event: Value) -> Result<(), String> {
        let known = match event["name"].as_str().unwrap_or_default() {
            "message" => ["text", "base64"].iter().any(|kind| event["payload"]["type"] == *kind),
            name => ["open", "error", "close"].contains(&name),
        };
        if !known {
            return Ok(());
        }
        let id = event["id"].as_str().unwrap_or_default().to_owned();
        let event = serde_json::from_value(event).map_err(|error| error.to_string())?;
        let connection = match event {
            Event::Close(_) => lock(&self.state).websockets.remove(&id),
            _ => lock(&self.state).websockets.get(&id).cloned(),
        };
        if let Some(connection) = connection {
            connection.take(self, event);
        }
        Ok(())
    }

    /// Read stderr to its end and remember its last line, which says why if the plugin fails. A
    /// thread passes the lines on: a terminal that has been stopped must not stop the plugin.
    async fn read_stderr(self: Arc<Self>, stderr: ChildStderr) {
        let mut stderr = BufReader::with_capacity(CHUNK, stderr);
        let (lines, to_pass) = blocking::sync_channel::<String>(64);
        let sink = self.options.stderr.clone();
        std::thread::spawn(move || {
            for line in to_pass {
                match &sink {
                    // Whoever cannot be written to misses it.
                    Stderr::Inherit => drop(std::io::stderr().write_all(line.as_bytes())),
                    Stderr::Lines(function) => function(line.trim_end()),
                    Stderr::Nowhere => {}
                }
            }
        });
        let mut line = Vec::new();
        while let Ok(1..) = (&mut stderr).take(CHUNK as u64).read_until(b'\n', &mut line).await {
            let text = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
            if !text.trim().is_empty() {
                lock(&self.state).last_error = format!(": {:.1000}", text.trim());
                let _ = lines.try_send(text); // dropped if nobody takes them
            }
        }
    }

    /// Wait for the end of the process and of its output, each within bounds. Then fail what is
    /// pending, and close every connection that had no close yet.
    async fn watch(self: Arc<Self>, mut child: Child, mut lives: Times, mut tasks: JoinSet<()>) {
        let never = Instant::now() + Duration::from_secs(86400 * 365);
        let mut end = pin!(sleep_until(never));
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                Some(time) = lives.recv() => {
                    let earlier = end.deadline().min(Instant::now() + time);
                    end.as_mut().reset(earlier);
                }
                () = &mut end => {
                    let _ = child.start_kill(); // or it has ended meanwhile
                    end.as_mut().reset(never);
                }
            }
        };
        let _ = timeout(REST_OF_OUTPUT, async { while tasks.join_next().await.is_some() {} }).await;
        tasks.abort_all();
        let (status, how) = status.map_or_else(|why| (-1, format!("is lost: {why}")), how_it_ended);
        let mut state = lock(&self.state);
        let reason = format!("the plugin {how}{}", state.last_error);
        let reason = state.breach.take().unwrap_or(reason);
        state.end = Some(reason.clone());
        let pending = std::mem::take(&mut state.pending);
        let websockets = std::mem::take(&mut state.websockets);
        drop(state);
        for call in pending.into_values() {
            let reason = reason.clone();
            let _ = call.answer.send(Err(Error::PluginEnded { reason, sent: true }));
        }
        for connection in websockets.into_values() {
            let close = Close { code: 1006, reason: reason.clone(), cause: "failure".to_owned() };
            connection.take(&self, Event::Close(close));
        }
        self.ended.send_replace(Some(status));
    }
}

fn how_it_ended(status: ExitStatus) -> (i32, String) {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return (128 + signal, format!("was killed by signal {signal}"));
    }
    let code = status.code().unwrap_or(-1);
    (code, format!("ended with status {code}"))
}

/// What the reader and the app share of a connection.
#[derive(Default)]
struct Connection {
    id: String,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    wakers: Vec<Waker>,
    /// Of the messages that wait.
    bytes: usize,
    messages: usize,
    full: bool,
    /// By the app.
    paused: bool,
    /// The plugin was told to pause.
    told: bool,
    /// Nobody listens any more.
    left: bool,
    /// The close has come.
    over: bool,
}

impl Connection {
    /// Queue an event that the host has read.
    fn take(&self, shared: &Shared, event: Event) {
        let mut queue = lock(&self.queue);
        queue.over = matches!(event, Event::Close(_));
        if !queue.left {
            let (bytes, messages) = size(&event);
            queue.bytes += bytes;
            queue.messages += messages;
            queue.events.push_back(event);
            self.hold(shared, &mut queue);
        }
        queue.wakers.drain(..).for_each(Waker::wake);
    }

    fn poll(&self, shared: &Shared, context: &Context<'_>) -> Poll<Option<Event>> {
        let mut queue = lock(&self.queue);
        let Some(event) = queue.events.pop_front() else {
            if queue.over {
                return Poll::Ready(None);
            }
            if !queue.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                queue.wakers.push(context.waker().clone());
            }
            return Poll::Pending;
        };
        let (bytes, messages) = size(&event);
        queue.bytes -= bytes;
        queue.messages -= messages;
        self.hold(shared, &mut queue);
        Poll::Ready(Some(event))
    }

    /// Hold back a server whose queue is full, until it is half empty.
    fn hold(&self, shared: &Shared, queue: &mut Queue) {
        let (bytes, messages) = (shared.options.queue_bytes, shared.options.queue_messages);
        if queue.bytes >= bytes || queue.messages >= messages {
            queue.full = shared.pauses.get() == Some(&true);
        } else if queue.bytes <= bytes / 2 && queue.messages <= messages / 2 {
            queue.full = false;
        }
        if queue.told != (queue.paused || queue.full) && !queue.over {
            self.tell(shared, queue);
        }
    }

    /// Have the plugin pause or resume, whatever it was told before.
    fn tell(&self, shared: &Shared, queue: &mut Queue) -> Pending {
        queue.told = queue.paused || queue.full;
        let action = if queue.told { "websocket-pause" } else { "websocket-resume" };
        shared.request(action, Some(json!({"id": self.id})))
    }
}

/// The bytes and the number of the messages that an event is.
fn size(event: &Event) -> (usize, usize) {
    match event {
        Event::Message(Message::Text(text)) => (text.len(), 1),
        Event::Message(Message::Binary(data)) => (data.len(), 1),
        _ => (0, 0),
    }
}

/// One connection, from [`Host::create`]: a stream of its events. One that is dropped is closed.
pub struct WebSocket {
    owner: Arc<Owner>,
    connection: Arc<Connection>,
}

impl WebSocket {
    /// The plugin's id of this connection, which is in its log as well.
    pub fn id(&self) -> &str {
        &self.connection.id
    }

    /// Send a message. It has been handed to the connection when this returns: to wait for that
    /// before the next is the back-pressure.
    ///
    /// # Errors
    ///
    /// As [`Host::request`].
    pub async fn send(&self, message: impl Into<Message>) -> Result<()> {
        self.request("websocket-send", json!(message.into())).await.map(drop)
    }

    /// Begin the closing handshake, with code 1000; the close event tells its end.
    ///
    /// # Errors
    ///
    /// As [`Host::request`].
    pub async fn close(&self) -> Result<()> {
        self.request("websocket-close", json!({})).await.map(drop)
    }

    /// Begin the closing handshake. Code 1005 sends none. The time is that of the closing
    /// handshake; zero cuts the connection at once.
    ///
    /// # Errors
    ///
    /// As [`Host::request`].
    pub async fn close_with(&self, code: u16, reason: &str, time: Option<Duration>) -> Result<()> {
        let payload = json!({"code": code, "reason": reason, "timeout": milliseconds(time)});
        self.request("websocket-close", payload).await.map(drop)
    }

    /// Ask the server for a sign of life and return how long it took. Without one within the time
    /// the connection fails: what to do when the network has changed.
    ///
    /// # Errors
    ///
    /// As [`Host::request`].
    pub async fn ping(&self, timeout: Option<Duration>) -> Result<Duration> {
        let payload = json!({"timeout": milliseconds(timeout)});
        let (response, _) = self.request("websocket-ping", payload).await?;
        let rtt = response["rtt"].as_f64().unwrap_or_default();
        Ok(Duration::try_from_secs_f64(rtt / 1000.0).unwrap_or_default())
    }

    /// Hold back the server until [`WebSocket::resume`]; events that have come already can still
    /// be taken. For seconds, not minutes: the server's Pings wait, too.
    ///
    /// # Errors
    ///
    /// As [`Host::request`].
    pub async fn pause(&self) -> Result<()> {
        wait(self.hold(true)).await.map(drop)
    }

    /// Let the messages come again, at once or as soon as the queue has room.
    ///
    /// # Errors
    ///
    /// As [`Host::request`].
    pub async fn resume(&self) -> Result<()> {
        wait(self.hold(false)).await.map(drop)
    }

    fn hold(&self, paused: bool) -> Pending {
        let mut queue = lock(&self.connection.queue);
        queue.paused = paused;
        self.connection.tell(&self.owner.0, &mut queue)
    }

    /// The next event; none behind the close. The same as the stream, for more than one handle.
    pub async fn next(&self) -> Option<Event> {
        poll_fn(|context| self.connection.poll(&self.owner.0, context)).await
    }

    async fn request(&self, action: &str, mut payload: Value) -> Answer {
        payload["id"] = json!(self.id());
        wait(self.owner.0.request(action, Some(given(payload)))).await
    }
}

impl Stream for WebSocket {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.connection.poll(&self.owner.0, context)
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        let mut queue = lock(&self.connection.queue);
        queue.left = true;
        queue.events.clear();
        if !queue.over {
            drop(self.owner.0.request("websocket-close", Some(json!({"id": self.id()}))));
        }
    }
}
