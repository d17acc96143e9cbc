import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** What tests/test_java_host.py has the Java host do; the first argument names the method. */
public final class Probe {
    private static final String URL = System.getenv().getOrDefault("URL", "ws://127.0.0.1:1/");

    public static void main(String[] args) throws Exception {
        List<String> plugin = Arrays.asList(args).subList(1, args.length);
        Probe.class.getDeclaredMethod(args[0], List.class).invoke(null, plugin);
    }

    /** Prints each event, and is what a test makes of it. */
    private static class Printer implements Host.Listener {
        final CountDownLatch closed = new CountDownLatch(1);

        @Override
        public void onOpen(Host.WebSocket websocket, Host.Opening opening) throws Exception {
            say("open");
        }

        @Override
        public void onMessage(Host.WebSocket websocket, String text) throws Exception {
            say("text " + text);
        }

        @Override
        public void onMessage(Host.WebSocket websocket, byte[] data) throws Exception {
            say("binary " + Arrays.toString(data));
        }

        @Override
        public void onError(Host.WebSocket websocket, Host.Failure failure) {
            say("error " + failure.code() + " " + failure.status());
        }

        @Override
        public void onClose(Host.WebSocket websocket, int code, String reason, String cause)
                throws Exception {
            say("close " + code + " " + cause + " " + reason);
            closed.countDown();
        }
    }

    private static synchronized void say(Object text) {
        System.out.println(text);
    }

    /** Says how a call has ended. */
    private static void outcome(String name, CompletableFuture<?> call) throws Exception {
        try {
            say(name + ": " + call.get(20, TimeUnit.SECONDS));
        } catch (ExecutionException e) {
            say(name + ": " + e.getCause().getClass().getSimpleName() + " "
                    + e.getCause().getMessage());
        }
    }

    // --- Starting and ending ---------------------------------------------------------------------

    static void start(List<String> plugin) throws Exception {
        Host.Settings settings = new Host.Settings();
        settings.startTimeout = Duration.ofMillis(1_500);
        settings.appendOptions = System.getenv("BARE") == null;
        try {
            Host host = Host.spawn(plugin, settings);
            say("pid " + ProcessHandle.current().pid());
            say("described " + host.description().get("version").getAsString());
            say("features " + host.features());
            say("status " + host.stop());
            say("status " + host.stop());
        } catch (Host.PluginEnded e) {
            say("failed " + e.getMessage().replace("\n", " "));
            say("children " + ProcessHandle.current().children().count());
        }
    }

    static void interruptedStart(List<String> plugin) throws Exception {
        Thread.currentThread().interrupt();
        try {
            Host.spawn(plugin);
        } catch (InterruptedException e) {
            say("interrupted, children " + ProcessHandle.current().children().count());
        }
    }

    static void stopTimed(List<String> plugin) throws Exception {
        Host host = Host.spawn(plugin);
        CompletableFuture<JsonObject> call = host.describe();
        long start = System.nanoTime();
        say("status " + host.stop(Duration.ofMillis(500)));
        say("seconds " + (System.nanoTime() - start) / 1e9);
        outcome("call", call);
    }

    /** Ends by returning from main: nothing but the host can keep the JVM. */
    static void leaveIdle(List<String> plugin) throws Exception {
        Host host = Host.spawn(plugin);
        outcome("described", host.describe().thenApply(description -> "yes"));
    }

    static void leavePending(List<String> plugin) throws Exception {
        Host host = Host.spawn(plugin);
        Thread daemon = new Thread(() ->
                host.background().thenRun(() -> say("answered")));
        daemon.setDaemon(true);
        daemon.start();
        daemon.join();
        say("main returns");
    }

    static void leaveOpen(List<String> plugin) throws Exception {
        Host.spawn(plugin).create(URL, new Printer()).get();
        say("main returns");
    }

    // --- Faults ----------------------------------------------------------------------------------

    static void listenerThrows(List<String> plugin) throws Exception {
        Host.Settings settings = new Host.Settings();
        if (System.getenv("TOLD") != null) {
            settings.faults = (thread, fault) -> {
                say("told " + fault);
                throw new IllegalStateException("a handler that fails, too");
            };
        }
        Host host = Host.spawn(plugin, settings);
        Printer printer = new Printer() {
            @Override
            public void onOpen(Host.WebSocket websocket, Host.Opening opening) throws Exception {
                super.onOpen(websocket, opening);
                throw new Exception("checked");
            }

            @Override
            public void onMessage(Host.WebSocket websocket, String text) throws Exception {
                super.onMessage(websocket, text);
                switch (text) {
                    case "0" -> throw new IllegalStateException("unchecked");
                    case "1" -> throw new OutOfMemoryError("as it were");
                    case "2" -> overflow(0);
                    case "3" -> Thread.currentThread().interrupt();
                    default -> { }
                }
            }

            @Override
            public void onClose(Host.WebSocket websocket, int code, String reason, String cause)
                    throws Exception {
                super.onClose(websocket, code, reason, cause);
                throw new IllegalStateException("the last");
            }
        };
        host.create(URL, printer).get();
        printer.closed.await();
        outcome("host", host.describe().thenApply(description -> "alive"));
        host.stop();
    }

    private static int overflow(int depth) {
        return overflow(depth + 1) + 1;
    }

    static void readerFails(List<String> plugin) throws Exception {
        Host host = Host.spawn(plugin);
        Printer printer = new Printer();
        host.create(URL, printer).get();
        CompletableFuture<?>[] calls = {host.describe(), host.background(), host.describe()};
        for (CompletableFuture<?> call : calls) {
            outcome("call", call);
        }
        printer.closed.await();
        outcome("later", host.describe());
        say("status " + host.stop());
    }

    static void stuckWriter(List<String> plugin) throws Exception {
        Host host = Host.spawn(plugin);
        JsonObject payload = new JsonObject();
        payload.addProperty("much", "x".repeat(1_000_000));
        outcome("call", host.request("websocket-create", payload));
    }

    static void unencodable(List<String> plugin) throws Exception {
        Host host = Host.spawn(plugin);
        JsonObject payload = new JsonObject();
        payload.add("n", new JsonPrimitive(Double.NaN));
        outcome("number", host.request("websocket-create", payload));
        Host.Options options = new Host.Options();
        options.headers = Map.of("X", "half \ud83d");
        outcome("header", host.create(URL, options, new Printer()));
        outcome("app", host.background("\udc4b"));
        outcome("next", host.describe().thenApply(description -> "answered"));
    }

    static void answers(List<String> plugin) throws Exception {
        Host host = Host.spawn(plugin);
        for (int i = 0; i < 3; i++) {
            outcome("call", host.describe());
        }
        say("status " + host.stop());
    }

    // --- Connections -----------------------------------------------------------------------------

    static void buffers(List<String> plugin) throws Exception {
        Host host = Host.spawn(plugin);
        Printer printer = new Printer();
        Host.WebSocket websocket = host.create(URL, printer).get();
        byte[] bytes = {0, 1, 2, 3, 4, 5, 6, 7};
        ByteBuffer slice = ByteBuffer.wrap(bytes, 2, 4).slice();
        slice.position(1);
        ByteBuffer direct = ByteBuffer.allocateDirect(3);
        direct.put(bytes, 5, 3).flip();
        websocket.send(bytes).get();
        websocket.send(slice).get();
        websocket.send(slice.asReadOnlyBuffer()).get();
        websocket.send(direct).get();
        websocket.send(ByteBuffer.allocate(0)).get();
        say("positions " + slice.position() + " " + slice.limit() + " " + direct.position());
        websocket.close(1000, "").get();
        printer.closed.await();
        host.stop();
    }

    static void everything(List<String> plugin) throws Exception {
        Host host = Host.spawn(plugin);
        Host.Options options = new Host.Options();
        options.headers = Map.of("X-App", "a");
        options.hostHeaders = Map.of("X-Host", "h");
        options.protocols = List.of("chat");
        options.timeout = Duration.ofSeconds(10);
        options.perMessageDeflate = false;
        options.tcpNoDelay = false;
        options.app = "shop";
        CountDownLatch open = new CountDownLatch(1);
        Printer printer = new Printer() {
            @Override
            public void onOpen(Host.WebSocket websocket, Host.Opening opening) {
                say("open " + opening.protocol() + " '" + opening.extensions() + "' "
                        + opening.headers().get("upgrade") + " "
                        + opening.profile().keySet().contains("handshakeCost"));
                open.countDown();
            }
        };
        Host.WebSocket websocket = host.create(URL, options, printer).get();
        open.await();
        outcome("ping", websocket.ping(Duration.ofSeconds(5)).thenApply(rtt -> !rtt.isNegative()));
        outcome("pause", websocket.pause());
        outcome("resume", websocket.resume());
        outcome("background of another", host.background("other"));
        outcome("close", websocket.close(1000, "now", Duration.ZERO));
        printer.closed.await();
        outcome("too late", websocket.send("x"));
        outcome("background", host.background());
        say("status " + host.stop());
    }

    static void executors(List<String> plugin) throws Exception {
        ExecutorService ui = Executors.newSingleThreadExecutor(task -> new Thread(task, "ui"));
        Host.Settings settings = new Host.Settings();
        settings.executor = ui;
        Host host = Host.spawn(plugin, settings);
        Printer printer = new Printer() {
            @Override
            public void onMessage(Host.WebSocket websocket, String text) {
                say(text + " on " + Thread.currentThread().getName());
                if (text.equals("1")) {
                    ui.shutdown();
                }
            }
        };
        host.create(URL, printer).get();
        printer.closed.await();
        host.stop();
    }

    /** Has a plugin that cannot pause queue so many events behind a listener, then lets it go. */
    static void drain(List<String> plugin) throws Exception {
        for (int count : new int[] {50_000, 50_000, 200_000}) {
            Host host = Host.spawn(plugin);
            CountDownLatch go = new CountDownLatch(1);
            AtomicInteger heard = new AtomicInteger();
            Printer printer = new Printer() {
                @Override
                public void onOpen(Host.WebSocket websocket, Host.Opening opening)
                        throws InterruptedException {
                    go.await();
                }

                @Override
                public void onMessage(Host.WebSocket websocket, String text) {
                    heard.incrementAndGet();
                }

                @Override
                public void onClose(Host.WebSocket websocket, int code, String reason, String cause) {
                    closed.countDown();
                }
            };
            host.create("ws://127.0.0.1:1/" + count, printer).get();
            long start = System.nanoTime();
            outcome("queued", host.describe().thenApply(description -> "all"));
            go.countDown();
            printer.closed.await();
            say(heard + " in " + (System.nanoTime() - start) / 1e9);
            host.stop();
        }
    }

    static void flood(List<String> plugin) throws Exception {
        Host host = Host.spawn(plugin);
        outcome("warm", host.describe().thenApply(description -> "yes"));
        AtomicInteger heard = new AtomicInteger();
        CountDownLatch enough = new CountDownLatch(120);
        Printer printer = new Printer() {
            @Override
            public void onMessage(Host.WebSocket websocket, byte[] data) throws Exception {
                heard.incrementAndGet();
                enough.countDown();
                Thread.sleep(50);
            }
        };
        long before = live();
        long resident = resident();
        Host.WebSocket websocket = host.create(URL, printer).get();
        enough.await(); // after six seconds
        say("resident " + (resident() - resident));
        say("heard " + heard.get() + " grown " + (live() - before));
        websocket.close(1000, "", Duration.ZERO);
        host.stop();
    }

    private static long live() {
        System.gc();
        return ManagementFactory.getMemoryMXBean().getHeapMemoryUsage().getUsed();
    }

    private static long resident() throws Exception {
        String pages = Files.readString(Path.of("/proc/self/statm")).split(" ")[1];
        return Long.parseLong(pages) * 4_096;
    }

    // --- stderr ----------------------------------------------------------------------------------

    static void stderrLines(List<String> plugin) throws Exception {
        Host.Settings settings = new Host.Settings();
        AtomicInteger lines = new AtomicInteger();
        settings.faults = (thread, fault) -> { };
        CountDownLatch never = new CountDownLatch(1);
        settings.stderr = line -> {
            switch (System.getenv("STDERR")) {
                case "count" -> lines.incrementAndGet();
                case "throw" -> throw new IllegalStateException(lines.incrementAndGet() + line);
                default -> {
                    try {
                        never.await();
                    } catch (InterruptedException e) {
                        say(e);
                    }
                }
            }
        };
        Host host = Host.spawn(plugin, settings);
        outcome("answer", host.describe().thenApply(description -> "yes"));
        outcome("death", host.describe());
        say("lines " + lines);
    }
}
