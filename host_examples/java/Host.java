import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.TimeUnit;

/**
 * A host for wsplugin in one file to copy: Java 17 or Android (API level 26), and Gson.
 *
 * <p>Demo.java beside this file shows it at work and says how to run it. In short:
 *
 * <pre>{@code
 * Host host = Host.spawn(List.of("wsplugin", "--allow-host", "example.com"));
 * host.create("wss://example.com/", Host.Options.DEFAULT, new Host.Listener() {
 *     public void onOpen(Host.WebSocket websocket, Map<String, String> headers) {
 *         websocket.send("hello");
 *     }
 * });
 * }</pre>
 *
 * <p>No method blocks but {@link #stop}. Listeners are called on an executor of the app's choice,
 * in order, by default on one thread for the whole host; there they may wait for anything. Events
 * wait for the executor without a bound, because a host that does not read stops all connections
 * at once: whoever gets more than they can take should close.
 */
public final class Host {
    private static final int CHUNK = 65_536;
    private static final Duration GRACE = Duration.ofSeconds(5);

    /** What happens to a connection; {@link #onClose} comes once and last, even if the plugin dies. */
    public interface Listener {
        /** The connection is open; names of the HTTP response's headers are in lower case. */
        default void onOpen(WebSocket websocket, Map<String, String> headers) {}

        /** A text message has arrived. */
        default void onMessage(WebSocket websocket, String text) {}

        /** A binary message has arrived. */
        default void onMessage(WebSocket websocket, byte[] data) {}

        /** The connection has failed; its close comes next. */
        default void onError(WebSocket websocket, Failure failure) {}

        /** The connection has ended. Cause: host, server, limit, background, shutdown, failure. */
        default void onClose(WebSocket websocket, int code, String reason, String cause) {}
    }

    /** Why a connection failed; status (or 0) and headers are of an HTTP refusal. */
    public record Failure(String code, String message, int status, Map<String, String> headers) {}

    /** Options of {@link #create}; null for the plugin's default. */
    public record Options(
            Map<String, String> headers,
            List<String> protocols,
            Duration timeout,
            boolean perMessageDeflate) {
        public static final Options DEFAULT = new Options(null, null, null, true);
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

    /** One connection, from {@link #create}. */
    public final class WebSocket {
        private final Listener listener;
        private volatile String id = "";

        private WebSocket(Listener listener) {
            this.listener = listener;
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

        private CompletableFuture<Void> send(String type, String data) {
            JsonObject payload = new JsonObject();
            payload.addProperty("id", id);
            payload.addProperty("type", type);
            payload.addProperty("data", data);
            return request("websocket-send", payload).thenApply(response -> null);
        }

        /** Start the closing handshake; {@link Listener#onClose} tells its end. */
        public CompletableFuture<Void> close(int code, String reason) {
            JsonObject payload = new JsonObject();
            payload.addProperty("id", id);
            payload.addProperty("code", code);
            payload.addProperty("reason", reason);
            return request("websocket-close", payload).thenApply(response -> null);
        }

        private void take(String name, JsonObject payload) {
            switch (name) {
                case "open" -> {
                    Map<String, String> headers = strings(payload.getAsJsonObject("headers"));
                    executor.execute(() -> listener.onOpen(this, headers));
                }
                case "message" -> {
                    String data = payload.get("data").getAsString();
                    if (payload.get("type").getAsString().equals("text")) {
                        executor.execute(() -> listener.onMessage(this, data));
                    } else {
                        byte[] bytes = Base64.getDecoder().decode(data);
                        executor.execute(() -> listener.onMessage(this, bytes));
                    }
                }
                case "error" -> {
                    JsonElement status = payload.get("status");
                    Failure failure = new Failure(
                            payload.get("code").getAsString(),
                            payload.get("errMsg").getAsString(),
                            status == null ? 0 : status.getAsInt(),
                            strings(payload.getAsJsonObject("headers")));
                    executor.execute(() -> listener.onError(this, failure));
                }
                case "close" -> ended(
                        payload.get("code").getAsInt(),
                        payload.get("reason").getAsString(),
                        payload.get("cause").getAsString());
                default -> { } // of a later version of the plugin
            }
        }

        private void ended(int code, String reason, String cause) {
            executor.execute(() -> listener.onClose(this, code, reason, cause));
        }
    }

    /** A request without an answer, and the connection that it would create. */
    private record Pending(CompletableFuture<JsonObject> answer, WebSocket creates) {}

    private final Process process;
    private final Executor executor;
    private final Runnable atEnd;
    /** Lines are written here: no caller ever waits for a plugin that does not read. */
    private final ExecutorService writer = Executors.newSingleThreadExecutor(thread("writer"));
    private final Thread reader;
    private final Thread stderrReader;
    /** Only the reader's. */
    private final Map<String, WebSocket> websockets = new HashMap<>();
    /** Guarded by this, as are the three below. */
    private final Map<Long, Pending> pending = new HashMap<>();
    private long requests = 0;
    private boolean stopping = false;
    private String ended = null;
    private volatile String lastError = "";

    private Host(Process process, Executor executor, Runnable atEnd) {
        this.process = process;
        this.executor = executor;
        this.atEnd = atEnd;
        reader = thread("reader").newThread(this::read);
        stderrReader = thread("stderr").newThread(this::readStderr);
        reader.start();
        stderrReader.start();
    }

    /** Start the plugin; listeners are called on one thread of the host's own. */
    public static Host spawn(List<String> command) throws IOException {
        Process process = new ProcessBuilder(command).start();
        ExecutorService own = Executors.newSingleThreadExecutor(thread("listener"));
        return new Host(process, own, own::shutdown);
    }

    /** Start the plugin; listeners are called on the executor, which must keep the order. */
    public static Host spawn(List<String> command, Executor executor) throws IOException {
        return new Host(new ProcessBuilder(command).start(), executor, () -> { });
    }

    private static ThreadFactory thread(String name) {
        return task -> {
            Thread thread = new Thread(task, "wsplugin " + name);
            thread.setDaemon(true);
            return thread;
        };
    }

    /** Create a connection; the answer comes at once, before it is open. */
    public CompletableFuture<WebSocket> create(String url, Options options, Listener listener) {
        JsonObject payload = new JsonObject();
        payload.addProperty("url", url);
        payload.addProperty("binaryType", "base64");
        if (options.headers() != null) {
            JsonObject headers = new JsonObject();
            options.headers().forEach(headers::addProperty);
            payload.add("headers", headers);
        }
        if (options.protocols() != null) {
            JsonArray protocols = new JsonArray();
            options.protocols().forEach(protocols::add);
            payload.add("protocols", protocols);
        }
        if (options.timeout() != null) {
            payload.addProperty("timeout", options.timeout().toMillis());
        }
        if (!options.perMessageDeflate()) {
            payload.addProperty("perMessageDeflate", false);
        }
        WebSocket websocket = new WebSocket(listener);
        return request("websocket-create", payload, websocket).thenApply(response -> websocket);
    }

    /** Tell that the app leaves the screen: ends all connections, then answers. */
    public CompletableFuture<Void> background() {
        return request("app-background", null).thenApply(response -> null);
    }

    /** Ask for the plugin's version, actions and limits. */
    public CompletableFuture<JsonObject> describe() {
        return request("plugin-describe", null);
    }

    /**
     * Send a request. The future fails with {@link RequestError} if the plugin refuses it, and with
     * {@link PluginEnded} if the plugin ends before it answers.
     */
    public CompletableFuture<JsonObject> request(String action, JsonObject payload) {
        return request(action, payload, null);
    }

    private CompletableFuture<JsonObject> request(
            String action, JsonObject payload, WebSocket creates) {
        CompletableFuture<JsonObject> answer = new CompletableFuture<>();
        // The id comes first: of a line that is too long the plugin reads no more than the start.
        JsonObject request = new JsonObject();
        synchronized (this) {
            if (ended != null || stopping) {
                String reason = ended != null ? ended : "the host has stopped the plugin";
                answer.completeExceptionally(new PluginEnded(reason));
                return answer;
            }
            request.addProperty("id", ++requests);
            request.addProperty("action", action);
            if (payload != null) {
                request.add("payload", payload);
            }
            try {
                // Unlike String.getBytes, this refuses half of a surrogate pair.
                ByteBuffer line = StandardCharsets.UTF_8.newEncoder()
                        .encode(CharBuffer.wrap(request + "\n"));
                pending.put(requests, new Pending(answer, creates));
                writer.execute(() -> write(line));
            } catch (CharacterCodingException e) {
                answer.completeExceptionally(new IllegalArgumentException("not Unicode text", e));
            }
        }
        return answer;
    }

    private void write(ByteBuffer line) {
        try {
            OutputStream stdin = process.getOutputStream();
            stdin.write(line.array(), 0, line.limit());
            stdin.flush();
        } catch (IOException e) {
            // The plugin is gone: the reader sees it too, and says how it ended.
        }
    }

    /**
     * End the plugin in good order and return its exit status. Its input is closed first: it then
     * closes the connections and ends; only one that has not ended after the grace is killed.
     */
    public int stop(Duration grace) throws InterruptedException {
        synchronized (this) {
            stopping = true;
            if (ended == null) {
                writer.execute(this::closeStdin);
            }
        }
        reader.join(Math.max(1, grace.toMillis()));
        process.destroyForcibly();
        reader.join();
        return process.waitFor();
    }

    /** As {@link #stop(Duration)}, with a grace of five seconds. */
    public int stop() throws InterruptedException {
        return stop(GRACE);
    }

    private void closeStdin() {
        try {
            process.getOutputStream().close();
        } catch (IOException e) {
            // The plugin is gone.
        }
    }

    /** Reads stdout to its end, always: a line is whole only when its LF has come. */
    private void read() {
        String broken = null;
        try (InputStream stdout = process.getInputStream()) {
            ByteArrayOutputStream line = new ByteArrayOutputStream();
            byte[] chunk = new byte[CHUNK];
            for (int size; (size = stdout.read(chunk)) >= 0; ) {
                int start = 0;
                for (int i = 0; i < size; i++) {
                    if (chunk[i] == '\n') {
                        line.write(chunk, start, i - start);
                        take(line.toString("UTF-8"));
                        line = new ByteArrayOutputStream();
                        start = i + 1;
                    }
                }
                line.write(chunk, start, size - start);
            }
        } catch (IOException e) {
            // The plugin has been killed.
        } catch (RuntimeException e) {
            broken = "the plugin wrote what is no line of its protocol (" + e + ")";
            process.destroyForcibly();
        }
        String how = howItEnded();
        end(broken != null ? broken : how);
    }

    private void take(String line) {
        JsonObject message = JsonParser.parseString(line).getAsJsonObject();
        if (message.has("event")) {
            JsonObject event = message.getAsJsonObject("payload");
            String id = event.get("id").getAsString();
            String name = event.get("name").getAsString();
            WebSocket websocket =
                    name.equals("close") ? websockets.remove(id) : websockets.get(id);
            if (websocket != null) {
                websocket.take(name, event.getAsJsonObject("payload"));
            }
            return;
        }
        if (message.get("id").isJsonNull()) {
            return; // to a line that the plugin could not read: this host writes none
        }
        Pending request;
        synchronized (this) {
            request = pending.remove(message.get("id").getAsLong());
        }
        if (request == null) {
            return;
        }
        JsonObject error = message.getAsJsonObject("error");
        if (error != null) {
            String code = error.get("code").getAsString();
            RequestError failure = new RequestError(code, error.get("errMsg").getAsString());
            complete(() -> request.answer().completeExceptionally(failure));
            return;
        }
        JsonObject response = message.getAsJsonObject("response");
        if (request.creates() != null) {
            // Before the next line is looked at, which may be an event of this connection.
            request.creates().id = response.get("id").getAsString();
            websockets.put(request.creates().id, request.creates());
        }
        complete(() -> request.answer().complete(response));
    }

    /** What an app hangs on a future runs here: neither the reader nor a listener waits for it. */
    private static void complete(Runnable completion) {
        ForkJoinPool.commonPool().execute(completion);
    }

    /** Passes stderr on, and remembers its last line: it says why if the plugin fails. */
    private void readStderr() {
        try (InputStream stderr = process.getErrorStream()) {
            StringBuilder tail = new StringBuilder();
            byte[] chunk = new byte[CHUNK];
            for (int size; (size = stderr.read(chunk)) >= 0; ) {
                System.err.write(chunk, 0, size);
                System.err.flush();
                tail.append(new String(chunk, 0, size, StandardCharsets.UTF_8));
                tail.delete(0, Math.max(0, tail.length() - 1000));
                String text = tail.toString().trim();
                lastError = text.substring(text.lastIndexOf('\n') + 1);
            }
        } catch (IOException e) {
            // The plugin has been killed.
        }
    }

    /** Waits for the end of a plugin that has closed its stdout, and puts it into words. */
    private String howItEnded() {
        try {
            writer.execute(this::closeStdin);
            if (!process.waitFor(GRACE.toMillis(), TimeUnit.MILLISECONDS)) {
                process.destroyForcibly();
            }
            String text = "the plugin ended with status " + process.waitFor();
            stderrReader.join(GRACE.toMillis());
            return lastError.isEmpty() ? text : text + ": " + lastError;
        } catch (InterruptedException e) {
            return "the reader was interrupted";
        }
    }

    /** Fails what is pending, and closes every connection that had no close yet. */
    private void end(String reason) {
        List<Pending> unanswered;
        synchronized (this) {
            ended = reason;
            unanswered = new ArrayList<>(pending.values());
            pending.clear();
            writer.shutdown();
        }
        for (Pending request : unanswered) {
            complete(() -> request.answer().completeExceptionally(new PluginEnded(reason)));
        }
        for (WebSocket websocket : websockets.values()) {
            websocket.ended(1006, reason, "failure");
        }
        websockets.clear();
        atEnd.run();
    }

    private static Map<String, String> strings(JsonObject object) {
        Map<String, String> strings = new LinkedHashMap<>();
        if (object != null) {
            object.entrySet().forEach(e -> strings.put(e.getKey(), e.getValue().getAsString()));
        }
        return strings;
    }
}
