//! Keeps a plugin running.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::{CreateOptions, Error, Host, Options, Result, WebSocket};

/// How long it is waited before each start but the first. There is no further one within the time
/// below.
const DELAYS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
const WINDOW: Duration = Duration::from_secs(180);

/// The plugin has died, or could not be started again.
#[derive(Clone, Debug)]
pub struct Death {
    pub reason: String,
    /// How often it was started within three minutes.
    pub starts: usize,
    /// Until it is started again.
    pub wait: Duration,
    /// Five starts in three minutes were the last: until then every create fails.
    pub gave_up: bool,
}

/// What a supervisor takes for the time; tests have one of their own.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(sleep(time))
    }
}

struct SystemClock;

impl Clock for SystemClock {}

#[derive(Clone)]
enum Status {
    Running(Host),
    Starting,
    Failed(String),
}

/// Keeps a plugin running: one that dies is started again, at once, then after 0.5, 1 and 2 s.
/// After the fifth start within three minutes it fails at once until they have passed. A clone is
/// another handle to the same; with the last one the supervision ends, and the plugin.
///
/// When the plugin dies, every connection gets its close, with the cause `failure`, and what was
/// asked of it fails: nothing is sent twice. To connect again is the app's, with pauses that
/// chance spreads, since after a server's fault all its clients come back:
///
/// ```no_run
/// use std::time::Duration;
/// use tokio::{sync::watch, time::sleep};
/// use wsplugin::{Event, Options, Result, Supervisor};
///
/// # fn random() -> f64 { 0.5 }
/// async fn stay_connected(mut network: watch::Receiver<()>) -> Result<()> {
///     let supervisor = Supervisor::start(Options::default(), |death| eprintln!("{death:?}")).await?;
///     let mut pause = 1.0;
///     loop {
///         match supervisor.create("wss://example.com/", Default::default()).await {
///             Ok(websocket) => loop {
///                 tokio::select! {
///                     event = websocket.next() => match event {
///                         Some(Event::Open(_)) => pause = 1.0,
///                         Some(event) => println!("{event:?}"),
///                         None => break,
///                     },
///                     // The connection still works, or it fails now and not in minutes: which of
///                     // both, the events tell.
///                     Ok(()) = network.changed() => {
///                         let _ = websocket.ping(Some(Duration::from_secs(3))).await;
///                     }
///                 }
///             },
///             Err(refused @ wsplugin::Error::Request { .. }) => return Err(refused),
///             Err(ended) => eprintln!("{ended}"),
///         }
///         sleep(Duration::from_secs_f64(pause * (0.5 + random()))).await;
///         pause = f64::min(2.0 * pause, 60.0);
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Supervisor(Arc<Handle>);

struct Handle {
    status: watch::Receiver<Status>,
    task: AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Supervisor {
    /// Start the plugin and keep it running. `on_death` is called at each death and each start
    /// that fails, from the task of the supervisor, which waits for it.
    ///
    /// # Errors
    ///
    /// The first start fails; it is not tried again.
    pub async fn start(
        options: Options,
        on_death: impl Fn(&Death) + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::start_with(options, on_death, SystemClock).await
    }

    /// The same with another clock.
    ///
    /// # Errors
    ///
    /// The first start fails; it is not tried again.
    pub async fn start_with(
        options: Options,
        on_death: impl Fn(&Death) + Send + Sync + 'static,
        clock: impl Clock,
    ) -> Result<Self> {
        let starts = VecDeque::from([clock.now()]);
        let host = Host::start(options.clone()).await?;
        let (sender, status) = watch::channel(Status::Running(host));
        let task = tokio::spawn(supervise(options, on_death, clock, starts, sender));
        Ok(Self(Arc::new(Handle { status, task: task.abort_handle() })))
    }

    /// Create a connection, as [`Host::create`] does. While the plugin is started again it waits.
    ///
    /// # Errors
    ///
    /// As [`Supervisor::host`], or the plugin refuses it, or dies before it has answered.
    pub async fn create(&self, url: &str, options: CreateOptions) -> Result<WebSocket> {
        loop {
            match self.host().await?.create(url, options.clone()).await {
                // It has died before it was asked: there will be another.
                Err(Error::PluginEnded { sent: false, .. }) => {}
                created => return created,
            }
        }
    }

    /// The host of the plugin that runs, as soon as there is one: for all that is asked of a
    /// plugin beyond connections, which know theirs.
    ///
    /// # Errors
    ///
    /// It has been started too often, or was stopped.
    pub async fn host(&self) -> Result<Host> {
        let mut status = self.0.status.clone();
        loop {
            let failed = match &*status.borrow_and_update() {
                Status::Running(host) if host.end().is_none() => return Ok(host.clone()),
                Status::Failed(reason) => Some(reason.clone()),
                _ => None,
            };
            if let Some(reason) = failed {
                return Err(Error::PluginEnded { reason, sent: false });
            }
            if status.changed().await.is_err() {
                let reason = "the host has stopped the plugin".to_owned();
                return Err(Error::PluginEnded { reason, sent: false });
            }
        }
    }

    /// Stop the plugin, for good, and return its exit status, 0 if none runs.
    pub async fn stop(&self) -> i32 {
        self.0.task.abort();
        let status = self.0.status.borrow().clone();
        match status {
            Status::Running(host) => host.stop().await,
            _ => 0,
        }
    }
}

async fn supervise(
    options: Options,
    on_death: impl Fn(&Death),
    clock: impl Clock,
    mut starts: VecDeque<Instant>,
    status: watch::Sender<Status>,
) {
    loop {
        let running = status.borrow().clone();
        let Status::Running(host) = running else { return };
        host.ended().await;
        let mut reason = host.end().unwrap_or_default();
        status.send_replace(Status::Starting);
        let host = loop {
            let now = clock.now();
            starts.retain(|start| now.duration_since(*start) < WINDOW);
            let mut death =
                Death { reason, starts: starts.len(), wait: Duration::ZERO, gave_up: false };
            if let Some(last) = starts.len().checked_sub(1) {
                death.gave_up = last >= DELAYS.len();
                let rest = || starts[0] + WINDOW - now;
                death.wait = DELAYS.get(last).copied().unwrap_or_else(rest);
            }
            if death.gave_up {
                status.send_replace(Status::Failed(format!(
                    "{}; it was started {} times in {WINDOW:?}, and is not for {:?}",
                    death.reason, death.starts, death.wait
                )));
            }
            on_death(&death);
            clock.sleep(death.wait).await;
            starts.push_back(clock.now());
            match Host::start(options.clone()).await {
                Ok(host) => break host,
                Err(error) => reason = error.to_string(),
            }
        };
        status.send_replace(Status::Running(host));
    }
}
