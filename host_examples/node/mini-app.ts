/**
 * What mini-apps have: connectSocket and its SocketTask, over the shared plugin. One MiniApp for
 * each app that a container runs; connectSocket alone is that of an app of its own.
 *
 * What is meant is what WeChat's pages on wx.connectSocket, SocketTask and "network" say, which
 * other containers follow. Where they say nothing, the last column says what happens here.
 *
 * | documented | here |
 * | --- | --- |
 * | url, a wss address | ws as well, where the plugin allows it |
 * | header; a Referer in it cannot be set | is left out: the container's own is sent. Numbers and booleans become strings |
 * | protocols | passed on |
 * | tcpNoDelay, perMessageDeflate: false by default | so are they here |
 * | timeout in ms, by default 60 s | passed on |
 * | forceCellularNetwork | ignored |
 * | success, fail, complete tell how the call went, not the connection | called later, never within the call; errMsg is "connectSocket:ok" or "connectSocket:fail " and why |
 * | at most five connections at a time | counted until onClose; the sixth fails with "connectSocket:fail exceed max concurrent count" |
 * | send({ data, success, fail, complete }), data a string or an ArrayBuffer | views too; "sendSocketMessage:ok" when the plugin has it under flow control |
 * | close({ code, reason, … }), code 1000 by default | "closeSocket:ok" when accepted; the end is told by onClose |
 * | onOpen({ header, profile }) | the plugin's open facts are these |
 * | onMessage({ data }), onClose({ code, reason }) | as they are |
 * | onError({ errMsg }) | if the connection fails: before its onClose; if the call has failed: after complete, and no onClose comes |
 * | in the background, what has not ended within 5 s fails with "fail interrupted"; calls fail until the app is shown | hide() and show() say so: connections end with onClose 1001, those not open yet with onError "connectSocket:fail interrupted" before it |
 * | nothing on several listeners | all are called, in their order |
 * | nothing on readyState | 0 to 3, as a WebSocket's, since frameworks read it |
 * | nothing on the end of an app | dispose() ends its connections and calls nobody any more |
 */

import {
  type Data,
  type Host,
  PluginEnded,
  RequestError,
  type Event as HostEvent,
  type WebSocket as Connection,
} from "./host.ts";
import { shared } from "./shared.ts";

/** How a call went: "NAME:ok" or "NAME:fail WORDS". */
export interface Result {
  errMsg: string;
}

/** What every call takes besides. */
export interface Callbacks {
  success?: (result: Result) => void;
  fail?: (result: Result) => void;
  complete?: (result: Result) => void;
}

/** What connectSocket takes. */
export interface ConnectOptions extends Callbacks {
  url: string;
  header?: Record<string, unknown>;
  protocols?: string[];
  tcpNoDelay?: boolean;
  perMessageDeflate?: boolean;
  timeout?: number;
  forceCellularNetwork?: boolean;
}

/** What an app is to its container. */
export interface MiniAppOptions {
  /** The name of the app, which no other app has: 1 to 256 characters. */
  app: string;
  /** The Referer of its requests, such as https://servicewechat.com/APPID/VERSION/page-frame.html. */
  referer?: string;
  /** How many connections it may have at a time; 5. */
  limit?: number;
  /** Milliseconds in the background until its connections end; 5000. */
  backgroundAfter?: number;
  /** Told of a listener or callback that throws; the default is a warning of the process. */
  onListenerError?: (error: unknown) => void;
}

type OpenResult = Pick<Extract<HostEvent, { name: "open" }>, "profile"> & {
  header: Record<string, string>;
};
interface Listeners {
  open: (result: OpenResult) => void;
  message: (result: { data: string | ArrayBuffer }) => void;
  error: (result: Result) => void;
  close: (result: { code: number; reason: string }) => void;
}

/** An app of a container, as far as its sockets go. */
export class MiniApp {
  readonly #options: MiniAppOptions;
  readonly #tasks = new Set<SocketTask>();
  #timer: NodeJS.Timeout | undefined;
  #refusal = "";
  #disposed = false;

  constructor(options: MiniAppOptions) {
    this.#options = options;
  }

  /** Start a connection; see the table above. */
  connectSocket(options: ConnectOptions): SocketTask {
    const { limit = 5 } = this.#options;
    const full = this.#tasks.size >= limit && "exceed max concurrent count";
    const refusal = this.#refusal || full;
    const connecting = refusal ? Promise.reject(new Error(refusal)) : this.#connect(options);
    const task = new SocketTask(connecting, options, {
      call: (callback, result) => this.#call(callback, result),
      ended: () => this.#tasks.delete(task),
    });
    if (!refusal) this.#tasks.add(task);
    return task;
  }

  /** The app has left the screen: unless it is shown again soon, its connections end. */
  hide(): void {
    if (this.#disposed || this.#timer) return;
    const { backgroundAfter = 5000 } = this.#options;
    this.#timer = setTimeout(() => {
      this.#refusal = "interrupted";
      this.#endAll();
    }, backgroundAfter);
    this.#timer.unref();
  }

  /** The app is on the screen again. */
  show(): void {
    if (this.#disposed) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#refusal = "";
  }

  /** The app has ended: so do its connections, and nothing of it is called any more. */
  dispose(): void {
    clearTimeout(this.#timer);
    this.#disposed = true;
    this.#refusal = "the app has ended";
    this.#endAll();
  }

  async #connect(options: ConnectOptions): Promise<Connection> {
    const { app, referer } = this.#options;
    const { url, protocols, timeout = 60_000 } = options;
    const { tcpNoDelay = false, perMessageDeflate = false } = options;
    const headers: Record<string, string> = {};
    for (const [name, value] of Object.entries(options.header ?? {})) {
      const isSet = value !== undefined && value !== null && name.toLowerCase() !== "referer";
      if (isSet) headers[name] = String(value);
    }
    const hostHeaders = referer === undefined ? undefined : { Referer: referer };
    const host: Host = await shared().host();
    if (this.#refusal) throw new Error(this.#refusal);
    const rest = { protocols: protocols ?? null, timeout, tcpNoDelay, perMessageDeflate };
    return host.create(url, { app, hostHeaders, headers, ...rest });
  }

  #endAll(): void {
    if (this.#tasks.size === 0) return; // Nobody starts a plugin for this.
    shared()
      .host()
      .then((host) => host.background(this.#options.app))
      .catch(expected); // Connections of a plugin that has ended have ended, too.
  }

  #call<R>(callback: ((result: R) => void) | undefined, result: R): void {
    if (this.#disposed || !callback) return;
    try {
      callback(result);
    } catch (error) {
      const { onListenerError = warn } = this.#options;
      onListenerError(error);
    }
  }
}

/** What a task asks of its MiniApp: to call the app back, and to count it no more. */
interface Owner {
  call<R>(callback: ((result: R) => void) | undefined, result: R): void;
  ended(): void;
}

/** One connection of a mini-app. */
export class SocketTask {
  readonly CONNECTING = 0;
  readonly OPEN = 1;
  readonly CLOSING = 2;
  readonly CLOSED = 3;
  readonly #owner: Owner;
  readonly #connecting: Promise<Connection>;
  readonly #listeners = {
    open: [] as Listeners["open"][],
    message: [] as Listeners["message"][],
    error: [] as Listeners["error"][],
    close: [] as Listeners["close"][],
  };
  #readyState: 0 | 1 | 2 | 3 = 0;

  /** For MiniApp. */
  constructor(connecting: Promise<Connection>, callbacks: Callbacks, owner: Owner) {
    this.#owner = owner;
    this.#connecting = connecting;
    void this.#live(callbacks);
  }

  get readyState(): 0 | 1 | 2 | 3 {
    return this.#readyState;
  }

  onOpen(listener: Listeners["open"]): void {
    this.#listeners.open.push(listener);
  }

  onMessage(listener: Listeners["message"]): void {
    this.#listeners.message.push(listener);
  }

  onError(listener: Listeners["error"]): void {
    this.#listeners.error.push(listener);
  }

  onClose(listener: Listeners["close"]): void {
    this.#listeners.close.push(listener);
  }

  /** Send a message. */
  send({ data, ...callbacks }: { data: Data } & Callbacks): void {
    const copy =
      data instanceof ArrayBuffer
        ? data.slice(0)
        : ArrayBuffer.isView(data)
          ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice()
          : data;
    const sending = this.#readyState === this.OPEN && this.#connecting;
    const sent = sending
      ? sending.then((connection) => connection.send(copy))
      : Promise.reject(new Error("SocketTask.readyState is not OPEN"));
    void this.#settle("sendSocketMessage", sent, callbacks);
  }

  /** Start the closing handshake, or give up the opening one. */
  close(options: { code?: number; reason?: string } & Callbacks = {}): void {
    const { code = 1000, reason = "" } = options;
    const closed = this.#connecting.then(async (connection) => {
      await connection.close(code, reason);
      if (this.#readyState < this.CLOSING) this.#readyState = this.CLOSING;
    });
    void this.#settle("closeSocket", closed, options);
  }

  async #live(callbacks: Callbacks): Promise<void> {
    const failed = await this.#settle("connectSocket", this.#connecting, callbacks);
    if (failed) {
      this.#readyState = this.CLOSED;
      this.#owner.ended();
      for (const listener of this.#listeners.error) this.#owner.call(listener, failed);
      return;
    }
    for await (const event of await this.#connecting) this.#take(event);
  }

  /** Call back; resolves to what has failed, if it has. */
  async #settle(
    name: string,
    done: Promise<unknown>,
    callbacks: Callbacks,
  ): Promise<Result | undefined> {
    const { success, fail, complete } = callbacks;
    let failed: Result | undefined;
    try {
      await done;
    } catch (error) {
      // What may go wrong here, an app's data and the plugin, is told to the app.
      const words = error instanceof RequestError ? error.errMsg : (error as Error).message;
      failed = { errMsg: `${name}:fail ${words}` };
    }
    const result = failed ?? { errMsg: `${name}:ok` };
    this.#owner.call(failed ? fail : success, result);
    this.#owner.call(complete, result);
    return failed;
  }

  #take(event: HostEvent): void {
    const { open, message, error, close } = this.#listeners;
    switch (event.name) {
      case "open": {
        if (this.#readyState === this.CONNECTING) this.#readyState = this.OPEN;
        const { headers: header, profile } = event;
        for (const listener of open) this.#owner.call(listener, { header, profile });
        break;
      }
      case "message": {
        const { data } = event;
        const result = { data: typeof data === "string" ? data : Uint8Array.from(data).buffer };
        for (const listener of message) this.#owner.call(listener, result);
        break;
      }
      case "error":
        for (const listener of error) this.#owner.call(listener, { errMsg: event.errMsg });
        break;
      case "close": {
        const interrupted = event.cause === "background" && this.#readyState === this.CONNECTING;
        const result = { errMsg: "connectSocket:fail interrupted" };
        this.#readyState = this.CLOSED;
        this.#owner.ended();
        if (interrupted) for (const listener of error) this.#owner.call(listener, result);
        const { code, reason } = event;
        for (const listener of close) this.#owner.call(listener, { code, reason });
        break;
      }
    }
  }
}

const alone = new MiniApp({ app: "mini-app" });

/** Start a connection of the app that is alone in its process. */
export function connectSocket(options: ConnectOptions): SocketTask {
  return alone.connectSocket(options);
}

function warn(fault: unknown): void {
  process.emitWarning(fault instanceof Error ? fault : String(fault));
}

function expected(error: unknown): void {
  if (!(error instanceof RequestError || error instanceof PluginEnded)) throw error;
}
