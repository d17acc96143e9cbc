import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Consumer;

/**
 * A host for wsplugin in one file to copy: Java 17 or Android (API level 26), and Gson.
 *
 * <p>Demo.java beside this file shows it at work and says how to run it. In short:
 *
 * <pre>{@code
 * Host host = Host.spawn(List.of("wsplugin", "--allow-host", "example.com"));
 * host.create("wss://example.com/", new Host.Listener() {
 *     public void onOpen(Host.WebSocket websocket, Host.Opening opening) {
 *         websocket.send("hello");
 *     }
 * });
 * }</pre>
 *
 * <p>No method blocks but {@link #spawn} and {@link #stop}. The events of one connection come in
 * order and one at a time, those of different connections side by side, on threads of the host's
 * own or on an executor of the app's choice. There a listener may wait for anything: what arrives
 * meanwhile waits in a queue, and when that is full, the server of this connection has to wait.
 *
 * <p>All threads are daemons, but as long as a call is pending or a connection is not closed, one
 * more thread keeps the JVM from ending.
 */
public final class Host {
    private static final int CHUNK = 65_536;
    private static final int LONGEST_ERROR_LINE = 8_192;
    private static final Duration GRACE = Duration.ofSeconds(5);
    /** How long the rest of the output may take once the process is gone, in milliseconds. */
    private static final long REST = 1_000;
    /** How long a connection may use a thread of the executor while others wait for it. */
    private static final long TURN = TimeUnit.MILLISECONDS.toNanos(10);
    /** Unlike JsonElement.toString, this refuses numbers that JSON does not have. */
    private static final Gson JSON =
            new GsonBuilder().serializeNulls().disableHtmlEscaping().create();

    /**
     * What happens to a connection; {@link #onClose} comes once and last, even if the plugin dies.
     * What a listener throws goes to {@link Settings#faults}, and the next event comes all the same.
     */
    public interface Listener {
        /** The connection is open. */
        default void onOpen(WebSocket websocket, Opening opening) throws Exception {}

        /** A text message has arrived. */
        default void onMessage(WebSocket websocket, String text) throws Exception {}

        /** A binary message has arrived. */
        default void onMessage(WebSocket websocket, byte[] data) throws Exception {}

        /** The connection has failed; its close comes next. */
        default void onError(WebSocket websocket, Failure failure) throws Exception {}

        /** The connection has ended. Cause: host, server, limit, background, shutdown, failure. */
        default void onClose(WebSocket websocket, int code, String reason, String cause)
                throws Exception {}
    }

    /**
     * What the server has answered. Names of headers are in lower case; protocol and extensions
     * are "" if there are none; the profile has the times of the opening in milliseconds.
     */
    public record Opening(
            Map<String, String> headers,
            String protocol,
            String extensions,
            Map<String, Double> profile) {}

    /** Why a connection failed; status (or 0) and headers are of an HTTP refusal. */
    public record Failure(String code, String message, int status, Map<String, String> headers) {}

    /** How the host works; each method returns this object. */
    public static final class Settings {
        private Executor executor;
        private Consumer<String> stderr = Settings::inherit;
        private Thread.UncaughtExceptionHandler faults = Settings::uncaught;
        private Duration startTimeout = Duration.ofSeconds(5);
        private boolean appendOptions = true;
        private int maxQueuedBytes = 1_048_576;
        private int maxQueuedMessages = 1_024;

        /** Where listeners are called; it may have one thread or many. */
        public Settings executor(Executor value) {
            executor = value;
            return this;
        }

        /** Gets each line of the plugin's stderr, by default the app's stderr. */
        public Settings stderr(Consumer<String> value) {
            stderr = value;
            return this;
        }

        /**
         * Gets what a listener throws; by default the handler of the thread, which writes it to
         * stderr, or, on Android, ends the app.
         */
        public Settings faults(Thread.UncaughtExceptionHandler value) {
            faults = value;
            return this;
        }

        /** How long the plugin may take to start: five seconds. */
        public Settings startTimeout(Duration value) {
            startTimeout = value;
            return this;
        }

        /**
         * Whether {@code --parent-pid} and {@code --exit-timeout} are appended to the command: not
         * where the plugin runs in another container or on another machine.
         */
        public Settings appendOptions(boolean value) {
            appendOptions = value;
            return this;
        }

        /**
         * How much may wait for the listener of a connection before its server has to wait, in
         * bytes (characters of text) and messages: 1 MiB and 1,024. What is under way is taken, too.
         */
        public Settings maxQueue(int bytes, int messages) {
            maxQueuedBytes = bytes;
            maxQueuedMessages = messages;
            return this;
        }

        private static void inherit(String line) {
            byte[] bytes = (line + "\n").getBytes(StandardCharsets.UTF_8);
            System.err.write(bytes, 0, bytes.length);
            System.err.flush();
        }

        private static void uncaught(Thread thread, Throwable fault) {
            thread.getUncaughtExceptionHandler().uncaughtException(thread, fault);
        }
    }

    /** Options of {@link #create}; each method returns this object. */
    public static final class Options {
        private final JsonObject payload = new JsonObject();
        private String app;
        private JsonObject hostHeaders;

        /** Headers of the opening request. */
        public Options headers(Map<String, String> value) {
            payload.add("headers", object(value));
            return this;
        }

        /** Subprotocols to offer. */
        public Options protocols(List<String> value) {
            JsonArray protocols = new JsonArray();
            value.forEach(protocols::add);
            payload.add("protocols", protocols);
            return this;
        }

        /** How long the opening may take. */
        public Options timeout(Duration value) {
            payload.addProperty("timeout", value.toMillis());
            return this;
        }

        /** Whether to offer compression: true. */
        public Options perMessageDeflate(boolean value) {
            payload.addProperty("perMessageDeflate", value);
            return this;
        }

        /** Whether small messages go out at once: true. */
        public Options tcpNoDelay(boolean value) {
            payload.addProperty("tcpNoDelay", value);
            return this;
        }

        /** The app that the connection belongs to, where the host serves several. */
        public Options app(String value) {
            app = value;
            return this;
        }

        /** Headers that the host itself adds, in place of the app's. */
        public Options hostHeaders(Map<String, String> value) {
            hostHeaders = object(value);
            return this;
        }

        private static JsonObject object(Map<String, String> strings) {
            JsonObject object = new JsonObject();
            strings.forEach(object::addProperty);
            return object;
        }
    }

    /** The plugin has refused a request: a stable code, and words for people. */
    public static final class RequestError extends Exception {
        private static final long serialVersionUID = 1;
        public final String code;

        RequestError(String code, String message) {
            super(code + ": " + message);
            this.code = code;
        }
    }

    /** The plugin is gone, and why: what was asked of it will not be answered. */
    public static final class PluginEnded extends Exception {
        private static final long serialVersionUID = 1;

        PluginEnded(String reason) {
            super(reason);
        }
    }

    private interface Delivery {
        void run() throws Exception;
    }

    private record Event(Delivery delivery, int size, boolean isLast) {}

    /** One connection, from {@link #create}. */
    public final class WebSocket {
        private final Listener listener;
        private final String app;
        private volatile String id = "";
        /** What waits for the listener; guarded by the host, as is all below. */
        private final ArrayDeque<Event> events = new ArrayDeque<>();
        private long size = 0;
        /** Whether a thread is at the events, or will be. */
        private boolean isDelivering = false;
        /** Whether the app wants no messages. */
        private boolean isPaused = false;
        /** Whether the queue wants no messages. */
        private boolean isFull = false;

        private WebSocket(Listener listener, String app) {
            this.listener = listener;
            this.app = app;
        }

        /** The plugin's id of this connection. */
        public String id() {
            return id;
        }

        /** Send a text message. Wait for the answer before the next: it is the back-pressure. */
        public CompletableFuture<Void> send(String text) {
            return send("text", text);
        }

        /** Send a binary message. Wait for the answer before the next: it is the back-pressure. */
        public CompletableFuture<Void> send(byte[] data) {
            return send("base64", Base64.getEncoder().encodeToString(data));
        }

        /** Send what is between position and limit; neither of them moves. */
        public CompletableFuture<Void> send(ByteBuffer data) {
            byte[] bytes = new byte[data.remaining()];
            data.duplicate().get(bytes);
            return send(bytes);
        }

        private CompletableFuture<Void> send(String type, String data) {
            JsonObject payload = new JsonObject();
            payload.addProperty("id", id);
            payload.addProperty("type", type);
            payload.addProperty("data", data);
            return ask("websocket-send", payload).thenApply(response -> null);
        }

        /** Start the closing handshake with code 1000; {@link Listener#onClose} tells its end. */
        public CompletableFuture<Void> close() {
            return close(1000, "");
        }

        /** Start the closing handshake; with code 1005 the Close frame has none. */
        public CompletableFuture<Void> close(int code, String reason) {
            return close(code, reason, null);
        }

        /** Start the closing handshake, which may take this long; zero ends the connection at once. */
        public CompletableFuture<Void> close(int code, String reason, Duration timeout) {
            JsonObject payload = new JsonObject();
            payload.addProperty("id", id);
            payload.addProperty("code", code);
            payload.addProperty("reason", reason);
            if (timeout != null) {
                payload.addProperty("timeout", timeout.toMillis());
            }
            CompletableFuture<JsonObject> answer = ask("websocket-close", payload);
            // The plugin ends a pause with this, and what comes then would only pile up here.
            setPaused(false);
            return answer.thenApply(response -> null);
        }

        /**
         * Get no more messages until {@link #resume}, for seconds rather than minutes: the server
         * has to wait. If the end comes meanwhile, it ends the pause.
         */
        public CompletableFuture<Void> pause() {
            synchronized (Host.this) {
                isPaused = true;
                return ask("websocket-pause").handle((response, failure) -> {
                    if (failure != null) {
                        setPaused(false);
                        throw new CompletionException(failure);
                    }
                    return null;
                });
            }
        }

        /** Get messages again. */
        public CompletableFuture<Void> resume() {
            CompletableFuture<Void> answer;
            synchronized (Host.this) {
                isPaused = false;
                // A full queue goes on when there is room in it.
                answer = isFull
                        ? CompletableFuture.completedFuture(null)
                        : ask("websocket-resume").thenApply(response -> null);
            }
            deliverSoon();
            return answer;
        }

        /** Measure the time to the server and back; it is also a look whether it is still there. */
        public CompletableFuture<Duration> ping() {
            return ping(null);
        }

        /** As {@link #ping()}; without an answer within this time the connection fails. */
        public CompletableFuture<Duration> ping(Duration timeout) {
            JsonObject payload = new JsonObject();
            payload.addProperty("id", id);
            if (timeout != null) {
                payload.addProperty("timeout", timeout.toMillis());
            }
            return ask("websocket-ping", payload).thenApply(response ->
                    Duration.ofNanos(Math.round(response.get("rtt").getAsDouble() * 1e6)));
        }

        private CompletableFuture<JsonObject> ask(String action) {
            JsonObject payload = new JsonObject();
            payload.addProperty("id", id);
            return ask(action, payload);
        }

        private CompletableFuture<JsonObject> ask(String action, JsonObject payload) {
            return request(action, payload, app, null, null);
        }

        private void setPaused(boolean value) {
            synchronized (Host.this) {
                isPaused = value;
            }
            deliverSoon();
        }

        private void take(String name, JsonObject payload) {
            switch (name) {
                case "open" -> {
                    Map<String, Double> profile = new LinkedHashMap<>();
                    object(payload, "profile").entrySet().forEach(
                            e -> profile.put(e.getKey(), e.getValue().getAsDouble()));
                    Opening opening = new Opening(
                            strings(object(payload, "headers")),
                            text(payload, "protocol"),
                            text(payload, "extensions"),
                            profile);
                    put(() -> listener.onOpen(this, opening), 0, false);
                }
                case "message" -> {
                    String data = text(payload, "data");
                    switch (text(payload, "type")) {
                        case "text" -> put(
                                () -> listener.onMessage(this, data), data.length(), false);
                        case "base64" -> {
                            byte[] bytes = Base64.getDecoder().decode(data);
                            put(() -> listener.onMessage(this, bytes), bytes.length, false);
                        }
                        default -> { } // of a later version of the plugin
                    }
                }
                case "error" -> {
                    Failure failure = new Failure(
                            text(payload, "code"),
                            text(payload, "errMsg"),
                            payload.has("status") ? payload.get("status").getAsInt() : 0,
                            strings(object(payload, "headers")));
                    put(() -> listener.onError(this, failure), 0, false);
                }
                case "close" -> end(
                        payload.has("code") ? payload.get("code").getAsInt() : 1006,
                        text(payload, "reason"),
                        text(payload, "cause"));
                default -> { } // of a later version of the plugin
            }
        }

        private void end(int code, String reason, String cause) {
            put(() -> listener.onClose(this, code, reason, cause), 0, true);
        }

        private void put(Delivery delivery, int bytes, boolean isLast) {
            synchronized (Host.this) {
                events.add(new Event(delivery, bytes, isLast));
                size += bytes;
                if (isLast) {
                    isPaused = false;
                } else if (!isFull && features.contains("pause")
                        && (size >= settings.maxQueuedBytes
                                || events.size() >= settings.maxQueuedMessages)) {
                    isFull = true;
                    if (!isPaused) {
                        ask("websocket-pause"); // what is answered to it changes nothing here
                    }
                }
            }
            deliverSoon();
        }

        private void deliverSoon() {
            synchronized (Host.this) {
                if (isDelivering || isPaused || events.isEmpty()) {
                    return;
                }
                isDelivering = true;
            }
            deliverLater();
        }

        private void deliverLater() {
            try {
                executor.execute(this::deliver);
            } catch (RejectedExecutionException e) {
                // The app has shut its executor down: nobody is left to hear of this connection.
                tell(e);
                boolean isOver = false;
                synchronized (Host.this) {
                    for (Event event : events) {
                        isOver |= event.isLast();
                    }
                    events.clear();
                    isDelivering = false;
                }
                if (isOver) {
                    release();
                } else {
                    close();
                }
            }
        }

        /** Runs on the executor, never twice at once. */
        private void deliver() {
            long until = System.nanoTime() + TURN;
            do {
                Event event;
                synchronized (Host.this) {
                    event = isPaused ? null : events.poll();
                    if (event == null) {
                        isDelivering = false;
                        return;
                    }
                }
                try {
                    event.delivery().run();
                } catch (Throwable fault) {
                    tell(fault);
                }
                synchronized (Host.this) {
                    size -= event.size();
                    if (isFull && size <= settings.maxQueuedBytes / 2
                            && events.size() <= settings.maxQueuedMessages / 2) {
                        isFull = false;
                        if (!isPaused) {
                            ask("websocket-resume");
                        }
                    }
                }
                if (event.isLast()) {
                    release();
                }
            } while (System.nanoTime() < until);
            deliverLater();
        }
    }

    /** A request without an answer, and the connection that it would create. */
    private record Pending(CompletableFuture<JsonObject> answer, WebSocket creates) {}

    private final Settings settings;
    private final Process process;
    private final Executor executor;
    /** For what the app does when something is complete: as many threads as it holds up. */
    private final ExecutorService threads = Executors.newCachedThreadPool(thread("listener"));
    /** Lines are written here: no caller ever waits for a plugin that does not read. */
    private final ExecutorService writer = Executors.newSingleThreadExecutor(thread("writer"));
    private final Thread reader = thread("reader").newThread(this::read);
    private final Thread stderrReader = thread("stderr").newThread(this::readStderr);
    private final Thread watcher = thread("watcher").newThread(this::watch);
    private volatile JsonObject description;
    private volatile Set<String> features = new HashSet<>();
    /** Whether the reader is at work on what it has read. */
    private volatile boolean isTaking = false;
    private volatile String lastError = "";
    /** What the plugin was ended for; guarded by this, as is all below. */
    private String fault = null;
    private final Map<String, WebSocket> websockets = new HashMap<>();
    private final Map<Long, Pending> pending = new HashMap<>();
    private long requests = 0;
    private boolean isStopping = false;
    private String ended = null;
    /** Calls not yet complete and connections not yet closed, as the app has heard of them. */
    private int holds = 0;
    private boolean isKeeping = false;

    private Host(Process process, Settings settings) {
        this.process = process;
        this.settings = settings;
        executor = settings.executor != null ? settings.executor : threads;
        reader.start();
        stderrReader.start();
        watcher.start();
    }

    /** As {@link #spawn(List, Settings)}, with settings as they come. */
    public static Host spawn(List<String> command) throws PluginEnded, InterruptedException {
        return spawn(command, new Settings());
    }

    /**
     * Start the plugin and wait until it has said that it is one. Fails with words if the command
     * is something else, and leaves no process behind then.
     */
    public static Host spawn(List<String> command, Settings settings)
            throws PluginEnded, InterruptedException {
        List<String> line = new ArrayList<>(command);
        if (settings.appendOptions) {
            append(line, "--parent-pid", ownPid());
            append(line, "--exit-timeout", "1.5");
        }
        Host host;
        try {
            host = new Host(new ProcessBuilder(line).start(), settings);
        } catch (IOException e) {
            throw new PluginEnded("cannot start the plugin: " + e.getMessage());
        }
        boolean isStarted = false;
        try {
            host.description = host.describe().get(
                    settings.startTimeout.toMillis(), TimeUnit.MILLISECONDS);
            host.checkDescription();
            isStarted = true;
            return host;
        } catch (TimeoutException e) {
            throw host.notStarted(command, "it has not answered plugin-describe within "
                    + settings.startTimeout.toMillis() + " ms");
        } catch (ExecutionException e) {
            throw host.notStarted(command, e.getCause().getMessage());
        } finally {
            if (!isStarted) {
                host.kill();
                host.watcher.join();
            }
        }
    }

    private static void append(List<String> line, String option, String value) {
        for (String word : line) {
            if (word.equals(option) || word.startsWith(option + "=")) {
                return;
            }
        }
        if (value != null) {
            line.add(option);
            line.add(value);
        }
    }

    /** Null where the system does not tell. */
    private static String ownPid() {
        try {
            return Long.toString(ProcessHandle.current().pid());
        } catch (LinkageError e) {
            try { // Android, which has no ProcessHandle
                return new File("/proc/self").getCanonicalFile().getName();
            } catch (IOException unreadable) {
                return null;
            }
        }
    }

    private void checkDescription() throws ExecutionException {
        String name = text(description, "name");
        String protocol = String.valueOf(description.get("protocol"));
        if (!name.equals("wsplugin")) {
            throw new ExecutionException(new PluginEnded("it is no wsplugin: " + description));
        }
        if (!protocol.equals("1")) {
            throw new ExecutionException(new PluginEnded(
                    "it speaks protocol " + protocol + ", and this host protocol 1"));
        }
        Set<String> names = new HashSet<>();
        if (description.get("features") instanceof JsonArray array) {
            array.forEach(feature -> names.add(feature.getAsString()));
        }
        features = names;
    }

    private PluginEnded notStarted(List<String> command, String reason) {
        String words = "cannot start the plugin (" + String.join(" ", command) + "): " + reason;
        if (settings.appendOptions && lastError.contains("unrecognized arguments")
                && (lastError.contains("--parent-pid") || lastError.contains("--exit-timeout"))) {
            words += " (this wsplugin is of 1.0; update it or start it without these options)";
        }
        return new PluginEnded(words);
    }

    private static ThreadFactory thread(String name) {
        return task -> {
            Thread thread = new Thread(task, "wsplugin " + name);
            thread.setDaemon(true);
            return thread;
        };
    }

    /** What the plugin has said of itself at the start: version, actions, features, limits. */
    public JsonObject description() {
        return description;
    }

    /** What the plugin has beyond release 1.0. */
    public Set<String> features() {
        return features;
    }

    /** As {@link #create(String, Options, Listener)}, with the plugin's defaults. */
    public CompletableFuture<WebSocket> create(String url, Listener listener) {
        return create(url, new Options(), listener);
    }

    /** Create a connection; the answer comes at once, before it is open. */
    public CompletableFuture<WebSocket> create(String url, Options options, Listener listener) {
        JsonObject payload = new JsonObject();
        payload.addProperty("url", url);
        payload.addProperty("binaryType", "base64");
        options.payload.entrySet().forEach(e -> payload.add(e.getKey(), e.getValue()));
        WebSocket websocket = new WebSocket(listener, options.app);
        return request("websocket-create", payload, options.app, options.hostHeaders, websocket)
                .thenApply(response -> websocket);
    }

    /** Tell that the app leaves the screen: ends all connections, then answers. */
    public CompletableFuture<Void> background() {
        return background(null);
    }

    /** Tell that one of several apps leaves the screen: ends its connections, then answers. */
    public CompletableFuture<Void> background(String app) {
        return request("app-background", null, app, null, null).thenApply(response -> null);
    }

    /** Ask for the plugin's version, actions and limits. */
    public CompletableFuture<JsonObject> describe() {
        return request("plugin-describe", null);
    }

    /**
     * Send a request. The future fails with {@link RequestError} if the plugin refuses it, with
     * {@link PluginEnded} if the plugin ends before it answers, and with
     * {@link IllegalArgumentException} if it cannot be written as JSON in UTF-8.
     */
    public CompletableFuture<JsonObject> request(String action, JsonObject payload) {
        return request(action, payload, null, null, null);
    }

    private CompletableFuture<JsonObject> request(
            String action, JsonObject payload, String app, JsonObject headers, WebSocket creates) {
        CompletableFuture<JsonObject> answer = new CompletableFuture<>();
        JsonObject request = new JsonObject();
        request.addProperty("action", action);
        if (app != null) {
            request.addProperty("app", app);
        }
        if (headers != null) {
            request.add("headers", headers);
        }
        if (payload != null) {
            request.add("payload", payload);
        }
        ByteBuffer rest;
        try {
            // Unlike String.getBytes, this refuses half of a surrogate pair.
            rest = StandardCharsets.UTF_8.newEncoder()
                    .encode(CharBuffer.wrap(JSON.toJson(request).substring(1) + "\n"));
        } catch (CharacterCodingException e) {
            answer.completeExceptionally(new IllegalArgumentException("not Unicode text", e));
            return answer;
        } catch (IllegalArgumentException e) {
            answer.completeExceptionally(e);
            return answer;
        }
        synchronized (this) {
            if (ended != null || isStopping) {
                String reason = ended != null ? ended : "the host has stopped the plugin";
                answer.completeExceptionally(new PluginEnded(reason));
                return answer;
            }
            hold();
            // The id comes first: of a line that is too long the plugin reads only the start.
            byte[] start = ("{\"id\":" + ++requests + ",").getBytes(StandardCharsets.UTF_8);
            pending.put(requests, new Pending(answer, creates));
            writer.execute(() -> write(start, rest));
        }
        return answer;
    }

    private void write(byte[] start, ByteBuffer rest) {
        try {
            OutputStream stdin = process.getOutputStream();
            stdin.write(start);
            stdin.write(rest.array(), 0, rest.limit());
            stdin.flush();
        } catch (IOException e) {
            // It ends, or else nothing that is asked of it from now on could be answered.
            endWithin(GRACE);
        } catch (Throwable e) {
            condemn("the host could not write to the plugin (" + e + ")");
        }
    }

    /**
     * End the plugin in good order and return its exit status; 137 if it had to be killed. Its
     * input is closed first: it then closes the connections and ends, within two seconds; only one
     * that has not ended after the grace is killed.
     */
    public int stop(Duration grace) throws InterruptedException {
        synchronized (this) {
            isStopping = true;
        }
        closeStdin();
        if (!process.waitFor(grace.toMillis(), TimeUnit.MILLISECONDS)) {
            kill();
        }
        watcher.join();
        return process.waitFor();
    }

    /** As {@link #stop(Duration)}, with a grace of five seconds. */
    public int stop() throws InterruptedException {
        return stop(GRACE);
    }

    /** Lines before it go out first. */
    private synchronized void closeStdin() {
        if (ended == null) {
            writer.execute(() -> {
                try {
                    process.getOutputStream().close();
                } catch (IOException e) {
                    // The plugin is gone.
                }
            });
        }
    }

    /** On a thread of its own, for it waits for the writer, who may be stuck. */
    private void kill() {
        thread("killer").newThread(process::destroyForcibly).start();
    }

    private void endWithin(Duration grace) {
        thread("killer").newThread(() -> {
            try {
                if (!process.waitFor(grace.toMillis(), TimeUnit.MILLISECONDS)) {
                    condemn("the plugin closed its input or output, and did not end");
                }
            } catch (InterruptedException e) {
                condemn("the host was interrupted");
            }
        }).start();
    }

    /** End a plugin that cannot be talked to any more. */
    private void condemn(String reason) {
        synchronized (this) {
            if (fault == null) {
                fault = reason;
            }
        }
        kill();
    }

    /** Reads stdout to its end, always. */
    private void read() {
        try {
            readLines();
            closeStdin();
            endWithin(GRACE);
        } catch (IOException e) {
            // The plugin has been killed.
        } catch (Throwable e) {
            condemn("the host could not read what the plugin wrote (" + e + ")");
        }
    }

    private void readLines() throws IOException {
        try (InputStream stdout = process.getInputStream()) {
            ByteArrayOutputStream line = new ByteArrayOutputStream();
            byte[] chunk = new byte[CHUNK];
            for (int size; (size = stdout.read(chunk)) >= 0; ) {
                isTaking = true;
                int start = 0;
                for (int i = 0; i < size; i++) {
                    // A line is whole only when its LF has come, and is decoded only then.
                    if (chunk[i] == '\n') {
                        line.write(chunk, start, i - start);
                        String text = line.toString("UTF-8");
                        line = new ByteArrayOutputStream();
                        take(text);
                        start = i + 1;
                    }
                }
                line.write(chunk, start, size - start);
                isTaking = false;
            }
        }
    }

    private void take(String line) {
        JsonObject message;
        try {
            message = JsonParser.parseString(line).getAsJsonObject();
        } catch (RuntimeException e) {
            String start = line.substring(0, Math.min(200, line.length()));
            condemn("the plugin wrote what is no line of its protocol: " + start);
            return;
        }
        if (message.has("event")) {
            if (text(message, "event").equals("websocket-event")) {
                takeEvent(object(message, "payload"));
            }
            return;
        }
        // An answer to a line that the plugin could not read has null: this host writes none.
        JsonElement id = message.get("id");
        if (id == null || !isNumber(id)) {
            return;
        }
        Pending request;
        JsonElement response = message.get("response");
        synchronized (this) {
            request = pending.remove(id.getAsLong());
            if (request != null && request.creates() != null && response instanceof JsonObject) {
                // Before the next line is looked at, which may be an event of this connection.
                WebSocket websocket = request.creates();
                websocket.id = text(response.getAsJsonObject(), "id");
                websockets.put(websocket.id, websocket);
                hold();
            }
        }
        if (request == null) {
            return;
        }
        if (response instanceof JsonObject object) {
            complete(() -> request.answer().complete(object));
            return;
        }
        JsonObject error = object(message, "error");
        RequestError failure = message.has("error")
                ? new RequestError(text(error, "code"), text(error, "errMsg"))
                : new RequestError("internal-error", "the answer has no response and no error");
        complete(() -> request.answer().completeExceptionally(failure));
    }

    private void takeEvent(JsonObject event) {
        String id = text(event, "id");
        String name = text(event, "name");
        WebSocket websocket;
        synchronized (this) {
            websocket = name.equals("close") ? websockets.remove(id) : websockets.get(id);
        }
        if (websocket != null) {
            websocket.take(name, object(event, "payload"));
        }
    }

    /** What an app hangs on a future runs here: neither the reader nor a listener waits for it. */
    private void complete(Runnable completion) {
        Runnable task = () -> {
            try {
                completion.run();
            } finally {
                release();
            }
        };
        try {
            threads.execute(task);
        } catch (OutOfMemoryError e) {
            task.run(); // no more threads
        }
    }

    /** What a listener throws must not reach the thread that calls it, which may be the app's. */
    private void tell(Throwable fault) {
        try {
            settings.faults.uncaughtException(Thread.currentThread(), fault);
        } catch (Throwable e) {
            // As the JVM does with what a handler throws: there is nobody left to tell.
        }
    }

    /** Passes stderr on, and remembers its last line: it says why if the plugin fails. */
    private void readStderr() {
        // Where the app takes no more lines, they are dropped, after a wait: the plugin must go on.
        boolean[] isStuck = {false};
        ThreadPoolExecutor lines = new ThreadPoolExecutor(
                1, 1, 1, TimeUnit.SECONDS, new ArrayBlockingQueue<>(256), thread("stderr lines"),
                (task, pool) -> {
                    try {
                        isStuck[0] = !pool.getQueue().offer(
                                task, isStuck[0] ? 0 : REST, TimeUnit.MILLISECONDS);
                    } catch (InterruptedException e) {
                        isStuck[0] = true;
                    }
                });
        try (InputStream stderr = process.getErrorStream()) {
            ByteArrayOutputStream line = new ByteArrayOutputStream();
            byte[] chunk = new byte[LONGEST_ERROR_LINE];
            int size;
            do {
                size = stderr.read(chunk);
                for (int i = 0; i < size; i++) {
                    if (chunk[i] != '\n') {
                        line.write(chunk[i]);
                    }
                    if (chunk[i] == '\n' || line.size() == LONGEST_ERROR_LINE) {
                        passOn(line, lines);
                    }
                }
            } while (size >= 0);
            if (line.size() > 0) {
                passOn(line, lines);
            }
        } catch (IOException e) {
            // The plugin has been killed.
        } finally {
            lines.shutdown();
        }
    }

    private void passOn(ByteArrayOutputStream line, Executor lines) throws IOException {
        String text = line.toString("UTF-8");
        line.reset();
        lastError = text.trim().isEmpty() ? lastError : text.trim();
        lines.execute(() -> {
            try {
                settings.stderr.accept(text);
            } catch (Throwable e) {
                tell(e);
            }
        });
    }

    /** Waits for the end of the process, whoever still holds its output, and puts it into words. */
    private void watch() {
        String reason = "the plugin ended";
        try {
            int status = process.waitFor();
            reader.join(REST);
            while (isTaking && reader.isAlive()) {
                reader.join(REST);
            }
            stderrReader.join(REST);
            reason += " with status " + status + (lastError.isEmpty() ? "" : ": " + lastError);
            synchronized (this) {
                reason = fault != null ? fault : reason;
            }
        } catch (InterruptedException e) {
            reason += ", or the host was interrupted";
        } finally {
            end(reason);
        }
    }

    /** Fails what is pending, and closes every connection that had no close yet. */
    private void end(String reason) {
        List<Pending> unanswered;
        List<WebSocket> open;
        synchronized (this) {
            ended = reason;
            unanswered = new ArrayList<>(pending.values());
            pending.clear();
            open = new ArrayList<>(websockets.values());
            websockets.clear();
            writer.shutdown();
        }
        for (Pending request : unanswered) {
            complete(() -> request.answer().completeExceptionally(new PluginEnded(reason)));
        }
        for (WebSocket websocket : open) {
            websocket.end(1006, reason, "failure");
        }
    }

    private synchronized void hold() {
        if (!isKeeping) {
            Thread keeper = new Thread(this::keep, "wsplugin keeper");
            keeper.setDaemon(false);
            keeper.start();
            isKeeping = true;
        }
        holds++;
    }

    private synchronized void release() {
        holds--;
        notifyAll();
    }

    /** The thread that is no daemon. */
    private synchronized void keep() {
        try {
            while (holds > 0) {
                wait();
            }
        } catch (InterruptedException e) {
            // Whoever interrupts this thread wants the JVM to end.
        }
        isKeeping = false;
    }

    private static boolean isNumber(JsonElement element) {
        return element.isJsonPrimitive() && element.getAsJsonPrimitive().isNumber();
    }

    /** The member, or "" if there is none that is a string. */
    private static String text(JsonObject object, String name) {
        JsonElement member = object.get(name);
        boolean isText = member != null && member.isJsonPrimitive();
        return isText ? member.getAsString() : "";
    }

    /** The member, or an empty object if there is none that is one. */
    private static JsonObject object(JsonObject object, String name) {
        return object.get(name) instanceof JsonObject member ? member : new JsonObject();
    }

    private static Map<String, String> strings(JsonObject object) {
        Map<String, String> strings = new LinkedHashMap<>();
        object.entrySet().forEach(e -> strings.put(e.getKey(), e.getValue().getAsString()));
        return strings;
    }
}
