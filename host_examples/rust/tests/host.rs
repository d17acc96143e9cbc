//! The promises of a host, against small plugins.

mod common;

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use common::{Log, fake, gone, open_of, script};
use futures_util::StreamExt;
use tokio::time::timeout;
use wsplugin::{CreateOptions, Error, Event, Host, Message, Options, Stderr, WebSocket};

async fn next(websocket: &WebSocket) -> Event {
    let event = timeout(common::CEILING, websocket.next()).await;
    event.expect("an event in time").expect("not the end")
}

async fn create(host: &Host) -> WebSocket {
    host.create("ws://fake/", CreateOptions::default()).await.unwrap()
}

fn text(text: &str) -> Event {
    Event::Message(text.into())
}

#[tokio::test]
async fn a_connection_from_open_to_close() {
    let (host, _) = fake().await;
    let websocket = create(&host).await;
    let open = open_of(next(&websocket).await);
    assert_eq!(open.profile["rtt"], 1.5);
    for data in [vec![0, 255], vec![]] {
        websocket.send(data.clone()).await.unwrap();
        assert_eq!(next(&websocket).await, Event::Message(Message::Binary(data)));
    }
    let odd = "<&> \u{2028} \u{fffd} \\ufffd 👋 \0";
    websocket.send(odd).await.unwrap();
    assert_eq!(next(&websocket).await, text(odd));
    assert_eq!(websocket.ping(None).await.unwrap(), Duration::from_micros(2500));
    websocket.close().await.unwrap();
    let Event::Close(close) = next(&websocket).await else { panic!("no close") };
    assert_eq!((close.code, &*close.cause), (1000, "host"));
    assert_eq!(websocket.next().await, None);
    assert_eq!((host.stop().await, host.stop().await), (0, 0));
    assert!(gone(&open));
    let late = websocket.send("x").await;
    assert!(matches!(late, Err(Error::PluginEnded { sent: false, .. })), "{late:?}");
}

#[tokio::test]
async fn only_what_is_given_is_written() {
    let (host, log) = fake().await;
    create(&host).await;
    let all = CreateOptions {
        headers: [("a".into(), "b".into())].into(),
        protocols: vec!["p".into()],
        timeout: Some(Duration::from_millis(1500)),
        per_message_deflate: Some(false),
        tcp_no_delay: Some(false),
        app: Some("shop".into()),
        host_headers: [("Referer".into(), "r".into())].into(),
    };
    host.create("ws://fake/all", all).await.unwrap();
    log.line(&[r#"{"id":1,"action":"plugin-describe"}"#]).await;
    log.line(&[
        r#"{"id":2,"action":"websocket-create","payload":{"binaryType":"base64","url":"ws://fake/"}}"#,
    ])
    .await;
    log.line(&[concat!(
        r#""action":"websocket-create","app":"shop","headers":{"Referer":"r"},"#,
        r#""payload":{"binaryType":"base64","headers":{"a":"b"},"perMessageDeflate":false,"#,
        r#""protocols":["p"],"tcpNoDelay":false,"timeout":1500,"url":"ws://fake/all"}}"#
    )])
    .await;
}

#[tokio::test]
async fn a_host_and_a_connection_can_be_used_from_any_task() {
    fn sendable<T: Send + Sync + 'static>(_: &T) {}
    let (host, _) = fake().await;
    sendable(&host);
    let websocket = Arc::new(create(&host).await);
    sendable(&websocket);
    let sender = websocket.clone();
    let sending = tokio::spawn(async move { sender.send("from another task").await });
    open_of(next(&websocket).await);
    assert_eq!(next(&websocket).await, text("from another task"));
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_is_a_stream_that_ends() {
    let (host, _) = fake().await;
    let websocket = create(&host).await;
    websocket.send("flood 3").await.unwrap();
    websocket.close().await.unwrap();
    let events: Vec<Event> = websocket.collect().await;
    assert_eq!(events[1..4], [text("0"), text("1"), text("2")]);
    assert!(matches!(events[4..], [Event::Close(_)]), "{events:?}");
}

#[tokio::test]
async fn what_is_dropped_closes_what_it_owns() {
    let (host, log) = fake().await;
    drop(create(&host).await);
    log.line(&["websocket-close", "ws-1"]).await;
    // The plugin outlives its host as long as there is a connection, and ends with it.
    let websocket = create(&host).await;
    drop(host);
    let open = open_of(next(&websocket).await);
    websocket.send("x").await.unwrap();
    assert_eq!(next(&websocket).await, text("x"));
    drop(websocket);
    common::until(|| gone(&open)).await;
}

#[tokio::test]
async fn a_create_that_is_given_up_is_closed_again() {
    let (host, log) = fake().await;
    let short = Duration::from_millis(10);
    let slow = host.create("ws://slow/", CreateOptions::default());
    assert!(timeout(short, slow).await.is_err());
    log.line(&["websocket-close", "ws-1"]).await;
    // Even if the answer has come, and only nobody looks at it any more.
    let mut create = Box::pin(host.create("ws://fake/", CreateOptions::default()));
    poll_fn(|context| Poll::Ready(create.as_mut().poll(context).is_pending())).await;
    host.request("plugin-describe", None).await.unwrap();
    drop(create);
    log.line(&["websocket-close", "ws-2"]).await;
}

#[tokio::test]
async fn a_full_queue_holds_back_its_server_and_so_does_the_app() {
    let (host, log) = fake().await;
    let websocket = create(&host).await;
    open_of(next(&websocket).await);
    websocket.send("flood 1500").await.unwrap();
    log.line(&["websocket-pause"]).await;
    websocket.pause().await.unwrap();
    for number in 0..1500 {
        assert_eq!(next(&websocket).await, text(&number.to_string()));
    }
    // The queue is empty, and the app's pause is left.
    websocket.send("x").await.unwrap();
    log.line(&["websocket-send", "\"x\""]).await;
    assert_eq!(log.count("websocket-resume"), 0);
    websocket.resume().await.unwrap();
    log.line(&["websocket-resume"]).await;
}

#[tokio::test]
async fn many_events_in_linear_time() {
    let (host, _) = fake().await;
    let mut times = Vec::new();
    for count in [20_000, 200_000] {
        let websocket = create(&host).await;
        let start = Instant::now();
        websocket.send(format!("flood {count}")).await.unwrap();
        websocket.close().await.unwrap();
        assert_eq!(websocket.count().await, count + 2);
        times.push(start.elapsed());
    }
    assert!(times[1] < 40 * times[0], "{times:?}");
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let old = r#"echo "wsplugin: error: unrecognized arguments: $0 $*" >&2; exit 2"#;
    for (words, command) in [
        ("No such file", vec!["/nowhere/wsplugin"]),
        ("ended with status 7: words", vec!["sh", "-c", "echo words >&2; exit 7"]),
        ("no line of its protocol", vec!["echo", "no JSON"]),
        (
            "within 300ms (command: sh -c exec sleep 60 --parent-pid",
            vec!["sh", "-c", "exec sleep 60"],
        ),
        ("this wsplugin is of 1.0", vec!["sh", "-c", old]),
    ] {
        let options = Options {
            stderr: Stderr::Nowhere,
            start_timeout: Duration::from_millis(if words.contains("300") { 300 } else { 30_000 }),
            ..Options::new(command)
        };
        match Host::start(options).await {
            Err(Error::PluginEnded { reason, sent: false }) => {
                assert!(reason.contains(words), "{reason}");
            }
            other => panic!("{words}: {:?}", other.err()),
        }
    }
}

#[tokio::test]
async fn what_is_pending_fails_when_the_plugin_dies() {
    let (host, _) = fake().await;
    let websocket = create(&host).await;
    open_of(next(&websocket).await);
    let (pending, dying) = tokio::join!(websocket.send("never answered"), websocket.send("die"));
    dying.unwrap();
    assert!(matches!(pending, Err(Error::PluginEnded { sent: true, .. })), "{pending:?}");
    let Event::Close(close) = next(&websocket).await else { panic!("no close") };
    assert_eq!((close.code, &*close.cause), (1006, "failure"));
    assert_eq!(host.ended().await, 7);
    assert!(host.end().unwrap().starts_with("the plugin ended with status 7"));
}

#[tokio::test]
async fn a_stderr_that_blocks_or_panics_stops_nothing() {
    // Blocks until the test is over.
    let (over, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let blocks = Stderr::Lines(Arc::new(move |_| drop(blocked.lock().map(|over| over.recv()))));
    let panics = Stderr::Lines(Arc::new(|_| panic!("a fault of the app")));
    for stderr in [blocks, panics] {
        let host = Host::start(Options { stderr, ..script() }).await.unwrap();
        let websocket = create(&host).await;
        open_of(next(&websocket).await);
        // More than all buffers on the way hold, each line on stderr as well.
        let much = "x".repeat(1 << 18);
        for _ in 0..40 {
            websocket.send(&*much).await.unwrap();
            assert_eq!(next(&websocket).await, text(&much));
        }
        assert_eq!(host.stop().await, 0);
    }
    drop(over);
}

#[tokio::test]
async fn options_are_appended_unless_they_are_there() {
    let args = |options: Options| async move {
        let log = Log::default();
        let command = ["sh", "-c", "echo options $0 $* >&2"].map(str::to_owned);
        let command = command.into_iter().chain(options.command.clone()).collect();
        let _ = Host::start(Options { command, stderr: log.stderr(), ..options }).await;
        log.line(&["options"]).await
    };
    let appended = args(Options::new(["w"])).await;
    let expected = format!("options w --parent-pid {} --exit-timeout 1.5", std::process::id());
    assert_eq!(appended, expected);
    let named = ["w", "--parent-pid=1", "--exit-timeout", "9"];
    assert_eq!(args(Options::new(named)).await, "options w --parent-pid=1 --exit-timeout 9");
    let as_is = Options { append_options: false, ..Options::new(["w"]) };
    assert_eq!(args(as_is).await, "options w");
}
