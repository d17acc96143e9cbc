import java.time.Duration;
import java.util.ArrayDeque;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;

/**
 * Starts the plugin again when it has died; to copy beside Host.java, for apps that want it.
 *
 * <pre>{@code
 * Supervisor supervisor = Supervisor.start(() -> Host.spawn(List.of("wsplugin")), log::warning);
 * supervisor.create("wss://example.com/", new Host.Options(), listener);
 * }</pre>
 *
 * <p>When the plugin dies, what was asked of it fails with {@link Host.PluginEnded}, and every
 * connection gets its close with the cause "failure", as without a supervisor: whether what was on
 * the way has been sent, nobody knows, so nothing is sent a second time. Only a create that finds
 * no plugin waits for the next one. Connecting again is the app's, from {@code onClose}, after a
 * delay that grows with each failure and is random, so that not all come back to a server at once.
 * When the network has changed, {@link Host.WebSocket#ping} finds out which connections are lost.
 *
 * <p>The plugin is started again at once, then after 0.5, 1 and 2 seconds. One that has been
 * started five times within three minutes is not well: until they have passed every create fails
 * at once.
 */
public final class Supervisor {
    /** Milliseconds before a start, by how many there were within the period. */
    private static final long[] DELAYS = {0, 0, 500, 1_000, 2_000};
    private static final long PERIOD = 180_000;
    private static final String STOPPED = "the supervisor has been stopped";

    /** How the plugin is started. */
    public interface Starter {
        /** Called for each start. */
        Host start() throws Host.PluginEnded, InterruptedException;
    }

    /** The time, in milliseconds from anywhere. */
    interface Clock {
        long now();

        void sleep(long time) throws InterruptedException;
    }

    private static final class SystemClock implements Clock {
        @Override
        public long now() {
            return Duration.ofNanos(System.nanoTime()).toMillis();
        }

        @Override
        public void sleep(long time) throws InterruptedException {
            Thread.sleep(time);
        }
    }

    private interface Task {
        void run() throws InterruptedException;
    }

    private final Starter starter;
    private final Consumer<String> tell;
    private final Clock clock;
    /** When the plugin was started within the period; guarded by this, as is all below. */
    private final ArrayDeque<Long> starts = new ArrayDeque<>();
    /** The plugin that was started last. */
    private Host host;
    /** The plugin that a create is for, when it runs. */
    private CompletableFuture<Host> next = new CompletableFuture<>();
    /** Watches the plugin or starts the next one, then makes the thread that takes over. */
    private Thread keeper;
    private boolean isStopped = false;

    private Supervisor(Starter starter, Consumer<String> tell, Clock clock) {
        this.starter = starter;
        this.tell = tell;
        this.clock = clock;
    }

    /**
     * Start the plugin, and keep it running until {@link #stop}. One that fails to start at all is
     * not tried again. What happens is told in words, on a thread that waits for it.
     */
    public static Supervisor start(Starter starter, Consumer<String> tell)
            throws Host.PluginEnded, InterruptedException {
        return start(starter, tell, new SystemClock());
    }

    static Supervisor start(Starter starter, Consumer<String> tell, Clock clock)
            throws Host.PluginEnded, InterruptedException {
        Supervisor supervisor = new Supervisor(starter, tell, clock);
        supervisor.launch();
        return supervisor;
    }

    /** Create a connection, see {@link Host#create}; where no plugin runs, wait for one. */
    public CompletableFuture<Host.WebSocket> create(
            String url, Host.Options options, Host.Listener listener) {
        return host().thenCompose(running -> running.create(url, options, listener));
    }

    /** Tell that the app leaves the screen; where no plugin runs, nothing has to end. */
    public CompletableFuture<Void> background(String app) {
        CompletableFuture<Host> running = host();
        return running.isDone() && !running.isCompletedExceptionally()
                ? running.join().background(app) : CompletableFuture.completedFuture(null);
    }

    /** The plugin that runs, or will; fails while there is none to wait for. */
    public synchronized CompletableFuture<Host> host() {
        if (next.isDone() && !next.isCompletedExceptionally() && host.refusal != null) {
            await();
        }
        return next;
    }

    /** From now on a create waits, and with it the JVM. */
    private synchronized void await() {
        if (!isStopped) {
            next = new CompletableFuture<>();
            // The first to hang on a future is the last to be called: each create has gone out.
            CompletableFuture<?> over = next.handle((started, failure) -> null);
            Thread holder = new Thread(over::join, "wsplugin supervisor's wait");
            holder.setDaemon(false);
            holder.start();
        }
    }

    /** End the plugin for good, and return its exit status. */
    public int stop() throws InterruptedException {
        Thread last;
        synchronized (this) {
            isStopped = true;
            last = keeper;
        }
        fail(STOPPED);
        if (last != Thread.currentThread()) {
            last.interrupt();
            last.join();
        }
        return host.stop();
    }

    private void launch() throws Host.PluginEnded, InterruptedException {
        synchronized (this) {
            starts.add(clock.now());
        }
        Host started = starter.start();
        CompletableFuture<Host> waited;
        synchronized (this) {
            host = started;
            waited = next;
        }
        keep(() -> watch(started));
        waited.complete(started);
    }

    private synchronized void keep(Task task) {
        if (!isStopped) {
            keeper = new Thread(() -> run(task), "wsplugin supervisor");
            keeper.setDaemon(true);
            keeper.start();
        }
    }

    private void run(Task task) {
        try {
            task.run();
        } catch (InterruptedException e) { // by stop
            fail(STOPPED);
        } catch (RuntimeException | Error e) { // the starter's
            fail("nobody starts the plugin again: " + e);
            throw e;
        }
    }

    private void watch(Host watched) throws InterruptedException {
        watched.watcher.join();
        host();
        plan(watched.refusal);
    }

    /** Finds out when the plugin is started again. */
    private void plan(String reason) throws InterruptedException {
        int count;
        long wait;
        synchronized (this) {
            while (!starts.isEmpty() && starts.peek() <= clock.now() - PERIOD) {
                starts.remove();
            }
            count = starts.size();
            wait = count < DELAYS.length
                    ? DELAYS[count] : starts.peek() + PERIOD - clock.now();
        }
        if (count < DELAYS.length) {
            say(reason + "; it is started again in " + wait + " ms");
            keep(() -> relaunch(wait));
        } else {
            String words = reason + "; it was started " + count + " times in three minutes";
            fail(words);
            say(words + ", and is not for another " + wait + " ms");
            clock.sleep(wait);
            await();
            keep(() -> relaunch(0));
        }
    }

    private void relaunch(long wait) throws InterruptedException {
        try {
            clock.sleep(wait);
            launch();
        } catch (Host.PluginEnded e) {
            keep(() -> plan(e.getMessage()));
        }
    }

    private void say(String words) {
        try {
            tell.accept(words);
        } catch (RuntimeException e) {
            Thread thread = Thread.currentThread();
            thread.getUncaughtExceptionHandler().uncaughtException(thread, e);
        }
    }

    /** Fails what waits, and what comes. */
    private void fail(String words) {
        CompletableFuture<Host> waited;
        CompletableFuture<Host> failed = new CompletableFuture<>();
        failed.completeExceptionally(new Host.PluginEnded(words));
        synchronized (this) {
            waited = next;
            next = failed;
        }
        waited.completeExceptionally(new Host.PluginEnded(words));
    }
}
