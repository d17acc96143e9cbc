import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.function.Function;

/**
 * Plays calls that come as JSON lines on stdin, and prints every outcome and event as a JSON line.
 *
 * <p>This is what {@code wsplugin certify} talks to; certify.md in the folder above describes the
 * lines. The command of the plugin is one word in the environment variable WSPLUGIN. Build it as
 * Demo.java says, then:
 *
 * <pre>
 * $ .venv/bin/wsplugin certify -- java -cp 'build/java:build/java/dependency/*' Scripted
 * </pre>
 */
public final class Scripted {
    private static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);

    private Host host;
    /** The connections by the script's names for them; calls of one wait for its create. */
    private final Map<String, CompletableFuture<Host.WebSocket>> websockets = new HashMap<>();

    public static void main(String[] args) throws Exception {
        new Scripted().play();
    }

    private void play() throws IOException, InterruptedException {
        start(0);
        BufferedReader lines =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            try {
                call(JsonParser.parseString(line).getAsJsonObject());
            } catch (RuntimeException e) {
                System.err.println("no line of a script: " + line + " (" + e + ")");
                System.exit(2);
            }
        }
        if (host != null) {
            host.stop();
        }
    }

    private void call(JsonObject line) throws InterruptedException {
        long id = line.get("id").getAsLong();
        String call = line.get("call").getAsString();
        switch (call) {
            case "start" -> start(id);
            case "sleep" -> Thread.sleep(line.get("ms").getAsLong());
            case "stop" -> stop(id);
            case "create" -> create(id, line);
            case "background" -> onHost(id, () -> host.background(text(line, "app")));
            case "send" -> onWebSocket(id, line, websocket -> line.has("text")
                    ? websocket.send(text(line, "text"))
                    : websocket.send(Base64.getDecoder().decode(text(line, "base64"))));
            case "close" -> onWebSocket(id, line, websocket -> websocket.close(
                    line.has("code") ? line.get("code").getAsInt() : 1000,
                    line.has("reason") ? text(line, "reason") : "",
                    duration(line, "timeout")));
            case "pause" -> onWebSocket(id, line, Host.WebSocket::pause);
            case "resume" -> onWebSocket(id, line, Host.WebSocket::resume);
            case "ping" -> onWebSocket(
                    id, line, websocket -> websocket.ping(duration(line, "timeout")));
            default -> throw new IllegalArgumentException("unknown call " + call);
        }
    }

    private void start(long id) throws InterruptedException {
        String command = System.getenv().getOrDefault("WSPLUGIN", "wsplugin");
        websockets.clear();
        try {
            host = Host.spawn(List.of(command));
            tell(id, null, null);
        } catch (Host.PluginEnded e) {
            host = null;
            tell(id, null, e);
        }
    }

    private void stop(long id) {
        Host stopped = host;
        // The only call that blocks; this thread is no daemon, so its outcome is always told.
        new Thread(() -> {
            try {
                if (stopped == null) {
                    throw new Host.PluginEnded("no plugin runs");
                }
                tell(id, stopped.stop(), null);
            } catch (Host.PluginEnded | InterruptedException e) {
                tell(id, null, e);
            }
        }).start();
    }

    private void create(long id, JsonObject line) {
        String name = text(line, "as");
        Host.Options options = new Host.Options();
        options.headers = strings(line, "headers");
        options.hostHeaders = strings(line, "hostHeaders");
        if (line.has("protocols")) {
            options.protocols = new ArrayList<>();
            line.getAsJsonArray("protocols").forEach(p -> options.protocols.add(p.getAsString()));
        }
        options.timeout = duration(line, "timeout");
        options.app = text(line, "app");
        Printer printer = new Printer(name, line.has("delay") ? line.get("delay").getAsLong() : 0);
        CompletableFuture<Host.WebSocket> websocket = new CompletableFuture<>();
        onHost(id, () -> host.create(text(line, "url"), options, printer))
                .whenComplete((created, failure) -> {
                    if (failure == null) {
                        websocket.complete(created);
                    } else {
                        websocket.completeExceptionally(
                                new IllegalStateException("there is no connection " + name));
                    }
                });
        websockets.put(name, websocket);
    }

    private interface Call<T> {
        CompletableFuture<T> start();
    }

    private <T> CompletableFuture<T> onHost(long id, Call<T> call) {
        CompletableFuture<T> result = new CompletableFuture<>();
        if (host == null) {
            result.completeExceptionally(new Host.PluginEnded("no plugin runs"));
        } else {
            result = call.start();
        }
        return result.whenComplete((value, failure) -> tell(id, value, failure));
    }

    private void onWebSocket(
            long id, JsonObject line, Function<Host.WebSocket, CompletableFuture<?>> call) {
        String name = text(line, "to");
        CompletableFuture<Host.WebSocket> websocket = websockets.get(name);
        if (websocket == null) {
            tell(id, null, new IllegalStateException("there is no connection " + name));
            return;
        }
        // Each call is a stage behind the one before it: a future would run what waits for it in
        // any order.
        CompletableFuture<CompletableFuture<?>> started = websocket.thenApply(call);
        started.thenCompose(answer -> answer)
                .whenComplete((value, failure) -> tell(id, value, failure));
        websockets.put(name, started.handle((answer, failure) -> websocket)
                .thenCompose(same -> same));
    }

    /** Prints the outcome of a call. */
    private static void tell(long id, Object value, Throwable failure) {
        Throwable cause = failure instanceof CompletionException ? failure.getCause() : failure;
        JsonObject line = new JsonObject();
        line.addProperty("id", id);
        if (cause == null) {
            line.addProperty("outcome", "ok");
            if (value instanceof Duration rtt) {
                line.addProperty("rtt", rtt.toNanos() / 1e6);
            } else if (value instanceof Integer status) {
                line.addProperty("status", status);
            }
        } else if (cause instanceof Host.RequestError error) {
            line.addProperty("outcome", "refused");
            line.addProperty("code", error.code);
            line.addProperty("message", error.words);
        } else {
            line.addProperty("outcome", cause instanceof Host.PluginEnded ? "ended" : "invalid");
            line.addProperty("message", String.valueOf(cause.getMessage()));
        }
        print(line);
    }

    private static synchronized void print(JsonObject line) {
        OUT.print(line + "\n");
        OUT.flush();
    }

    private static String text(JsonObject line, String name) {
        JsonElement member = line.get(name);
        return member == null || member.isJsonNull() ? null : member.getAsString();
    }

    private static Duration duration(JsonObject line, String name) {
        return line.has(name) ? Duration.ofMillis(line.get(name).getAsLong()) : null;
    }

    private static Map<String, String> strings(JsonObject line, String name) {
        if (!line.has(name)) {
            return null;
        }
        Map<String, String> strings = new LinkedHashMap<>();
        line.getAsJsonObject(name).entrySet().forEach(
                e -> strings.put(e.getKey(), e.getValue().getAsString()));
        return strings;
    }

    /** Prints the events of a connection. */
    private record Printer(String name, long delay) implements Host.Listener {
        @Override
        public void onOpen(Host.WebSocket websocket, Host.Opening opening) {
            JsonObject headers = new JsonObject();
            opening.headers().forEach(headers::addProperty);
            JsonObject line = event("open");
            line.add("headers", headers);
            line.addProperty("protocol", opening.protocol());
            line.addProperty("extensions", opening.extensions());
            print(line);
        }

        @Override
        public void onMessage(Host.WebSocket websocket, String text) throws InterruptedException {
            JsonObject line = event("message");
            line.addProperty("text", text);
            print(line);
            Thread.sleep(delay);
        }

        @Override
        public void onMessage(Host.WebSocket websocket, byte[] data) throws InterruptedException {
            JsonObject line = event("message");
            line.addProperty("base64", Base64.getEncoder().encodeToString(data));
            print(line);
            Thread.sleep(delay);
        }

        @Override
        public void onError(Host.WebSocket websocket, Host.Failure failure) {
            JsonObject line = event("error");
            line.addProperty("code", failure.code());
            line.addProperty("message", failure.message());
            if (failure.status() != 0) {
                line.addProperty("status", failure.status());
            }
            print(line);
        }

        @Override
        public void onClose(Host.WebSocket websocket, int code, String reason, String cause) {
            JsonObject line = event("close");
            line.addProperty("code", code);
            line.addProperty("reason", reason);
            line.addProperty("cause", cause);
            print(line);
        }

        private JsonObject event(String event) {
            JsonObject line = new JsonObject();
            line.addProperty("on", name);
            line.addProperty("event", event);
            return line;
        }
    }
}
