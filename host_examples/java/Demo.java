import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;

/**
 * The story that all the examples tell, with the host beside this file.
 *
 * <p>Gson is one jar, here from Maven Central; where Debian's is (libgoogle-gson-java), the path
 * is /usr/share/java/gson.jar. An echo server, then the demo; the plugin's command line may follow
 * the URL.
 *
 * <pre>
 * $ python3 -m venv .venv && .venv/bin/pip install .
 * $ python3 host_examples/python/echo_server.py 8765 &
 * $ mvn -q -f host_examples/java/pom.xml dependency:copy-dependencies
 * $ javac -encoding UTF-8 -cp 'build/java/dependency/*' -d build/java host_examples/java/*.java
 * $ java -cp 'build/java:build/java/dependency/*' Demo ws://127.0.0.1:8765/ .venv/bin/wsplugin
 * </pre>
 */
public final class Demo implements Host.Listener {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private final CompletableFuture<Host.WebSocket> story = new CompletableFuture<>();

    public static void main(String[] args) throws Exception {
        List<String> command = Arrays.asList(args).subList(1, args.length);
        try {
            Host host = Host.spawn(command.isEmpty() ? List.of("wsplugin") : command);
            Demo demo = new Demo();
            host.create(args[0], demo).get();
            Host.WebSocket websocket = demo.story.get();
            try {
                websocket.send("too late").get();
            } catch (ExecutionException e) {
                if (!(e.getCause() instanceof Host.RequestError error)) {
                    throw e;
                }
                OUT.println("refused: " + error.code);
            }
            OUT.println("exit status: " + host.stop());
        } catch (Host.PluginEnded e) {
            fail(e);
        } catch (ExecutionException e) {
            fail(e.getCause());
        }
    }

    private static void fail(Throwable failure) {
        System.err.println(failure.getClass().getSimpleName() + ": " + failure.getMessage());
        System.exit(1);
    }

    @Override
    public void onOpen(Host.WebSocket websocket, Host.Opening opening) {
        OUT.println("open");
        check(websocket.send("Grüße 👋"));
    }

    @Override
    public void onMessage(Host.WebSocket websocket, String text) {
        OUT.println("text: " + text);
        check(websocket.send(new byte[] {0x00, 0x01, 0x7F, (byte) 0x80, (byte) 0xFF}));
    }

    @Override
    public void onMessage(Host.WebSocket websocket, byte[] data) {
        StringBuilder hex = new StringBuilder("binary:");
        for (byte octet : data) {
            hex.append(String.format(" %02x", octet));
        }
        OUT.println(hex);
        check(websocket.close(1000, "done"));
    }

    @Override
    public void onError(Host.WebSocket websocket, Host.Failure failure) {
        OUT.println("error: " + failure.code() + ": " + failure.message());
    }

    @Override
    public void onClose(Host.WebSocket websocket, int code, String reason, String cause) {
        OUT.println("close: " + code + " " + reason + " (" + cause + ")");
        story.complete(websocket);
    }

    /** Ends the story if a request fails. */
    private void check(CompletableFuture<?> answer) {
        answer.whenComplete((response, failure) -> {
            if (failure != null) {
                story.completeExceptionally(failure.getCause());
            }
        });
    }
}
