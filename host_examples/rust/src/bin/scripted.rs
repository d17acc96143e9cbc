//! The host under a script, as `wsplugin certify` speaks it: a call a line on stdin, an outcome or
//! an event a line on stdout. The plugin is the command in the variable WSPLUGIN.
//!
//! ```text
//! $ wsplugin certify -- host_examples/rust/target/debug/scripted
//! ```

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wsplugin::{CreateOptions, Error, Event, Host, Message, Options, WebSocket};

/// What a name of the script stands for: nothing as long as the create has not been answered.
type Named = watch::Receiver<Option<Result<Arc<WebSocket>, String>>>;

/// Why a call has failed.
enum Failure {
    Host(Error),
    Invalid(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Host(error)
    }
}

type Outcome = Result<Map<String, Value>, Failure>;

struct Script {
    host: Option<Host>,
    websockets: HashMap<String, Named>,
    calls: JoinSet<()>,
    /// Ends with the script: nobody waits for slow listeners then.
    over: watch::Sender<bool>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (lines, mut to_read) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = lines.send(line); // or the script is over
        }
    });
    let mut script = Script {
        host: None,
        websockets: HashMap::new(),
        calls: JoinSet::new(),
        over: watch::Sender::new(false),
    };
    script.start(0).await;
    while let Some(line) = to_read.recv().await {
        if let Err(words) = script.carry_out(&line).await {
            eprintln!("cannot read the line {line:?}: {words}");
            std::process::exit(2);
        }
    }
    script.over.send_replace(true);
    if let Some(host) = &script.host {
        host.stop().await;
    }
    while script.calls.join_next().await.is_some() {}
}

impl Script {
    /// Begin a call; only that of a start is waited for.
    async fn carry_out(&mut self, line: &str) -> Result<(), String> {
        let order: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let id = order["id"].as_i64().ok_or("no id")?;
        let time = milliseconds(&order["timeout"]);
        match order["call"].as_str().unwrap_or_default() {
            "start" => self.start(id).await,
            "sleep" => {
                tokio::time::sleep(milliseconds(&order["ms"]).unwrap_or_default()).await;
                report(id, Ok(Map::new()));
            }
            "create" => self.create(id, &order, time).await,
            "stop" => {
                let stopping = |host: Host| async move {
                    Ok(Map::from_iter([("status".to_owned(), json!(host.stop().await))]))
                };
                self.begin(id, stopping).await;
            }
            "background" => {
                let app = order["app"].as_str().map(str::to_owned);
                self.begin(id, |host| async move {
                    host.background(app.as_deref()).await?;
                    Ok(Map::new())
                })
                .await;
            }
            "send" => {
                let message: Message = if let Some(data) = order["base64"].as_str() {
                    BASE64_STANDARD.decode(data).map_err(|error| error.to_string())?.into()
                } else {
                    order["text"].as_str().ok_or("no text")?.into()
                };
                self.begin_on(id, &order, |websocket: Arc<WebSocket>| async move {
                    websocket.send(message).await?;
                    Ok(Map::new())
                })
                .await;
            }
            "close" => {
                let code = order["code"].as_u64().unwrap_or(1000);
                let reason = order["reason"].as_str().unwrap_or_default().to_owned();
                self.begin_on(id, &order, move |websocket| async move {
                    let Ok(code) = code.try_into() else {
                        return Err(Failure::Invalid(format!("{code} is no code")));
                    };
                    websocket.close_with(code, &reason, time).await?;
                    Ok(Map::new())
                })
                .await;
            }
            "pause" => {
                self.begin_on(id, &order, |websocket| async move {
                    websocket.pause().await?;
                    Ok(Map::new())
                })
                .await;
            }
            "resume" => {
                self.begin_on(id, &order, |websocket| async move {
                    websocket.resume().await?;
                    Ok(Map::new())
                })
                .await;
            }
            "ping" => {
                self.begin_on(id, &order, move |websocket| async move {
                    let rtt = websocket.ping(time).await?.as_secs_f64() * 1000.0;
                    Ok(Map::from_iter([("rtt".to_owned(), json!(rtt))]))
                })
                .await;
            }
            other => return Err(format!("no call {other:?}")),
        }
        Ok(())
    }

    async fn start(&mut self, id: i64) {
        if let Some(host) = &self.host {
            host.ended().await;
        }
        let plugin = std::env::var("WSPLUGIN").ok();
        let options = plugin.map_or_else(Options::default, |path| Options::new([path]));
        match Host::start(options).await {
            Ok(host) => {
                self.host = Some(host);
                report(id, Ok(Map::new()));
            }
            Err(error) => report(id, Err(error.into())),
        }
    }

    async fn create(&mut self, id: i64, order: &Value, timeout: Option<Duration>) {
        let name = order["as"].as_str().unwrap_or_default().to_owned();
        let url = order["url"].as_str().unwrap_or_default().to_owned();
        let strings = |value: &Value| serde_json::from_value(value.clone()).unwrap_or_default();
        let options = CreateOptions {
            headers: strings(&order["headers"]),
            protocols: serde_json::from_value(order["protocols"].clone()).unwrap_or_default(),
            timeout,
            app: order["app"].as_str().map(str::to_owned),
            host_headers: strings(&order["hostHeaders"]),
            ..CreateOptions::default()
        };
        let delay = milliseconds(&order["delay"]);
        let over = self.over.subscribe();
        let (named, name_of) = watch::channel(None);
        self.websockets.insert(name.clone(), name_of);
        let creating = move |host: Host| async move {
            match host.create(&url, options).await {
                Ok(websocket) => {
                    let websocket = Arc::new(websocket);
                    named.send_replace(Some(Ok(websocket.clone())));
                    report(id, Ok(Map::new()));
                    listen(&name, &websocket, delay, over).await;
                }
                Err(error) => {
                    named.send_replace(Some(Err(format!("{name:?} could not be created"))));
                    report(id, Err(error.into()));
                }
            }
        };
        self.begin_call(id, creating).await;
    }

    /// Begin a call of the host, and report its outcome.
    async fn begin<F>(&mut self, id: i64, call: impl FnOnce(Host) -> F + Send + 'static)
    where
        F: Future<Output = Outcome> + Send,
    {
        self.begin_call(id, async move |host| report(id, call(host).await)).await;
    }

    /// Begin a call of a connection.
    async fn begin_on<F>(
        &mut self,
        id: i64,
        order: &Value,
        call: impl FnOnce(Arc<WebSocket>) -> F + Send + 'static,
    ) where
        F: Future<Output = Outcome> + Send,
    {
        let name = order["to"].as_str().unwrap_or_default();
        let Some(mut named) = self.websockets.get(name).cloned() else {
            report(id, Err(Failure::Invalid(format!("there is no connection {name:?}"))));
            return;
        };
        self.begin(id, async move |_| {
            let created = named.wait_for(Option::is_some).await.map(|named| named.clone());
            match created {
                Ok(Some(Ok(websocket))) => call(websocket).await,
                Ok(Some(Err(words))) => Err(Failure::Invalid(words)),
                _ => Err(Failure::Invalid("it could not be created".to_owned())),
            }
        })
        .await;
    }

    /// Poll a call once, in the order of the script, and leave the rest of it to a task: a request
    /// is on its way when its future has been polled.
    async fn begin_call<F>(&mut self, id: i64, call: impl FnOnce(Host) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(host) = self.host.clone() else {
            let reason = "no plugin has been started".to_owned();
            report(id, Err(Error::PluginEnded { reason, sent: false }.into()));
            return;
        };
        let mut call = Box::pin(call(host));
        let first = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        if first.is_pending() {
            self.calls.spawn(call);
        }
    }
}

async fn listen(
    name: &str,
    websocket: &WebSocket,
    delay: Option<Duration>,
    mut over: watch::Receiver<bool>,
) {
    while let Some(event) = websocket.next().await {
        let is_message = matches!(event, Event::Message(_));
        print(&match event {
            Event::Open(open) => json!({
                "on": name, "event": "open", "headers": open.headers,
                "protocol": open.protocol, "extensions": open.extensions,
            }),
            Event::Message(Message::Text(text)) => {
                json!({"on": name, "event": "message", "text": text})
            }
            Event::Message(Message::Binary(data)) => {
                let data = BASE64_STANDARD.encode(data);
                json!({"on": name, "event": "message", "base64": data})
            }
            Event::Error(error) => {
                let mut line = json!({
                    "on": name, "event": "error", "code": error.code, "message": error.message,
                });
                if let Some(status) = error.status {
                    line["status"] = json!(status);
                }
                line
            }
            Event::Close(close) => json!({
                "on": name, "event": "close", "code": close.code,
                "reason": close.reason, "cause": close.cause,
            }),
        });
        if let Some(delay) = delay
            && is_message
        {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = over.wait_for(|over| *over) => {}
            }
        }
    }
}

fn report(id: i64, outcome: Outcome) {
    print(&match outcome {
        Ok(mut fields) => {
            fields.insert("id".to_owned(), json!(id));
            fields.insert("outcome".to_owned(), json!("ok"));
            Value::Object(fields)
        }
        Err(Failure::Host(Error::Request { code, message })) => {
            json!({"id": id, "outcome": "refused", "code": code, "message": message})
        }
        Err(Failure::Host(ended)) => {
            json!({"id": id, "outcome": "ended", "message": ended.to_string()})
        }
        Err(Failure::Invalid(message)) => {
            json!({"id": id, "outcome": "invalid", "message": message})
        }
    });
}

fn print(line: &Value) {
    let mut stdout = std::io::stdout().lock();
    let printed = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    if let Err(error) = printed {
        eprintln!("cannot print: {error}");
        std::process::exit(1);
    }
}

fn milliseconds(value: &Value) -> Option<Duration> {
    value.as_f64().and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok())
}
