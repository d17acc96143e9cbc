/**
 * The class that browsers have (https://websockets.spec.whatwg.org), over the shared plugin.
 *
 * It keeps to the standard; README.md has the table of where it and undici's class differ. What
 * it has beyond: the third argument of the constructor, pause, resume, ping and terminate, and an
 * `error` on the error event, which says why.
 */

import {
  type Event as HostEvent,
  type Options,
  PluginEnded,
  RequestError,
  type WebSocket as Connection,
} from "./host.ts";
import { shared } from "./shared.ts";

/** Bytes that may be on the way to the plugin before a message waits here for its turn. */
const WINDOW = 1 << 20;

/** What the event "close" has. */
export interface CloseEvent extends Event {
  readonly wasClean: boolean;
  readonly code: number;
  readonly reason: string;
}
type CloseInit = { wasClean?: boolean; code?: number; reason?: string };

/** The runtime's class, where it has one: from Node 23 on. */
export const CloseEvent: new (type: string, init?: CloseInit) => CloseEvent =
  (globalThis as any).CloseEvent ??
  class CloseEvent extends Event {
    readonly wasClean: boolean;
    readonly code: number;
    readonly reason: string;

    constructor(type: string, { wasClean = false, code = 0, reason = "" }: CloseInit = {}) {
      super(type);
      this.wasClean = wasClean;
      this.code = code;
      this.reason = reason;
    }

    get [Symbol.toStringTag](): string {
      return "CloseEvent";
    }
  };

/** The event "error", and why: with the `code` of wsplugin's `error` event, if there was one. */
export interface ErrorEvent extends Event {
  readonly error: Error & { code?: string; status?: number | undefined };
}

/** The events of a WebSocket, by name. */
export interface WebSocketEventMap {
  open: Event;
  message: MessageEvent;
  error: ErrorEvent;
  close: CloseEvent;
}
type Name = keyof WebSocketEventMap;
type Handler<N extends Name> = ((this: WebSocket, event: WebSocketEventMap[N]) => any) | null;

/** What `binaryType` may be; "nodebuffer", for a Buffer, is what clients written for Node ask for. */
export type BinaryType = "blob" | "arraybuffer" | "nodebuffer";
const BINARY_TYPES: readonly unknown[] = ["blob", "arraybuffer", "nodebuffer"];

/** The third argument of the constructor: what the plugin offers beyond the standard. */
export type WebSocketOptions = Omit<Options, "protocols">;

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;

type Listener<E> = ((this: WebSocket, event: E) => any) | { handleEvent(event: E): any } | null;
interface ListenerOptions {
  once?: boolean;
  capture?: boolean;
  passive?: boolean;
  signal?: AbortSignal;
}

// What EventTarget has, with the types of the events.
export interface WebSocket {
  addEventListener<N extends Name>(
    type: N,
    listener: Listener<WebSocketEventMap[N]>,
    options?: boolean | ListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: Listener<Event>,
    options?: boolean | ListenerOptions,
  ): void;
  removeEventListener<N extends Name>(
    type: N,
    listener: Listener<WebSocketEventMap[N]>,
    options?: boolean | ListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: Listener<Event>,
    options?: boolean | ListenerOptions,
  ): void;
}

/** A WebSocket as in browsers. */
export class WebSocket extends EventTarget {
  static readonly CONNECTING = CONNECTING;
  static readonly OPEN = OPEN;
  static readonly CLOSING = CLOSING;
  static readonly CLOSED = CLOSED;
  declare readonly CONNECTING: 0;
  declare readonly OPEN: 1;
  declare readonly CLOSING: 2;
  declare readonly CLOSED: 3;

  readonly #url: string;
  readonly #protocols: readonly string[];
  readonly #connected: Promise<Connection>;
  readonly #handlers = new Map<Name, { value: object; listener: (event: Event) => void }>();
  #readyState: 0 | 1 | 2 | 3 = CONNECTING;
  #binaryType: BinaryType = "blob";
  #protocol = "";
  #extensions = "";
  #bufferedAmount = 0;
  // Messages, and the close behind them; those before #next have been handed on.
  #outgoing: ({ send(to: Connection): Promise<void>; size: number } | undefined)[] = [];
  #next = 0;
  #window = WINDOW;
  #unanswered = 0;
  #failure: ErrorEvent["error"] | undefined;

  constructor(
    url: string | URL,
    protocols: string | Iterable<string> = [],
    options?: WebSocketOptions,
  ) {
    super();
    if (arguments.length === 0) throw new TypeError("WebSocket needs a URL");
    const parsed = parse(`${url}`);
    this.#protocols = parseProtocols(protocols);
    this.#url = parsed.href;
    const headers = { ...options?.headers };
    if (parsed.username || parsed.password) {
      // The plugin takes credentials in a header alone, where they come from a URL as well.
      const named = Object.keys(headers).some((name) => name.toLowerCase() === "authorization");
      const credentials = percentDecoded(`${parsed.username}:${parsed.password}`);
      if (!named) headers["Authorization"] = `Basic ${credentials.toString("base64")}`;
      parsed.username = parsed.password = "";
    }
    this.#connected = this.#connect(parsed.href, { ...options, headers });
    void this.#live();
  }

  get url(): string {
    return this.#url;
  }

  get readyState(): 0 | 1 | 2 | 3 {
    return this.#readyState;
  }

  /** Bytes that were given to send and not yet to the connection; they stay when it has closed. */
  get bufferedAmount(): number {
    return this.#bufferedAmount;
  }

  get protocol(): string {
    return this.#protocol;
  }

  get extensions(): string {
    return this.#extensions;
  }

  get binaryType(): BinaryType {
    return this.#binaryType;
  }

  set binaryType(value: BinaryType) {
    if (BINARY_TYPES.includes(value)) this.#binaryType = value;
  }

  get onopen(): Handler<"open"> {
    return this.#handler("open");
  }
  set onopen(value: Handler<"open">) {
    this.#handle("open", value);
  }
  get onmessage(): Handler<"message"> {
    return this.#handler("message");
  }
  set onmessage(value: Handler<"message">) {
    this.#handle("message", value);
  }
  get onerror(): Handler<"error"> {
    return this.#handler("error");
  }
  set onerror(value: Handler<"error">) {
    this.#handle("error", value);
  }
  get onclose(): Handler<"close"> {
    return this.#handler("close");
  }
  set onclose(value: Handler<"close">) {
    this.#handle("close", value);
  }

  /** Queue a message; every message that is sent before close goes out before the close. */
  send(data: string | ArrayBuffer | ArrayBufferView | Blob): void {
    if (arguments.length === 0) throw new TypeError("send needs data");
    if (this.#readyState === CONNECTING) {
      throw new DOMException("the connection is not open yet", "InvalidStateError");
    }
    const message = messageOf(data);
    const size = sizeOf(message);
    this.#bufferedAmount += size;
    if (this.#readyState !== OPEN) return;
    this.#outgoing.push({ size, send: (connection) => connection.send(message) });
    this.#pump();
  }

  /** Start the closing handshake, or give up the opening one. */
  close(code: number | undefined = undefined, reason: string | undefined = undefined): void {
    if (code !== undefined) {
      code = Math.round(Math.min(Math.max(Number(code) || 0, 0), 65535));
      if (code !== 1000 && !(code >= 3000 && code <= 4999)) {
        throw new DOMException(`${code} is no code that may be sent`, "InvalidAccessError");
      }
    }
    const words = reason === undefined ? "" : wellFormed(`${reason}`);
    if (Buffer.byteLength(words) > 123) {
      throw new DOMException("a reason has at most 123 bytes", "SyntaxError");
    }
    if (this.#readyState === CONNECTING) {
      this.#fail(new Error("closed before it was open"));
    } else if (this.#readyState === OPEN) {
      this.#readyState = CLOSING;
      const number = code ?? (reason === undefined ? 1005 : 1000);
      this.#outgoing.push({ size: 0, send: (connection) => connection.close(number, words) });
      this.#pump();
    }
  }

  /** Cut the connection at once, without a closing handshake. */
  terminate(): void {
    if (this.#readyState < CLOSING) this.#fail(new Error("terminated"));
    else if (this.#readyState === CLOSING) this.#cut();
  }

  /** Read no more from the server, until resume; for seconds, not minutes. */
  async pause(): Promise<void> {
    await (await this.#connected).pause();
  }

  async resume(): Promise<void> {
    await (await this.#connected).resume();
  }

  /** Ask the server for a sign of life; resolves to the milliseconds that it took. */
  async ping(timeout?: number): Promise<number> {
    return (await this.#connected).ping(timeout);
  }

  async #connect(url: string, options: WebSocketOptions): Promise<Connection> {
    const host = await shared().host();
    this.#window = Math.min(this.#window, host.description.limits.maxSendBuffer / 2);
    return host.create(url, { ...options, protocols: [...this.#protocols] });
  }

  /** Hand on what happens, each event in a task of its own. */
  async #live(): Promise<void> {
    let connection: Connection;
    try {
      connection = await this.#connected;
    } catch (error) {
      await new Promise(setImmediate);
      this.#failure ??= error as Error;
      this.#end(1006, "");
      return;
    }
    for await (const event of connection) {
      await new Promise(setImmediate); // What the listeners of the last event began is done.
      this.#take(event);
      if (event.name !== "close" && this.#readyState === CLOSED) break;
    }
  }

  #take(event: HostEvent): void {
    switch (event.name) {
      case "open":
        if (this.#readyState !== CONNECTING) return;
        if (this.#protocols.length > 0 && !event.protocol) {
          this.#fail(new Error("the server has chosen none of the subprotocols"));
          return;
        }
        this.#readyState = OPEN;
        this.#protocol = event.protocol;
        this.#extensions = event.extensions;
        this.dispatchEvent(new Event("open"));
        return;
      case "message":
        if (this.#readyState !== OPEN) return;
        this.dispatchEvent(
          new MessageEvent("message", {
            data: this.#dataOf(event.data),
            origin: new URL(this.#url).origin,
          }),
        );
        return;
      case "error": {
        const { code, status } = event;
        this.#failure ??= Object.assign(new Error(event.errMsg), { code, status });
        return;
      }
      case "close":
        if (event.cause === "failure") this.#failure ??= new Error(event.reason);
        this.#end(this.#failure ? 1006 : event.code, event.reason);
        return;
    }
  }

  #dataOf(data: string | Uint8Array): string | ArrayBuffer | Blob | Buffer {
    if (typeof data === "string") return data;
    if (this.#binaryType === "blob") return new Blob([data as Uint8Array<ArrayBuffer>]);
    return this.#binaryType === "nodebuffer" ? Buffer.from(data) : Uint8Array.from(data).buffer;
  }

  /** Send what waits, in order, as long as little of it is on its way to the plugin. */
  #pump(): void {
    for (let next; (next = this.#outgoing[this.#next]); this.#next++) {
      const { size, send } = next;
      if (this.#unanswered > 0 && this.#unanswered + size > this.#window) break;
      this.#outgoing[this.#next] = undefined;
      this.#unanswered += size;
      void this.#connected.then(send).then(
        () => {
          this.#unanswered -= size;
          this.#bufferedAmount -= size;
          this.#pump();
        },
        (error) => {
          this.#unanswered -= size;
          // A message that cannot be sent ends the connection, as the standard says. What came
          // too late, as the connection or the plugin has ended, is told by the close event.
          const late = error instanceof PluginEnded || error.code === "not-open";
          if (!late) this.#fail(error);
        },
      );
    }
    // Where something always waits, what has been sent must not stay for ever.
    if (this.#next * 2 >= this.#outgoing.length) {
      this.#outgoing = this.#outgoing.slice(this.#next);
      this.#next = 0;
    }
  }

  #fail(error: ErrorEvent["error"]): void {
    if (this.#readyState === CLOSED) return;
    this.#failure ??= error;
    this.#readyState = CLOSING;
    this.#outgoing.length = this.#next = 0;
    this.#cut();
    setImmediate(() => this.#end(1006, ""));
  }

  #cut(): void {
    this.#connected
      .then((connection) => connection.close(1000, "", 0))
      .catch((error) => {
        if (!(error instanceof RequestError || error instanceof PluginEnded)) throw error;
      });
  }

  #end(code: number, reason: string): void {
    if (this.#readyState === CLOSED) return;
    this.#readyState = CLOSED;
    this.#outgoing.length = this.#next = 0;
    const wasClean = code !== 1006;
    if (this.#failure) {
      this.dispatchEvent(Object.assign(new Event("error"), { error: this.#failure }));
    }
    const init = { code, reason: wasClean ? reason : "", wasClean };
    this.dispatchEvent(new CloseEvent("close", init));
  }

  #handler(name: Name): any {
    return this.#handlers.get(name)?.value ?? null;
  }

  #handle(name: Name, value: unknown): void {
    const known = this.#handlers.get(name);
    if (value === null || (typeof value !== "function" && typeof value !== "object")) {
      if (known) this.removeEventListener(name, known.listener);
      this.#handlers.delete(name);
    } else if (known) {
      known.value = value as object;
    } else {
      const listener = (event: Event): void => {
        const handler = this.#handler(name);
        if (typeof handler === "function") handler.call(this, event);
      };
      this.#handlers.set(name, { value: value as object, listener });
      this.addEventListener(name, listener);
    }
  }
}

const states = { CONNECTING, OPEN, CLOSING, CLOSED };
for (const [name, value] of Object.entries(states)) {
  const descriptor = { value, enumerable: true, writable: false, configurable: false };
  Object.defineProperty(WebSocket, name, descriptor);
  Object.defineProperty(WebSocket.prototype, name, descriptor);
}
for (const name of Object.getOwnPropertyNames(WebSocket.prototype)) {
  // As what the standard's interfaces have: for..in finds it.
  if (name !== "constructor" && !(name in states)) {
    Object.defineProperty(WebSocket.prototype, name, { enumerable: true });
  }
}
Object.defineProperty(WebSocket.prototype, Symbol.toStringTag, {
  value: "WebSocket",
  configurable: true,
});

function parse(text: string): URL {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new DOMException(`${text} is no URL`, "SyntaxError");
  }
  if (url.protocol === "http:") url.protocol = "ws:";
  if (url.protocol === "https:") url.protocol = "wss:";
  if (url.protocol !== "ws:" && url.protocol !== "wss:") {
    throw new DOMException(`${url.protocol} is no scheme of WebSockets`, "SyntaxError");
  }
  if (url.href.includes("#")) {
    throw new DOMException("the URL of a WebSocket has no fragment", "SyntaxError");
  }
  return url;
}

/** What stands in a URL, and a percent sign in it that means nothing, is no error. */
function percentDecoded(text: string): Buffer {
  const decoded = text.replace(/%[0-9a-f]{2}/gi, (octet) =>
    String.fromCharCode(Number.parseInt(octet.slice(1), 16)),
  );
  return Buffer.from(decoded, "latin1");
}

function parseProtocols(protocols: unknown): string[] {
  const isList =
    typeof protocols === "object" && protocols !== null && Symbol.iterator in protocols;
  const list = isList
    ? Array.from(protocols as Iterable<unknown>, (one) => `${one}`)
    : [`${protocols}`];
  const seen = new Set<string>();
  for (const protocol of list) {
    if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(protocol) || seen.has(protocol.toLowerCase())) {
      throw new DOMException(`${protocol} is no subprotocol, or is there twice`, "SyntaxError");
    }
    seen.add(protocol.toLowerCase());
  }
  return list;
}

/** Return what is sent: a copy, so that the app may go on with its buffer, or a Blob as it is. */
function messageOf(data: unknown): string | Uint8Array | Blob {
  if (data instanceof Blob) return data;
  if (data instanceof ArrayBuffer) return new Uint8Array(data.slice(0));
  if (ArrayBuffer.isView(data)) {
    if (!(data.buffer instanceof ArrayBuffer)) throw new TypeError("shared memory cannot be sent");
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
  }
  return wellFormed(`${data}`);
}

function sizeOf(message: string | Uint8Array | Blob): number {
  if (typeof message === "string") return Buffer.byteLength(message);
  return message instanceof Blob ? message.size : message.byteLength;
}

/** Replace halves of surrogate pairs, as String.prototype.toWellFormed does from Node 20 on. */
function wellFormed(text: string): string {
  const { toWellFormed } = text as { toWellFormed?: () => string };
  return toWellFormed ? toWellFormed.call(text) : text.replace(/\p{Surrogate}/gu, "\ufffd");
}
