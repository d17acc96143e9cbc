/**
 * How an app stays connected: after every end it opens a new connection, later and later, and at
 * a moment of chance, so that thousands of clients do not come back to a server all at once. When
 * the network has changed, a ping finds out in seconds whether the connection still leads anywhere.
 * Plugins that die are the supervisor's affair.
 *
 * $ python3 -m venv .venv && .venv/bin/pip install .
 * $ python3 host_examples/python/echo_server.py 8765 &
 * $ node host_examples/node/js/reconnect.js ws://127.0.0.1:8765/ .venv/bin/wsplugin
 */
import { networkInterfaces } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { Host, PluginEnded, RequestError } from "./host.js";
import { Supervisor } from "./supervisor.js";
const FIRST = 500;
const LONGEST = 30_000;
/**
 * Keep a connection open, for ever. What was sent and not answered when a connection ended may or
 * may not have arrived: whether it is sent again is for the app to know, so onEvent gets each "open".
 */
async function stayConnected(supervisor, url, onEvent) {
    for (let failures = 0;; failures++) {
        let stopWatching = () => { };
        try {
            const websocket = await supervisor.create(url);
            for await (const event of websocket) {
                if (event.name === "open") {
                    failures = 0;
                    // A ping without a Pong ends the connection, and the loop with it.
                    stopWatching = onNetworkChange(() => websocket.ping(3000).catch(known));
                }
                await onEvent(event, websocket);
            }
        }
        catch (error) {
            known(error);
            console.error(String(error));
        }
        finally {
            stopWatching();
        }
        await sleep(Math.random() * Math.min(LONGEST, FIRST * 2 ** failures));
    }
}
/** Call back when this machine's addresses are others; an Electron app has better signs of it. */
function onNetworkChange(changed) {
    const addresses = () => JSON.stringify(networkInterfaces());
    let before = addresses();
    const timer = setInterval(() => {
        const now = addresses();
        if (now !== before)
            changed();
        before = now;
    }, 2000);
    return () => clearInterval(timer);
}
/** What the end of a connection or of a plugin brings is known; all else is a fault. */
function known(error) {
    if (!(error instanceof RequestError || error instanceof PluginEnded))
        throw error;
}
const [url = "ws://127.0.0.1:8765/", ...command] = process.argv.slice(2);
const plugin = command.length > 0 ? command : undefined;
await stayConnected(new Supervisor(() => Host.spawn(plugin)), url, async (event, websocket) => {
    console.log(event.name, event.name === "message" ? event.data : "");
    if (event.name === "open")
        await websocket.send("here I am again");
});
