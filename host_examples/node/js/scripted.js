/**
 * The host beside this file, driven by a script: `wsplugin certify` (see ../certify.md) and the
 * tests speak it. It starts the plugin in the environment variable WSPLUGIN, a single path, and
 * carries out each line of its stdin as soon as it comes; what comes of it is a line on stdout.
 *
 * $ WSPLUGIN=.venv/bin/wsplugin node host_examples/node/js/scripted.js
 * {"id": 1, "call": "create", "as": "a", "url": "ws://127.0.0.1:8765/"}
 * {"id": 2, "call": "send", "to": "a", "text": "hello"}
 */
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Host, PluginEnded, RequestError } from "./host.js";
let starting;
const websockets = new Map();
function print(line) {
    process.stdout.write(`${JSON.stringify(line)}\n`);
}
/** Start the host, and print what comes of it. */
function start(id) {
    starting = Host.spawn([process.env["WSPLUGIN"] ?? "wsplugin"]);
    websockets.clear();
    report(id, starting);
}
/** Print how a call has ended. */
async function report(id, outcome) {
    try {
        const more = await outcome;
        print({ id, outcome: "ok", ...(more instanceof Host ? {} : more) });
    }
    catch (error) {
        const { message } = error;
        if (error instanceof RequestError) {
            print({ id, outcome: "refused", code: error.code, message: error.errMsg });
        }
        else if (error instanceof PluginEnded)
            print({ id, outcome: "ended", message });
        else
            print({ id, outcome: "invalid", message });
    }
}
/** Print the events of a connection, and spend some time on each message. */
async function listen(on, websocket, delay) {
    for await (const event of websocket) {
        switch (event.name) {
            case "open": {
                const { headers, protocol, extensions } = event;
                print({ on, event: "open", headers, protocol, extensions });
                break;
            }
            case "message": {
                const { data } = event;
                const text = typeof data === "string";
                const what = text ? { text: data } : { base64: Buffer.from(data).toString("base64") };
                print({ on, event: "message", ...what });
                if (delay > 0)
                    await sleep(delay);
                break;
            }
            case "error": {
                const { code, errMsg, status } = event;
                print({ on, event: "error", code, message: errMsg, status });
                break;
            }
            case "close": {
                const { code, reason, cause } = event;
                print({ on, event: "close", code, reason, cause });
                break;
            }
        }
    }
}
/** Return the connection of a name; a call may come before the create has been answered. */
function named(name) {
    const websocket = websockets.get(name);
    if (websocket === undefined)
        throw new TypeError(`there is no connection ${name}`);
    return websocket;
}
/** Carry out a call; resolves to what its outcome tells besides "ok". */
async function carryOut(call) {
    const host = await starting;
    switch (call.call) {
        case "create": {
            const { id: _, call: __, as, url, delay = 0, ...options } = call;
            const creating = host.create(url, options);
            websockets.set(as, creating);
            void listen(as, await creating, delay);
            return;
        }
        case "send":
            return (await named(call.to)).send(call.text ?? Buffer.from(call.base64 ?? "", "base64"));
        case "close":
            return (await named(call.to)).close(call.code, call.reason, call.timeout ?? undefined);
        case "pause":
            return (await named(call.to)).pause();
        case "resume":
            return (await named(call.to)).resume();
        case "ping":
            return { rtt: await (await named(call.to)).ping(call.timeout ?? undefined) };
        case "background":
            return host.background(call.app);
        case "stop":
            return { status: await host.stop() };
        default:
            throw new TypeError(`there is no call ${call.call}`);
    }
}
async function main() {
    start(0);
    for await (const line of createInterface({ input: process.stdin })) {
        const call = JSON.parse(line);
        if (call.call === "start")
            start(call.id);
        else
            report(call.id, call.call === "sleep" ? sleep(call.ms) : carryOut(call));
        if (call.call === "sleep")
            await sleep(call.ms);
    }
    const host = await starting.catch(() => undefined); // reported when it failed
    await host?.stop();
}
try {
    await main();
}
catch (error) {
    console.error(String(error));
    process.exit(2);
}
