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
 * its close event. A loop that takes its time holds up its own server and no other connection:
 * when the queue is full, the plugin reads no more from that server until it is half empty.
 * Leaving the loop closes the connection.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeSync } from "node:fs";
import { constants } from "node:os";
/** Milliseconds that the plugin has to end by itself before it is killed. */
const GRACE = 5000;
/** Milliseconds, after the end of the process, for what is left in its pipes. */
const REST = 1000;
/** Characters that are kept of a line on stderr. */
const WORDS = 1000;
/** Bytes from the plugin's stderr that may wait for whoever reads this process's. */
const BACKLOG = 1 << 20;
/** The plugin has refused a request: a stable code, and words for people. */
export class RequestError extends Error {
    name = "RequestError";
    code;
    /** The plugin's words, without the code. */
    errMsg;
    constructor({ code, errMsg }) {
        super(`${code}: ${errMsg}`);
        this.code = code;
        this.errMsg = errMsg;
    }
}
/** The plugin is gone, or is none, and why: what was asked of it will not be answered. */
export class PluginEnded extends Error {
    name = "PluginEnded";
}
/** One connection, from Host.create. Loop over it, once, for its events. */
export class WebSocket {
    /** The plugin's id of this connection. */
    id = "";
    #host;
    #app;
    #limits;
    // The queue is two stacks, so that the next event is taken in constant time however many wait.
    #incoming = [];
    #outgoing = [];
    #bytes = 0;
    #held = false;
    #paused = false;
    #looping = false;
    #left = false;
    #wake = () => { };
    #before;
    /** For Host.create. */
    constructor(host, app, limits) {
        this.#host = host;
        this.#app = app;
        this.#limits = limits;
    }
    /** Send a message. Await this before the next: it is the back-pressure. */
    async send(data) {
        if (!(data instanceof Blob || this.#before)) {
            await this.#write(data);
            return;
        }
        // A Blob takes time to read: what comes behind it must not overtake it, even if it fails.
        const bytes = data instanceof Blob ? data.arrayBuffer() : copyOf(data);
        const turn = Promise.allSettled([bytes, this.#before?.then(() => { })]);
        this.#before = turn;
        const [read] = await turn;
        if (this.#before === turn)
            this.#before = undefined;
        if (read.status === "rejected")
            throw read.reason;
        await this.#write(read.value);
    }
    /**
     * Start the closing handshake; the close event tells its end. A code of 1005 sends none. The
     * server has timeout milliseconds to answer; with 0 the connection is cut at once.
     */
    async close(code = 1000, reason = "", timeout) {
        if (this.#before)
            await this.#before;
        const optional = { ...(reason && { reason }), ...(timeout !== undefined && { timeout }) };
        const payload = { id: this.id, code, ...optional };
        await this.#request("websocket-close", payload);
    }
    /** Read no more from this server, until resume; for seconds, not minutes. */
    async pause() {
        this.#paused = true;
        await this.#request("websocket-pause", { id: this.id });
    }
    /** Read on from this server, as soon as the queue has room. */
    async resume() {
        this.#paused = false;
        if (!this.#held)
            await this.#request("websocket-resume", { id: this.id });
    }
    /** Ask the server for a sign of life; resolves to the milliseconds that it took. */
    async ping(timeout) {
        const payload = { id: this.id, ...(timeout !== undefined && { timeout }) };
        return (await this.#request("websocket-ping", payload)).rtt;
    }
    /** Yield the events as they come, up to the close. Only the first loop gets any. */
    async *[Symbol.asyncIterator]() {
        if (this.#looping)
            return;
        this.#looping = true;
        let event;
        try {
            while (event?.name !== "close") {
                event = this.#next();
                if (event)
                    yield event;
                else
                    await new Promise((resolve) => (this.#wake = resolve));
            }
        }
        finally {
            if (event?.name !== "close")
                this.#leave();
        }
    }
    /** Queue an event that the host has read. */
    take(event) {
        if (this.#left)
            return;
        this.#incoming.push(event);
        this.#bytes += sizeOf(event);
        if (!this.#held && (this.#bytes >= this.#limits.bytes || this.#length >= this.#limits.length)) {
            if (this.#host.description.features.includes("pause"))
                this.#hold(true);
        }
        this.#wake();
    }
    #write(data) {
        const { id } = this;
        if (typeof data === "string") {
            return this.#request("websocket-send", { id, type: "text", data });
        }
        const base64 = bytesOf(data).toString("base64");
        return this.#request("websocket-send", { id, type: "base64", data: base64 });
    }
    get #length() {
        return this.#incoming.length + this.#outgoing.length;
    }
    #next() {
        if (this.#outgoing.length === 0) {
            this.#outgoing = this.#incoming.reverse();
            this.#incoming = [];
        }
        const event = this.#outgoing.pop();
        if (event)
            this.#bytes -= sizeOf(event);
        const { bytes, length } = this.#limits;
        if (this.#held && this.#bytes <= bytes / 2 && this.#length <= length / 2)
            this.#hold(false);
        return event;
    }
    #hold(held) {
        this.#held = held;
        if (this.#paused)
            return; // The app holds it already, and lets go of it when it wants to.
        this.#request(held ? "websocket-pause" : "websocket-resume", { id: this.id }).catch(known);
    }
    #leave() {
        this.#left = true;
        this.#incoming = [];
        this.#outgoing = [];
        this.close().catch(known);
    }
    #request(action, payload) {
        return this.#host.request(action, payload, { app: this.#app });
    }
}
/** Runs the plugin as a child process. */
export class Host {
    /** What the plugin has said of itself at the start: version, features, limits. */
    description;
    /** Resolves to the exit status of the plugin when it has ended, whoever has ended it. */
    ended;
    #child;
    #options;
    #pending = new Map();
    #websockets = new Map();
    #requests = 0;
    #parts = [];
    #stopped;
    #broken = "";
    #whyEnded = "";
    #killer;
    #busy = true;
    #rest = "";
    #lastWords = "";
    constructor(child, options) {
        this.#child = child;
        this.#options = options;
        child.on("error", () => { }); // spawn throws it
        child.stdout.on("data", (chunk) => this.#read(chunk));
        child.stderr.setEncoding("utf8").on("data", (text) => this.#hear(text));
        // One that hears nothing or says nothing any more is at its end, or is brought to it.
        child.stdin.on("error", () => this.#expect());
        child.stdout.on("close", () => this.#expect());
        child.on("exit", () => {
            // Somebody else may hold its pipes open. What they hold is read before they are given up.
            const timer = setTimeout(() => setImmediate(() => this.#hangUp()), REST);
            child.on("close", () => clearTimeout(timer));
        });
        this.ended = new Promise((resolve) => {
            child.on("close", (code, signal) => resolve(this.#end(code, signal)));
        });
        for (const stream of [child.stdin, child.stderr])
            stream.unref();
    }
    /**
     * Start the plugin, and ask it what it is. Throws PluginEnded, with words and no process left
     * behind, if the command cannot be started, dies, or is no plugin that this host can talk to.
     */
    static async spawn(command = ["wsplugin"], options = {}) {
        const [file = "", ...args] = command;
        const { appendOptions = true, exitTimeout = 1500, startTimeout = 5000 } = options;
        const append = (name, value) => {
            const named = args.some((arg) => arg === name || arg.startsWith(`${name}=`));
            if (appendOptions && !named)
                args.push(name, String(value));
        };
        append("--parent-pid", process.pid);
        append("--exit-timeout", exitTimeout / 1000);
        let host;
        try {
            host = new Host(spawn(file, args, { windowsHide: true }), options);
            await once(host.#child, "spawn"); // or throw, if there is no such command
        }
        catch (error) {
            throw new PluginEnded(`cannot start ${file}: ${error.message}`);
        }
        await host.#introduce(command.join(" "), startTimeout);
        return host;
    }
    async #introduce(command, timeout) {
        const late = `it has not said what it is within ${timeout} ms`;
        const timer = setTimeout(() => this.#break(late), timeout);
        try {
            this.description = await this.describe().catch((error) => {
                if (!(error instanceof RequestError))
                    throw error;
                throw new PluginEnded(`it does not say what it is (${error.message})`);
            });
            const { name, protocol } = this.description;
            if (name !== "wsplugin")
                throw new PluginEnded(`it calls itself ${JSON.stringify(name)}`);
            if (protocol !== 1)
                throw new PluginEnded(`it speaks protocol ${protocol}, this host 1`);
        }
        catch (error) {
            this.#break("it is no plugin for this host");
            await this.ended;
            const old = /unrecognized arguments:.* --(parent-pid|exit-timeout)/.test(this.#lastWords);
            const words = old
                ? "this wsplugin is of 1.0; update it or start it without these options"
                : error.message;
            throw new PluginEnded(`${words} (the command: ${command})`);
        }
        finally {
            clearTimeout(timer);
        }
    }
    /** Create a connection; the promise resolves at once, before it is open. */
    async create(url, options = {}) {
        const { app, hostHeaders, ...rest } = options;
        const { queueBytes: bytes = 1 << 20, queueLength: length = 1024 } = this.#options;
        const websocket = new WebSocket(this, app, { bytes, length });
        const payload = { url, binaryType: "base64", ...rest };
        await this.request("websocket-create", payload, { app, hostHeaders }, websocket);
        return websocket;
    }
    /** Tell that the app leaves the screen: ends all connections (of this app), then resolves. */
    async background(app) {
        await this.request("app-background", {}, { app });
    }
    /** Ask for the plugin's version, actions, features and limits. */
    describe() {
        return this.request("plugin-describe", undefined);
    }
    /**
     * Send a request and return its response. Rejects with RequestError if the plugin refuses it,
     * with PluginEnded if the plugin ends before it answers, and with TypeError if it cannot be
     * written down.
     */
    async request(action, payload, { app, hostHeaders: headers } = {}, creates) {
        if (this.#whyEnded || this.#stopped) {
            throw new PluginEnded(this.#whyEnded || "the host has stopped the plugin");
        }
        // The id comes first: of a line that is too long the plugin reads no more than the start.
        const id = this.#requests + 1;
        const line = JSON.stringify({ id, action, app, headers, payload });
        if (line.includes("\\ud") && /(?<!\\)(\\\\)*\\ud[89a-f]/.test(line)) {
            throw new TypeError("half a surrogate pair is no text");
        }
        this.#requests = id;
        return new Promise((resolve, reject) => {
            this.#pending.set(id, { resolve, reject, creates });
            this.#keepAlive();
            this.#child.stdin.write(`${line}\n`);
        });
    }
    /**
     * End the plugin in good order and return its exit status. Its input is closed first: it then
     * closes the connections and ends; only one that has not ended after the grace is killed.
     */
    stop(grace = GRACE) {
        if (this.#stopped === undefined) {
            this.#stopped = this.ended;
            this.#keepAlive();
            this.#expect(grace);
        }
        return this.#stopped;
    }
    /** Let the plugin end, and see that it does. */
    #expect(grace = GRACE) {
        if (this.#killer)
            return;
        this.#child.stdin.end();
        this.#killer = setTimeout(() => this.#child.kill("SIGKILL"), grace).unref();
        this.#child.on("exit", () => clearTimeout(this.#killer));
    }
    #break(why) {
        this.#broken ||= why;
        this.#child.kill("SIGKILL");
    }
    #hangUp() {
        this.#child.stdout.destroy();
        this.#child.stderr.destroy();
    }
    /** Keep this process alive while an answer or a close is to come, as an open socket does. */
    #keepAlive() {
        const busy = this.#pending.size > 0 || this.#websockets.size > 0 || !!this.#stopped;
        if (busy === this.#busy)
            return;
        this.#busy = busy;
        for (const handle of [this.#child, this.#child.stdout]) {
            if (busy)
                handle.ref();
            else
                handle.unref();
        }
    }
    /** Read stdout to its end, always: a line is whole only when its LF has come. */
    #read(chunk) {
        if (this.#broken)
            return;
        let start = 0;
        for (let lf; (lf = chunk.indexOf(10, start)) >= 0 && !this.#broken; start = lf + 1) {
            const rest = chunk.subarray(start, lf);
            const line = this.#parts.length > 0 ? Buffer.concat([...this.#parts, rest]) : rest;
            this.#parts = [];
            try {
                this.#take(JSON.parse(line.toString()));
            }
            catch (error) {
                const excerpt = line.toString("utf8", 0, 200);
                this.#break(`the plugin wrote what is no line of its protocol: ${excerpt} (${error})`);
            }
        }
        if (start < chunk.length)
            this.#parts.push(chunk.subarray(start));
        this.#keepAlive();
    }
    #take(line) {
        if ("event" in line) {
            if (line.event !== "websocket-event")
                return; // of a later version of the plugin
            const { id, name } = line.payload;
            const event = eventOf(line);
            if (event)
                this.#websockets.get(id)?.take(event);
            if (name === "close")
                this.#websockets.delete(id);
            return;
        }
        const id = line.id;
        const pending = this.#pending.get(id);
        if (pending === undefined)
            return; // to a line that the plugin could not read: there is none
        if ("error" in line) {
            pending.reject(new RequestError(line.error));
        }
        else {
            const { response } = line;
            if (!response)
                throw new TypeError("an answer without response or error");
            if (pending.creates) {
                // Before the next line is looked at, which may be an event of this connection.
                pending.creates.id = must("string", response.id);
                this.#websockets.set(pending.creates.id, pending.creates);
            }
            pending.resolve(response);
        }
        this.#pending.delete(id);
    }
    /** Pass stderr on, line by line, and remember the last: it says why if the plugin fails. */
    #hear(text) {
        const lines = (this.#rest + text).split("\n");
        this.#rest = lines.pop() ?? "";
        if (this.#rest.length > 65_536) {
            lines.push(this.#rest);
            this.#rest = "";
        }
        for (const line of lines)
            this.#tell(line);
    }
    #tell(line) {
        if (line.trim())
            this.#lastWords = line.trim().slice(0, WORDS);
        const { stderr = "inherit" } = this.#options;
        if (stderr === "inherit") {
            passOn(`${line}\n`);
        }
        else if (stderr !== "ignore") {
            try {
                stderr(line);
            }
            catch (error) {
                // The app's fault: the plugin must not end of it.
                process.emitWarning(error instanceof Error ? error : String(error));
            }
        }
    }
    /** Fail what is pending, and close every connection that had no close yet. */
    #end(code, signal) {
        if (this.#rest)
            this.#tell(this.#rest);
        const killer = signal ? constants.signals[signal] : 0;
        const status = code ?? 128 + killer;
        const how = killer ? `was killed by signal ${killer}` : `ended with status ${status}`;
        this.#whyEnded =
            this.#broken || `the plugin ${how}${this.#lastWords && `: ${this.#lastWords}`}`;
        for (const { reject } of this.#pending.values())
            reject(new PluginEnded(this.#whyEnded));
        this.#pending.clear();
        for (const websocket of this.#websockets.values()) {
            websocket.take({ name: "close", code: 1006, reason: this.#whyEnded, cause: "failure" });
        }
        this.#websockets.clear();
        return status;
    }
}
const unwritten = [];
let unwrittenBytes = 0;
let retry;
/** Write to this process's stderr without ever waiting for whoever reads it. */
function passOn(text) {
    if (unwrittenBytes > BACKLOG)
        return; // Nobody has read for long: to wait would be worse.
    const bytes = Buffer.from(text);
    unwritten.push(bytes);
    unwrittenBytes += bytes.length;
    clearTimeout(retry);
    writeOn();
}
function writeOn() {
    void process.stderr; // which makes a pipe non-blocking
    try {
        for (let next; (next = unwritten[0]);) {
            const count = writeSync(2, next);
            unwrittenBytes -= count;
            if (count < next.length)
                unwritten[0] = next.subarray(count);
            else
                unwritten.shift();
        }
    }
    catch (error) {
        if (error.code === "EAGAIN") {
            retry = setTimeout(writeOn, 20).unref();
        }
        else {
            unwritten.length = unwrittenBytes = 0; // There is no stderr, or nobody reads it any more.
        }
    }
}
/** For requests of the host's own: their failure is told by the close event of the connection. */
function known(error) {
    if (!(error instanceof RequestError || error instanceof PluginEnded))
        throw error;
}
function bytesOf(data) {
    if (!ArrayBuffer.isView(data))
        return Buffer.from(data);
    return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}
function copyOf(data) {
    return typeof data === "string" ? data : Uint8Array.from(bytesOf(data));
}
function sizeOf(event) {
    if (event.name !== "message")
        return 0;
    return typeof event.data === "string" ? Buffer.byteLength(event.data) : event.data.byteLength;
}
/** Return what must be there: a plugin that leaves it out is broken, and is not believed. */
function must(type, value) {
    if (typeof value !== type)
        throw new TypeError(`no ${type} where one must be`);
    return value;
}
/** Return what the line tells, or nothing if only a later version of this host knows it. */
function eventOf({ payload: event }) {
    switch (event.name) {
        case "open":
            must("object", event.payload.headers);
            return { name: "open", ...event.payload };
        case "message": {
            const data = dataOf(event.payload);
            return data === undefined ? undefined : { name: "message", data };
        }
        case "error":
            must("string", event.payload.code);
            return { name: "error", ...event.payload };
        case "close":
            must("number", event.payload.code);
            return { name: "close", ...event.payload };
        default:
            return undefined;
    }
}
function dataOf(message) {
    switch (message.type) {
        case "text":
            return must("string", message.data);
        case "base64":
            return Buffer.from(must("string", message.data), "base64");
        case "arraybuffer": // not with binaryType "base64"
            return Uint8Array.from(message.data);
        default:
            return undefined;
    }
}
