//! A plugin that dies, again and again.

mod common;

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{gone, open_of, script, until};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use wsplugin::{Clock, CreateOptions, Death, Error, Event, Options, Supervisor};

/// A clock that a test sets. Short waits are over at once, and have taken their time then; a long
/// one waits for a permit.
#[derive(Clone)]
struct Hand(Arc<(Mutex<Time>, Semaphore)>);

/// What it is, and what has been waited for.
type Time = (Instant, Vec<Duration>);

impl Hand {
    fn new() -> Self {
        Self(Arc::new((Mutex::new((Instant::now(), Vec::new())), Semaphore::new(0))))
    }

    fn pass(&self, time: Duration) {
        self.0.0.lock().unwrap().0 += time;
    }

    fn end_a_long_wait(&self) {
        self.0.1.add_permits(1);
    }
}

impl Clock for Hand {
    fn now(&self) -> Instant {
        self.0.0.lock().unwrap().0
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let this = self.clone();
        this.0.0.lock().unwrap().1.push(time);
        Box::pin(async move {
            if time > Duration::from_secs(2) {
                this.0.1.acquire().await.unwrap().forget();
            } else {
                this.pass(time);
            }
        })
    }
}

async fn supervised(clock: &Hand) -> (Supervisor, mpsc::UnboundedReceiver<Death>) {
    let (sender, deaths) = mpsc::unbounded_channel();
    let told = move |death: &Death| drop(sender.send(death.clone()));
    (Supervisor::start_with(script(), told, clock.clone()).await.unwrap(), deaths)
}

async fn kill(supervisor: &Supervisor) {
    let host = supervisor.host().await.unwrap();
    host.kill();
    host.ended().await;
}

#[tokio::test]
async fn a_plugin_that_dies_is_started_again_but_not_for_ever() {
    let clock = Hand::new();
    let (supervisor, mut deaths) = supervised(&clock).await;
    let create = || supervisor.create("ws://fake/", CreateOptions::default());
    for _ in 0..2 {
        for starts in 1..5 {
            kill(&supervisor).await;
            // A create waits for the next one.
            let websocket = create().await.unwrap();
            open_of(websocket.next().await.unwrap());
            let death = deaths.recv().await.unwrap();
            assert_eq!((death.starts, death.gave_up), (starts, false));
            assert!(death.reason.starts_with("the plugin was killed by signal 9"), "{death:?}");
            clock.pass(Duration::from_secs(1));
        }
        // The fifth start was the last for three minutes after the first.
        kill(&supervisor).await;
        let death = deaths.recv().await.unwrap();
        assert_eq!((death.starts, death.gave_up), (5, true));
        let Err(Error::PluginEnded { reason, .. }) = create().await else { panic!("created") };
        assert!(reason.contains("started 5 times in 180s"), "{reason}");
        clock.pass(Duration::from_secs(180));
        clock.end_a_long_wait();
        while create().await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let waits = clock.0.0.lock().unwrap().1.clone();
    let expected = [0, 500, 1000, 2000, 172_500].map(Duration::from_millis);
    assert_eq!(waits, [expected, expected].concat());
    assert_eq!(supervisor.stop().await, 0);
    assert!(create().await.is_err());
}

#[tokio::test]
async fn a_start_that_fails_is_told_the_first_at_once() {
    let nowhere = Options::new(["/nowhere"]);
    assert!(Supervisor::start(nowhere, |_| {}).await.is_err());
    let path = std::env::temp_dir().join(format!("wsplugin-{}", std::process::id()));
    let mut options = script();
    std::fs::write(&path, format!("#!/bin/sh\nexec {}\n", options.command.join(" "))).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    options.command = vec![path.to_str().unwrap().to_owned()];
    let (sender, mut deaths) = mpsc::unbounded_channel();
    let told = move |death: &Death| drop(sender.send(death.clone()));
    let supervisor = Supervisor::start_with(options, told, Hand::new()).await.unwrap();
    std::fs::remove_file(path).unwrap();
    kill(&supervisor).await;
    let mut reasons = Vec::new();
    while let Some(death) = deaths.recv().await {
        reasons.push(death.reason);
        if death.gave_up {
            break;
        }
    }
    assert_eq!(reasons.len(), 5);
    assert!(reasons[1..].iter().all(|reason| reason.contains("No such file")), "{reasons:?}");
}

#[tokio::test]
async fn the_plugin_ends_with_the_last_handle() {
    let supervisor = Supervisor::start(script(), |_| {}).await.unwrap();
    let websocket = supervisor.create("ws://fake/", CreateOptions::default()).await.unwrap();
    let open = open_of(websocket.next().await.unwrap());
    drop(supervisor);
    drop(websocket);
    until(|| gone(&open)).await;
}

/// With everything that a plugin can be asked for going on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_deaths_under_load() {
    let clock = Hand::new();
    let (supervisor, mut deaths) = supervised(&clock).await;
    let over = Arc::new(AtomicBool::new(false));
    let pids = Arc::new(Mutex::new(HashSet::new()));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (supervisor, over, pids) = (supervisor.clone(), over.clone(), pids.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let creating = supervisor.create("ws://fake/", CreateOptions::default());
                    let Ok(websocket) = creating.await else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    // Each of these returns.
                    let _ = tokio::join!(
                        websocket.send("x"),
                        websocket.ping(None),
                        websocket.pause(),
                        websocket.resume(),
                        websocket.close(),
                    );
                    let mut last = None;
                    while let Some(event) = websocket.next().await {
                        if let Event::Open(open) = &event {
                            pids.lock().unwrap().insert(open.headers["pid"].clone());
                        }
                        last = Some(event);
                    }
                    assert!(matches!(last, Some(Event::Close(_))), "{last:?}");
                }
            })
        })
        .collect();
    let mut gave_up = 0;
    for count in 1..=10 {
        until(|| pids.lock().unwrap().len() == count).await; // the next plugin is at work
        kill(&supervisor).await;
        let death = deaths.recv().await.unwrap();
        if death.gave_up {
            gave_up += 1;
            clock.pass(death.wait);
            clock.end_a_long_wait();
        }
    }
    over.store(true, Ordering::Relaxed);
    for task in load {
        timeout(common::CEILING, task).await.expect("a call is left").unwrap();
    }
    while supervisor.host().await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((supervisor.stop().await, gave_up), (0, 2));
    let pids = pids.lock().unwrap();
    assert!(pids.len() >= 10, "{pids:?}");
    for pid in &*pids {
        assert!(!PathBuf::from("/proc").join(pid).exists(), "process {pid} is left");
    }
}
