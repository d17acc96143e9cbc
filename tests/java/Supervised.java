import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** What tests/test_java_supervisor.py has the supervisor do; the first argument names the method. */
public final class Supervised {
    private static final String URL = System.getenv().getOrDefault("URL", "ws://127.0.0.1:1/");

    public static void main(String[] args) throws Exception {
        List<String> plugin = Arrays.asList(args).subList(1, args.length);
        Supervised.class.getDeclaredMethod(args[0], List.class).invoke(null, plugin);
    }

    /** A clock whose sleeps take no time, but for the long ones, which last until they are let go. */
    private static final class TestClock implements Supervisor.Clock {
        final CountDownLatch longSleep = new CountDownLatch(1);
        final CountDownLatch letGo = new CountDownLatch(1);
        private long time = 0;

        @Override
        public synchronized long now() {
            return time;
        }

        @Override
        public void sleep(long duration) throws InterruptedException {
            say("sleep " + duration);
            if (duration > 2_000) {
                longSleep.countDown();
                letGo.await();
            }
            synchronized (this) {
                time += duration;
            }
        }
    }

    private static final class Closes implements Host.Listener {
        final CompletableFuture<String> closed = new CompletableFuture<>();
        final AtomicInteger count = new AtomicInteger();

        @Override
        public void onClose(Host.WebSocket websocket, int code, String reason, String cause) {
            count.incrementAndGet();
            closed.complete(code + " " + cause);
        }
    }

    private static synchronized void say(Object text) {
        System.out.println(text);
    }

    private static String outcome(CompletableFuture<?> call) throws Exception {
        try {
            call.get(60, TimeUnit.SECONDS);
            return "done";
        } catch (ExecutionException e) {
            return e.getCause().getClass().getSimpleName() + " " + e.getCause().getMessage();
        }
    }

    private static CompletableFuture<Host.WebSocket> create(Supervisor supervisor, Closes closes) {
        return supervisor.create(URL, new Host.Options(), closes);
    }

    private static void kill() {
        ProcessHandle.current().children().forEach(ProcessHandle::destroyForcibly);
    }

    private static long children() {
        return ProcessHandle.current().children().filter(ProcessHandle::isAlive).count();
    }

    /** Kills the plugin under load, again and again. */
    static void kills(List<String> plugin) throws Exception {
        TestClock clock = new TestClock();
        Supervisor supervisor = Supervisor.start(() -> Host.spawn(plugin), words -> { }, clock);
        for (int start = 1; start <= 5; start++) {
            List<Closes> connections = new ArrayList<>();
            List<CompletableFuture<?>> calls = new ArrayList<>();
            for (int i = 0; i < 3; i++) {
                Closes closes = new Closes();
                connections.add(closes);
                Host.WebSocket websocket = create(supervisor, closes).get(60, TimeUnit.SECONDS);
                for (int n = 0; n < 50; n++) {
                    calls.add(websocket.send("x".repeat(10_000)));
                }
            }
            kill();
            for (Closes closes : connections) {
                say(closes.closed.get(60, TimeUnit.SECONDS));
            }
            for (CompletableFuture<?> call : calls) {
                outcome(call);
            }
            say("closes " + connections.stream().mapToInt(c -> c.count.get()).sum());
        }
        clock.longSleep.await();
        say(outcome(create(supervisor, new Closes())).replaceAll(" with status.*;", "..."));
        say("background " + outcome(supervisor.background(null)));
        clock.letGo.countDown();
        // As long as it fails, the three minutes have not passed for the supervisor.
        while (supervisor.host().isCompletedExceptionally()) {
            Thread.onSpinWait();
        }
        Closes closes = new Closes();
        say("afterwards " + outcome(create(supervisor, closes)));
        kill();
        closes.closed.get();
        say("and again " + outcome(create(supervisor, new Closes())));
        say("status " + supervisor.stop());
        say("children " + children());
        say(outcome(create(supervisor, new Closes())));
    }

    /** A create waits while the plugin is started again, also after failed starts. */
    static void waits(List<String> plugin) throws Exception {
        CountDownLatch go = new CountDownLatch(1);
        AtomicInteger starts = new AtomicInteger();
        Supervisor.Starter starter = () -> {
            int start = starts.incrementAndGet();
            if (start == 2) {
                go.await();
            }
            return Host.spawn(start == 2 || start == 3 ? List.of("/nonexistent/plugin") : plugin);
        };
        Supervisor supervisor = Supervisor.start(starter, words -> {
            throw new IllegalStateException("told in vain");
        }, new TestClock());
        Closes closes = new Closes();
        create(supervisor, closes).get();
        kill();
        say(closes.closed.get());
        CompletableFuture<Host.WebSocket> waiting = create(supervisor, new Closes());
        say("waits " + !waiting.isDone());
        go.countDown();
        say(outcome(waiting));
        say("starts " + starts);
        say("status " + supervisor.stop());
    }

    /** A create that waits keeps the JVM, though main has returned. */
    static void leaveWaiting(List<String> plugin) throws Exception {
        AtomicInteger starts = new AtomicInteger();
        Supervisor supervisor = Supervisor.start(() -> {
            if (starts.incrementAndGet() > 1) {
                Thread.sleep(2_000); // much longer than a JVM takes to end
            }
            return Host.spawn(plugin);
        }, words -> { });
        kill();
        awaitDeath(supervisor);
        create(supervisor, new Closes()).thenRun(() -> {
            say("created");
            System.exit(0);
        });
        say("main returns");
    }

    static void faults(List<String> plugin) throws Exception {
        AtomicInteger starts = new AtomicInteger();
        Supervisor supervisor = Supervisor.start(() -> {
            if (starts.incrementAndGet() > 1) {
                throw new IllegalStateException("a starter's fault");
            }
            return Host.spawn(plugin);
        }, words -> { }, new TestClock());
        Closes closes = new Closes();
        create(supervisor, closes).get();
        kill();
        say(closes.closed.get());
        say(outcome(create(supervisor, new Closes())));
        say("status " + supervisor.stop());
        try {
            Supervisor.start(() -> Host.spawn(List.of("/nonexistent/plugin")), words -> { });
        } catch (Host.PluginEnded e) {
            say("not started");
        }
    }

    static void stopMeanwhile(List<String> plugin) throws Exception {
        AtomicInteger starts = new AtomicInteger();
        CountDownLatch starting = new CountDownLatch(1);
        Supervisor supervisor = Supervisor.start(() -> {
            if (starts.incrementAndGet() > 1) {
                starting.countDown();
                return Host.spawn(List.of("sleep", "60"), bare());
            }
            return Host.spawn(plugin);
        }, words -> { });
        kill();
        awaitDeath(supervisor);
        CompletableFuture<Host.WebSocket> waiting = create(supervisor, new Closes());
        starting.await();
        say("status " + supervisor.stop());
        say(outcome(waiting));
        say("children " + children());
    }

    private static void awaitDeath(Supervisor supervisor) {
        while (supervisor.host().isDone()) {
            Thread.onSpinWait();
        }
    }

    private static Host.Settings bare() {
        Host.Settings settings = new Host.Settings();
        settings.appendOptions = false;
        settings.startTimeout = Duration.ofSeconds(60);
        return settings;
    }
}
