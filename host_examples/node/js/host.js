/**
 * A host for wsplugin to copy: this file, and lines.d.ts for its types. For Node 18 or later,
 * which includes Electron's main process. js/host.js is the same as plain JavaScript.
 *
 * demo.ts beside this file shows it at work and says how to run it. In short:
 *
 *     const host = await Host.spawn(["wsplugin", "--allow-host", "example.com"]);
 *     const websocket = await host.create("wss://example.com/");
 *     await websocket.send("hello");
 *     for await (const event of websocket) {
 *       if (event.name === "message") console.log(event.data);
 *     }
 *
 * Events are queued from create on, so none is lost, and the loop over a connection ends behind
 * its close event. The queue has no bound, because a host that does not read stops all
 * connections at once: whoever gets more than they can take should close.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { constants } from "node:os";
/** Milliseconds that the plugin has to end by itself before it is killed. */
const GRACE = 5000;
/** The plugin has refused a request: a stable code, and words for people. */
export class RequestError extends Error {
    name = "RequestError";
    code;
    constructor(problem) {
        super(`${problem.code}: ${problem.errMsg}`);
        this.code = problem.code;
    }
}
/** The plugin is gone, and why: what was asked of it will not be answered. */
export class PluginEnded extends Error {
    name = "PluginEnded";
}
/** One connection, from Host.create. Loop over it for its events. */
export class WebSocket {
    /** The plugin's id of this connection. */
    id = "";
    #host;
    #events = [];
    #wake = () => { };
    constructor(host) {
        this.#host = host;
    }
    /** Send a message. Await this before the next: it is the back-pressure. */
    async send(data) {
        if (typeof data === "string") {
            await this.#host.request("websocket-send", { id: this.id, type: "text", data });
        }
        else {
            const text = Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64");
            await this.#host.request("websocket-send", { id: this.id, type: "base64", data: text });
        }
    }
    /** Start the closing handshake; the close event tells its end. */
    async close(code = 1000, reason = "") {
        await this.#host.request("websocket-close", { id: this.id, code, reason });
    }
    /** Yield the events as they come, up to the close. */
    async *[Symbol.asyncIterator]() {
        for (;;) {
            const event = this.#events.shift();
            if (event === undefined) {
                await new Promise((resolve) => (this.#wake = resolve));
                continue;
            }
            yield event;
            if (event.name === "close")
                return;
        }
    }
    /** Queue an event that the host has read. */
    take(event) {
        this.#events.push(event);
        this.#wake();
    }
}
/** Runs the plugin as a child process. */
export class Host {
    #child;
    #pending = new Map();
    #websockets = new Map();
    #closed;
    #requests = 0;
    #parts = [];
    #stopping = false;
    #broken = "";
    #ended = "";
    #lastError = "";
    constructor(child) {
        this.#child = child;
        child.on("error", () => { }); // spawn throws it
        child.stdin.on("error", () => { }); // the plugin is gone: its stdout ends too, see below
        child.stderr.on("data", (chunk) => this.#passOn(chunk));
        child.stdout.on("data", (chunk) => this.#read(chunk));
        child.stdout.on("close", () => {
            child.stdin.end();
            setTimeout(() => child.kill("SIGKILL"), GRACE).unref();
        });
        this.#closed = new Promise((resolve) => {
            child.on("close", (code, signal) => resolve(this.#end(code, signal)));
        });
    }
    /** Start the plugin. */
    static async spawn(command = ["wsplugin"]) {
        const [file = "", ...args] = command;
        const host = new Host(spawn(file, args, { windowsHide: true }));
        await once(host.#child, "spawn"); // or throw, if there is no such command
        return host;
    }
    /** Create a connection; the promise resolves at once, before it is open. */
    async create(url, options = {}) {
        const websocket = new WebSocket(this);
        const payload = { url, binaryType: "base64", ...options };
        await this.request("websocket-create", payload, websocket);
        return websocket;
    }
    /** Tell that the app leaves the screen: ends all connections, then resolves. */
    async background() {
        await this.request("app-background", {});
    }
    /** Ask for the plugin's version, actions and limits. */
    describe() {
        return this.request("plugin-describe", {});
    }
    /**
     * Send a request and return its response. Rejects with RequestError if the plugin refuses it,
     * and with PluginEnded if the plugin ends before it answers.
     */
    request(action, payload, creates) {
        return new Promise((resolve, reject) => {
            if (this.#ended || this.#stopping) {
                reject(new PluginEnded(this.#ended || "the host has stopped the plugin"));
                return;
            }
            // The id comes first: of a line that is too long the plugin reads no more than the start.
            const id = ++this.#requests;
            this.#pending.set(id, { resolve, reject, creates });
            this.#child.stdin.write(`${JSON.stringify({ id, action, payload })}\n`);
        });
    }
    /**
     * End the plugin in good order and return its exit status. Its input is closed first: it then
     * closes the connections and ends; only one that has not ended after the grace is killed.
     */
    async stop(grace = GRACE) {
        this.#stopping = true;
        this.#child.stdin.end();
        const timer = setTimeout(() => {
            this.#child.kill("SIGKILL");
            this.#child.stdout.destroy(); // somebody else may hold them open
            this.#child.stderr.destroy();
        }, grace);
        const status = await this.#closed;
        clearTimeout(timer);
        return status;
    }
    /** Read stdout to its end, always: a line is whole only when its LF has come. */
    #read(chunk) {
        if (this.#broken)
            return;
        try {
            let start = 0;
            for (let lf; (lf = chunk.indexOf(10, start)) >= 0; start = lf + 1) {
                const line = Buffer.concat([...this.#parts, chunk.subarray(start, lf)]);
                this.#parts = [];
                this.#take(JSON.parse(line.toString()));
            }
            this.#parts.push(chunk.subarray(start));
        }
        catch (error) {
            this.#broken = `the plugin wrote what is no line of its protocol (${error})`;
            this.#child.kill("SIGKILL");
        }
    }
    #take(line) {
        if ("event" in line) {
            const { id, name } = line.payload;
            this.#websockets.get(id)?.take(eventOf(line));
            if (name === "close")
                this.#websockets.delete(id);
            return;
        }
        const pending = this.#pending.get(Number(line.id));
        if (pending === undefined)
            return; // to a line that the plugin could not read: there is none
        this.#pending.delete(Number(line.id));
        if ("error" in line) {
            pending.reject(new RequestError(line.error));
            return;
        }
        if (pending.creates) {
            // Before the next line is looked at, which may be an event of this connection.
            pending.creates.id = line.response.id;
            this.#websockets.set(pending.creates.id, pending.creates);
        }
        pending.resolve(line.response);
    }
    /** Pass stderr on, and remember its last line: it says why if the plugin fails. */
    #passOn(chunk) {
        process.stderr.write(chunk);
        const tail = (this.#lastError + chunk.toString()).trimEnd();
        this.#lastError = `${tail.slice(tail.lastIndexOf("\n") + 1).slice(-1000)}\n`;
    }
    /** Fail what is pending, and close every connection that had no close yet. */
    #end(code, signal) {
        const killer = signal ? constants.signals[signal] : 0;
        const status = code ?? 128 + killer;
        const how = killer ? `was killed by signal ${killer}` : `ended with status ${status}`;
        const last = this.#lastError.trim();
        this.#ended = this.#broken || `the plugin ${how}${last && `: ${last}`}`;
        for (const { reject } of this.#pending.values())
            reject(new PluginEnded(this.#ended));
        this.#pending.clear();
        for (const websocket of this.#websockets.values()) {
            websocket.take({ name: "close", code: 1006, reason: this.#ended, cause: "failure" });
        }
        this.#websockets.clear();
        return status;
    }
}
function eventOf({ payload: event }) {
    switch (event.name) {
        case "open":
            return { name: "open", ...event.payload };
        case "message":
            return { name: "message", data: dataOf(event.payload) };
        case "error":
            return { name: "error", ...event.payload };
        case "close":
            return { name: "close", ...event.payload };
    }
}
function dataOf(message) {
    switch (message.type) {
        case "text":
            return message.data;
        case "base64":
            return Buffer.from(message.data, "base64");
        case "arraybuffer": // not with binaryType "base64"
            return Uint8Array.from(message.data);
    }
}
