//! A plugin for the tests, and what it has been told.
#![allow(dead_code)] // each test program uses some of it

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use wsplugin::{Event, Host, Open, Options, Stderr};

/// Bounds what a test waits for; nothing takes that long.
pub const CEILING: Duration = Duration::from_secs(60);

/// The lines that a plugin has written to its stderr.
#[derive(Clone, Default)]
pub struct Log(Arc<(Mutex<Vec<String>>, Notify)>);

impl Log {
    pub fn stderr(&self) -> Stderr {
        let log = self.0.clone();
        Stderr::Lines(Arc::new(move |line| {
            log.0.lock().unwrap().push(line.to_owned());
            log.1.notify_one();
        }))
    }

    /// Wait for a line that has all of these words.
    pub async fn line(&self, words: &[&str]) -> String {
        let found = async {
            loop {
                let lines = self.0.0.lock().unwrap().clone();
                let has_all = |line: &&String| words.iter().all(|word| line.contains(word));
                if let Some(line) = lines.iter().find(has_all) {
                    return line.clone();
                }
                self.0.1.notified().await;
            }
        };
        tokio::time::timeout(CEILING, found).await.unwrap_or_else(|_| panic!("no line {words:?}"))
    }

    pub fn count(&self, word: &str) -> usize {
        self.0.0.lock().unwrap().iter().filter(|line| line.contains(word)).count()
    }
}

/// The options of a plugin that echoes, without a network.
pub fn script() -> Options {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake.py");
    Options { stderr: Stderr::Nowhere, ..Options::new(["python3", "-S", script]) }
}

/// Such a plugin, and the lines that it reads.
pub async fn fake() -> (Host, Log) {
    let log = Log::default();
    let host = Host::start(Options { stderr: log.stderr(), ..script() }).await.unwrap();
    (host, log)
}

pub fn open_of(event: Event) -> Open {
    match event {
        Event::Open(open) => open,
        other => panic!("{other:?}"),
    }
}

/// Whether the plugin of this connection is gone.
pub fn gone(open: &Open) -> bool {
    !Path::new("/proc").join(&open.headers["pid"]).exists()
}

/// Wait for what nobody tells of.
pub async fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < CEILING);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
