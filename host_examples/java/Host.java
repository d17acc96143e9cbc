import com.google.gson.*;
import java.io.*;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
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
    private static final Duration GRACE = Duration.ofSeconds(5);
    /** Milliseconds for the rest of the output once the process is gone. */
    private static final long REST = 1_000;
    private static final Gson GSON = new GsonBuilder().serializeNulls().create();

    /**
     * What happens to a connection; {@link #onClose} comes once and last, even if the plugin dies.
     * What a listener throws goes to {@link Settings#faults}; the next event comes all the same.
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
            Map<String, String> headers, String protocol, String extensions, JsonObject profile) {}

    /** Why a connection failed; status (or 0) and headers are of an HTTP refusal. */
    public record Failure(String code, String message, int status, Map<String, String> headers) {}

    /** How the host works; to be set before {@link #spawn}, and not changed after it. */
    public static final class Settings {
        /** Where listeners are called; by default on a thread of each connection's own. */
        public Executor executor = Runnable::run;
        /** Gets each line of the plugin's stderr. */
        public Consumer<String> stderr = System.err::println;
        /** Gets what a listener throws; by default as if it had ended the thread. */
        public Thread.UncaughtExceptionHandler faults = (thread, fault) ->
                thread.getUncaughtExceptionHandler().uncaughtException(thread, fault);
        /** How long the plugin may take to start. */
        public Duration startTimeout = Duration.ofSeconds(5);
        /**
         * Whether {@code --parent-pid} and {@code --exit-timeout} are appended to the command: not
         * where the plugin runs in another container or on another machine.
         */
        public boolean appendOptions = true;
        /**
         * How much may wait for a listener, in characters of text or base64, until the server of
         * this connection has to wait. What is under way then is taken besides.
         */
        public int maxQueuedBytes = 1_048_576;
        /** The same in messages; whichever is reached first counts. */
        public int maxQueuedMessages = 1_024;
    }

    /** Options of {@link #create}; null is the plugin's default. */
    public static final class Options {
        /** Headers of the opening request. */
        public Map<String, String> headers;
        /** Subprotocols to offer. */
        public List<String> protocols;
        /** How long the opening may take. */
        public Duration timeout;
        /** Whether to offer compression. */
        public Boolean perMessageDeflate;
        /** Whether small messages go out at once. */
        public Boolean tcpNoDelay;
        /** The app that the connection belongs to, where the host serves several. */
        public String app;
        /** Headers that the host itself adds, in place of the app's. */
        public Map<String, String> hostHeaders;
    }

    /** The plugin has refused a request: a stable code, and words for people. */
    public static final class RequestError extends Exception {
        public final String code;
        public final String words;

        RequestError(String code, String words) {
            super(code + ": " + words);
            this.code = code;
            this.words = words;
        }
    }

    /** The plugin is gone, and why: what was asked of it will not be answered. */
    public static final class PluginEnded extends Exception {

        PluginEnded(String reason) {
            super(reason);
        }
    }

    /** One connection, from {@link #create}. */
    public final class WebSocket {
        private final Listener listener;
        private final String app;
        private final Inbox inbox = new Inbox();
        private volatile String id = "";

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
            return ask("websocket-send", "type", "text", "data", text).thenApply(answer -> null);
        }

        /** Send a binary message. Wait for the answer before the next: it is the back-pressure. */
        public CompletableFuture<Void> send(byte[] data) {
            return send(ByteBuffer.wrap(data));
        }

        /** Send what is between position and limit; neither of them moves. */
        public CompletableFuture<Void> send(ByteBuffer data) {
            ByteBuffer base64 = Base64.getEncoder().encode(data.duplicate());
            String text = StandardCharsets.ISO_8859_1.decode(base64).toString();
            return ask("websocket-send", "type", "base64", "data", text).thenApply(answer -> null);
        }

        /**
         * Start the closing handshake; {@link Listener#onClose} tells its end. With code 1005 the
         * Close frame has none.
         */
        public CompletableFuture<Void> close(int code, String reason) {
            return close(code, reason, null);
        }

        /** As {@link #close(int, String)}, within this time; zero ends the connection at once. */
        public CompletableFuture<Void> close(int code, String reason, Duration timeout) {
            return ask(
                    "websocket-close", "code", code, "reason", reason, "timeout", millis(timeout))
                    .thenApply(response -> null);
        }

        /**
         * Let the server wait until {@link #resume}, for seconds rather than minutes. What waits
         * for the listener still comes. If the connection ends meanwhile, so does the pause.
         */
        public CompletableFuture<Void> pause() {
            return inbox.setPaused(true).thenApply(response -> null);
        }

        /** Let the server go on, at once or when a full queue has room. */
        public CompletableFuture<Void> resume() {
            return inbox.setPaused(false).thenApply(response -> null);
        }

        /** Measure the time to the server and back; it is also a look whether it is still there. */
        public CompletableFuture<Duration> ping() {
            return ping(null);
        }

        /** As {@link #ping()}; without an answer within this time the connection fails. */
        public CompletableFuture<Duration> ping(Duration timeout) {
            return ask("websocket-ping", "timeout", millis(timeout)).thenApply(response ->
                    Duration.ofNanos(Math.round(response.get("rtt").getAsDouble() * 1e6)));
        }

        private CompletableFuture<JsonObject> ask(String action, Object... members) {
            JsonObject payload = json(members);
            payload.addProperty("id", id);
            return request(action, payload, app, null, null);
        }

        private void tell(String event, JsonObject payload) throws Exception {
            switch (event) {
                case "open" -> listener.onOpen(this, new Opening(
                        strings(object(payload, "headers")), text(payload, "protocol"),
                        text(payload, "extensions"), object(payload, "profile")));
                case "message" -> {
                    String data = text(payload, "data");
                    String type = text(payload, "type");
                    if (type.equals("text")) {
                        listener.onMessage(this, data);
                    } else if (type.equals("base64")) {
                        listener.onMessage(this, Base64.getDecoder().decode(data));
                    }
                }
                case "error" -> listener.onError(this, new Failure(
                        text(payload, "code"), text(payload, "errMsg"),
                        number(payload, "status", 0), strings(object(payload, "headers"))));
                case "close" -> listener.onClose(this, number(payload, "code", 1006),
                        text(payload, "reason"), text(payload, "cause"));
                default -> { } // of a later version of the plugin
            }
        }

        /** What waits for the listener, with the thread that hands it over. */
        private final class Inbox implements Runnable {
            private final ArrayDeque<Event> events = new ArrayDeque<>();
            private long size = 0;
            /** The server waits if the app wants it .. */
            private boolean isPaused = false;
            /** .. and if there is enough here, until half of it is told. */
            private boolean isFull = false;
            private boolean isOver = false;

            synchronized void put(Event event) {
                if (isOver) {
                    return;
                }
                events.add(event);
                size += event.size();
                boolean isMuch = size >= settings.maxQueuedBytes
                        || events.size() >= settings.maxQueuedMessages;
                if (isMuch && !isFull && features.contains("pause")) {
                    isFull = true;
                    if (!isPaused) {
                        ask("websocket-pause");
                    }
                }
                isOver |= event.name().equals("close");
                notifyAll();
            }

            synchronized CompletableFuture<JsonObject> setPaused(boolean value) {
                isPaused = value;
                return !isPaused && isFull
                        ? CompletableFuture.completedFuture(null)
                        : ask(isPaused ? "websocket-pause" : "websocket-resume");
            }

            @Override
            public void run() {
                while (deliver()) { }
                release();
            }

            private boolean deliver() {
                Event event = next();
                if (event == null) {
                    return false;
                }
                Runnable call = () -> guard(() -> tell(event.name(), event.payload()));
                try {
                    CompletableFuture.runAsync(call, settings.executor).join();
                } catch (RejectedExecutionException e) {
                    // The app has shut its executor down; the close has to come all the same.
                    call.run();
                }
                done(event);
                return true;
            }

            private synchronized Event next() {
                while (events.isEmpty() && !isOver) {
                    try {
                        wait();
                    } catch (InterruptedException e) {
                        // A listener has interrupted its own thread, which has more to do.
                    }
                }
                return events.poll();
            }

            private synchronized void done(Event event) {
                size -= event.size();
                if (isFull && size <= settings.maxQueuedBytes / 2
                        && events.size() <= settings.maxQueuedMessages / 2) {
                    isFull = false;
                    if (!isPaused) {
                        ask("websocket-resume");
                    }
                }
            }
        }
    }

    private record Event(String name, JsonObject payload) {
        int size() {
            return text(payload, "data").length();
        }
    }

    private interface Call {
        void run() throws Exception;
    }

    /** A request without an answer, and the connection that it would create. */
    private record Pending(CompletableFuture<JsonObject> answer, WebSocket creates) {}

    private final Settings settings;
    private final Process process;
    /** As many as the app holds up with what it does when something is complete. */
    private final ExecutorService threads = Executors.newCachedThreadPool(thread("answers"));
    /** Lines are written here: no caller ever waits for a plugin that does not read. */
    private final ExecutorService writer = Executors.newSingleThreadExecutor(thread("writer"));
    private final Thread reader = thread("reader").newThread(this::read);
    private final Thread stderrReader = thread("stderr").newThread(this::readStderr);
    /** Ends with the plugin, when all have been told. */
    final Thread watcher = thread("watcher").newThread(this::watch);
    private JsonObject description;
    private final Set<String> features = new HashSet<>();
    /** Whether the reader is at work on what it has read. */
    private volatile boolean isTaking = false;
    /** The last line of stderr, behind a colon. */
    private volatile String lastWords = "";
    /** Why nothing can be asked of the plugin any more; set by those who hold the lock of this. */
    volatile String refusal;
    /** What the plugin is killed for. */
    private volatile String fault;
    private final Map<String, WebSocket> websockets = new ConcurrentHashMap<>();
    /** Guarded by this, as is all below. */
    private final Map<Integer, Pending> pending = new HashMap<>();
    private int requests = 0;
    /** Calls that are not complete and connections that are not closed, as the app knows them. */
    private int holds = 0;

    private Host(Process process, Settings settings) {
        this.process = process;
        this.settings = settings;
        reader.start();
        stderrReader.start();
        watcher.start();
    }

    /** As {@link #spawn(List, Settings)}, with the settings as they come. */
    public static Host spawn(List<String> command) throws PluginEnded, InterruptedException {
        return spawn(command, new Settings());
    }

    /**
     * Start the plugin and wait until it has said that it is one. Fails with words if the command
     * is something else, and then leaves no process behind.
     */
    public static Host spawn(List<String> command, Settings settings)
            throws PluginEnded, InterruptedException {
        Host host;
        try {
            List<String> line = new ArrayList<>(command);
            if (settings.appendOptions) {
                append(line, "--parent-pid", ownPid());
                append(line, "--exit-timeout", "1.5");
            }
            host = new Host(new ProcessBuilder(line).start(), settings);
        } catch (IOException e) {
            throw new PluginEnded("the plugin cannot be started: " + e.getMessage());
        }
        String reason;
        long timeout = settings.startTimeout.toMillis();
        try {
            host.description = host.describe().get(timeout, TimeUnit.MILLISECONDS);
            reason = host.objection();
        } catch (TimeoutException e) {
            reason = "the plugin has not answered in " + timeout + " ms" + host.lastWords;
        } catch (ExecutionException e) {
            reason = e.getCause().getMessage();
        } catch (InterruptedException e) {
            host.stop(Duration.ZERO);
            throw e;
        }
        if (reason == null) {
            return host;
        }
        host.stop(Duration.ZERO);
        if (host.lastWords.contains("unrecognized arguments: --")) {
            reason += " (this wsplugin is of 1.0; update it or start it without these options)";
        }
        throw new PluginEnded(reason + " (the command: " + String.join(" ", command) + ")");
    }

    private static void append(List<String> line, String option, String value) {
        if (line.stream().noneMatch(w -> w.equals(option) || w.startsWith(option + "="))) {
            line.add(option);
            line.add(value);
        }
    }

    private static String ownPid() throws IOException {
        try {
            return Long.toString(ProcessHandle.current().pid());
        } catch (LinkageError e) { // on Android
            return new File("/proc/self").getCanonicalFile().getName();
        }
    }

    /** Why this plugin is none for this host; null if it is one. */
    private String objection() {
        if (!text(description, "name").equals("wsplugin")) {
            return "the command is no wsplugin: " + description;
        }
        if (number(description, "protocol", 0) != 1) {
            return "the plugin speaks protocol " + description.get("protocol") + ", the host 1";
        }
        if (description.get("features") instanceof JsonArray array) {
            array.forEach(f -> features.add(f.isJsonPrimitive() ? f.getAsString() : f.toString()));
        }
        return null;
    }

    private static ThreadFactory thread(String name) {
        return task -> {
            Thread thread = new Thread(task, "wsplugin " + name);
            thread.setDaemon(true);
            return thread;
        };
    }

    /** What the plugin said of itself at the start: version, actions, features, limits. */
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
        JsonObject payload = json(
                "url", url, "binaryType", "base64",
                "headers", options.headers, "protocols", options.protocols,
                "timeout", millis(options.timeout),
                "perMessageDeflate", options.perMessageDeflate, "tcpNoDelay", options.tcpNoDelay);
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
            String action, JsonObject payload, String app, Object headers, WebSocket creates) {
        CompletableFuture<JsonObject> answer = new CompletableFuture<>();
        ByteBuffer line;
        try {
            // Unlike Gson.toJson, this refuses numbers that JSON does not have.
            String request = GSON.getAdapter(JsonElement.class).toJson(json(
                    "action", action, "app", app, "headers", headers, "payload", payload));
            // Unlike String.getBytes, this refuses half of a surrogate pair.
            line = StandardCharsets.UTF_8.newEncoder()
                    .encode(CharBuffer.wrap("," + request.substring(1) + "\n"));
        } catch (CharacterCodingException | IllegalArgumentException e) {
            answer.completeExceptionally(new IllegalArgumentException("no JSON in UTF-8: " + e, e));
            return answer;
        }
        synchronized (this) {
            if (refusal != null) {
                answer.completeExceptionally(new PluginEnded(refusal));
                return answer;
            }
            hold();
            // The id comes first: of a line that is too long the plugin reads only the start.
            byte[] start = ("{\"id\":" + ++requests).getBytes(StandardCharsets.UTF_8);
            pending.put(requests, new Pending(answer, creates));
            writer.execute(() -> write(start, line));
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
            kill("the plugin takes no input, and did not end");
        }
    }

    /**
     * End the plugin in good order and return its exit status; 137 if it had to be killed. Its
     * input is closed first: it then closes the connections and ends, within two seconds; only one
     * that has not ended after the grace is killed.
     */
    public int stop(Duration grace) throws InterruptedException {
        synchronized (this) {
            refusal = "the host has stopped the plugin";
        }
        closeStdin();
        if (!process.waitFor(grace.toMillis(), TimeUnit.MILLISECONDS)) {
            // On another thread, for it waits for the writer, which may be stuck.
            threads.execute(process::destroyForcibly);
        }
        watcher.join();
        return process.exitValue();
    }

    /** As {@link #stop(Duration)}, with a grace of five seconds. */
    public int stop() throws InterruptedException {
        return stop(GRACE);
    }

    /** When the lines before it have gone out. If it fails, the plugin is gone. */
    private synchronized void closeStdin() {
        if (!writer.isShutdown()) {
            writer.submit(() -> {
                process.getOutputStream().close();
                return null;
            });
        }
    }

    /** Ends a plugin that does not end by itself. */
    private void kill(String reason) {
        try {
            if (!process.waitFor(GRACE.toMillis(), TimeUnit.MILLISECONDS)) {
                condemn(reason);
            }
        } catch (InterruptedException e) {
            condemn(reason);
        }
    }

    private void condemn(String reason) {
        fault = fault != null ? fault : reason;
        isTaking = false; // nobody waits for this thread, which may have to wait for the writer
        process.destroyForcibly();
    }

    /** Reads stdout to its end, always. */
    private void read() {
        try {
            readLines();
            closeStdin();
            kill("the plugin closed its output, and did not end");
        } catch (IOException e) {
            // The plugin has been killed.
        } catch (Throwable e) {
            condemn("the host could not read what the plugin wrote (" + e + ")");
        }
    }

    private void readLines() throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        byte[] chunk = new byte[65_536];
        for (int size; (size = process.getInputStream().read(chunk)) >= 0; ) {
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

    private void take(String line) {
        JsonObject message;
        try {
            message = JsonParser.parseString(line).getAsJsonObject();
        } catch (RuntimeException e) {
            condemn("the plugin wrote what is no line of its protocol: "
                    + line.substring(0, Math.min(200, line.length())));
            return;
        }
        if (text(message, "event").equals("websocket-event")) {
            takeEvent(object(message, "payload"));
            return;
        }
        int id = number(message, "id", 0);
        JsonObject response = message.get("response") instanceof JsonObject o ? o : null;
        Pending request;
        synchronized (this) {
            request = pending.get(id);
            if (request == null) {
                return; // a second answer, or what a later plugin may say
            }
            WebSocket websocket = request.creates();
            if (websocket != null && response != null) {
                // Before the next line is looked at, which may be an event of this connection.
                websocket.id = response.get("id").getAsString();
                thread(websocket.id).newThread(websocket.inbox).start();
                websockets.put(websocket.id, websocket);
                hold();
            }
            pending.remove(id);
        }
        if (response != null) {
            complete(() -> request.answer().complete(response));
        } else {
            JsonObject error = object(message, "error");
            RequestError failure = message.has("error")
                    ? new RequestError(text(error, "code"), text(error, "errMsg"))
                    : new RequestError("internal-error", "an answer without response and error");
            complete(() -> request.answer().completeExceptionally(failure));
        }
    }

    private void takeEvent(JsonObject event) {
        String name = text(event, "name");
        String id = text(event, "id");
        WebSocket websocket =
                name.equals("close") ? websockets.remove(id) : websockets.get(id);
        if (websocket != null) {
            websocket.inbox.put(new Event(name, object(event, "payload")));
        }
    }

    /** What an app hangs on a future runs here: neither the reader nor a listener waits for it. */
    private void complete(Runnable completion) {
        Runnable task = () -> {
            completion.run();
            release();
        };
        try {
            threads.execute(task);
        } catch (OutOfMemoryError e) { // for one more thread
            task.run();
        }
    }

    /** Calls what is the app's: what it throws must not reach the thread that calls it. */
    private void guard(Call call) {
        try {
            call.run();
        } catch (Throwable fault) {
            try {
                settings.faults.uncaughtException(Thread.currentThread(), fault);
            } catch (Throwable e) {
                // As the JVM does with what a handler throws: there is nobody left to tell.
            }
        }
    }

    /** Passes stderr on, and remembers its last line: it says why if the plugin fails. */
    private void readStderr() {
        ExecutorService lines = Executors.newSingleThreadExecutor(thread("stderr lines"));
        Semaphore room = new Semaphore(256);
        boolean isStuck = false;
        try (BufferedReader stderr = new BufferedReader(
                new InputStreamReader(process.getErrorStream(), StandardCharsets.UTF_8))) {
            for (String line; (line = stderr.readLine()) != null; ) {
                String text = line;
                lastWords = line.trim().isEmpty() ? lastWords : ": " + line.trim();
                // If the app takes no more lines, they are dropped: the plugin has to go on.
                isStuck = !room.tryAcquire(isStuck ? 0 : REST, TimeUnit.MILLISECONDS);
                if (!isStuck) {
                    lines.execute(() -> {
                        guard(() -> settings.stderr.accept(text));
                        room.release();
                    });
                }
            }
        } catch (IOException | InterruptedException e) {
            // The plugin has been killed.
        } finally {
            lines.shutdown();
        }
    }

    /** Waits for the end of the process, whoever still holds its output, and puts it into words. */
    private void watch() {
        String reason = "the plugin ended";
        try {
            reason += " with status " + process.waitFor();
            do {
                reader.join(REST);
            } while (isTaking && reader.isAlive());
            stderrReader.join(REST);
            reason += lastWords;
        } catch (InterruptedException e) {
            reason += ", or the host was interrupted";
        } finally {
            end(fault != null ? fault : reason);
        }
    }

    /** Fails what is pending, and closes every connection that had no close yet. */
    private void end(String reason) {
        synchronized (this) {
            refusal = reason;
            writer.shutdown();
            for (Pending request : pending.values()) {
                complete(() -> request.answer().completeExceptionally(new PluginEnded(reason)));
            }
            pending.clear();
        }
        for (WebSocket websocket : websockets.values()) {
            websocket.inbox.put(new Event(
                    "close", json("code", 1006, "reason", reason, "cause", "failure")));
        }
    }

    private synchronized void hold() {
        if (holds == 0) {
            Thread keeper = new Thread(this::keep, "wsplugin keeper");
            keeper.setDaemon(false); // which it would be if a daemon makes it
            keeper.start();
        }
        holds++;
    }

    private synchronized void release() {
        holds--;
        notifyAll();
    }

    /** Runs on the thread that is no daemon. */
    private synchronized void keep() {
        try {
            while (holds > 0) {
                wait();
            }
        } catch (InterruptedException e) {
            // Whoever interrupts this thread wants the JVM to end.
        }
    }

    /** An object of names and values in turn, without those that are null. */
    private static JsonObject json(Object... members) {
        JsonObject object = new JsonObject();
        for (int i = 0; i < members.length; i += 2) {
            if (members[i + 1] != null) {
                object.add((String) members[i], GSON.toJsonTree(members[i + 1]));
            }
        }
        return object;
    }

    private static Long millis(Duration duration) {
        return duration == null ? null : duration.toMillis();
    }

    /** The member, or "" if there is none that is a string. */
    private static String text(JsonObject object, String name) {
        return object.get(name) instanceof JsonPrimitive member ? member.getAsString() : "";
    }

    /** The member, or a default if there is none that is a number. */
    private static int number(JsonObject object, String name, int otherwise) {
        JsonElement member = object.get(name);
        return member instanceof JsonPrimitive m && m.isNumber() ? m.getAsInt() : otherwise;
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
