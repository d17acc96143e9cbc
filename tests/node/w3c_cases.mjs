// What a WebSocket does, case by case: the same for wsplugin's class and for undici's.
//
//     node w3c_cases.mjs wsplugin|undici [CASE...]
//
// prints one JSON object: what came of each case. tests/test_w3c_class.py compares.

import { frameOf, RawServer } from "./raw_server.mjs";

const [which, ...only] = process.argv.slice(2);
const { WebSocket, shutdown } = await import(which);
const server = await new RawServer().listen();
let count = 0;

const GATHER = 300; // milliseconds, for what must not come

/** Return a URL of the server with an id of its own, and the id. */
function place(path, query = {}) {
  const id = `${++count}`;
  return [`${server.url}${path}?${new URLSearchParams({ ...query, id })}`, id];
}

/** Return what a function throws. */
function thrown(call) {
  try {
    call();
  } catch (error) {
    return error instanceof DOMException ? `DOMException ${error.name}` : error.name;
  }
  return "nothing";
}

const shown = async (data) => {
  if (typeof data === "string") return data;
  const bytes = data instanceof Blob ? await data.arrayBuffer() : data;
  return `${data.constructor.name} ${Buffer.from(bytes).toString("hex")}`;
};

/** Record the events of a connection; `closed` resolves to them. */
function record(ws) {
  const events = [];
  for (const type of ["open", "message", "error", "close"]) {
    ws.addEventListener(type, (event) => {
      const entry = [type, ws.readyState];
      events.push(entry);
      if (type === "message") entry.push(event.data);
      if (type === "close") entry.push(event.code, event.reason, event.wasClean);
    });
  }
  const closed = new Promise((resolve) =>
    ws.addEventListener("close", () => setTimeout(resolve, 20)),
  ).then(() =>
    Promise.all(
      events.map((event) =>
        Promise.all(event.map((value) => (typeof value === "object" ? shown(value) : value))),
      ),
    ),
  );
  return { events, closed };
}

const opened = (ws) =>
  new Promise((resolve) => ws.addEventListener("open", resolve, { once: true }));
const later = (ms = GATHER) => new Promise((resolve) => setTimeout(resolve, ms));

/** Open an echo connection, call, and return what has come up to the close. */
async function talk(call, query = {}, path = "/echo") {
  const [url, id] = place(path, query);
  const ws = new WebSocket(url);
  ws.binaryType = "arraybuffer";
  const { closed } = record(ws);
  await opened(ws);
  const result = await call(ws);
  const events = await closed;
  return { events, frames: (await server.ended(id)).frames, ...(result && { result }) };
}

/** Send each; close when all has come back. */
const echoes = (...things) =>
  talk(async (ws) => {
    let rest = things.length;
    const back = new Promise((resolve) =>
      ws.addEventListener("message", () => --rest || resolve()),
    );
    for (const thing of things) ws.send(thing);
    await back;
    ws.close(1000);
  });

/** What comes of a connection that the server ends by itself. */
async function ends(path, query, ...more) {
  const [url] = place(path, query);
  return record(new WebSocket(url, ...more)).closed;
}

const said = (...parts) => ({ bytes: Buffer.concat(parts).toString("hex") });
const closeBody = (code, reason = "") =>
  Buffer.concat([Buffer.of(code >> 8, code & 255), Buffer.from(reason)]);

async function attribute(read, ...more) {
  const [url] = place("/echo");
  const ws = new WebSocket(url, ...more);
  const { closed } = record(ws);
  await opened(ws);
  const result = await read(ws);
  ws.close();
  await closed;
  return result;
}

/** Return the subprotocols that are offered, and how it ends. */
async function offered(protocols, query = {}) {
  const [url, id] = place("/echo", query);
  const ws = new WebSocket(url, protocols);
  const { closed } = record(ws);
  ws.addEventListener("open", () => ws.close());
  const events = await closed;
  return [server.seen.get(id).headers["sec-websocket-protocol"] ?? null, ws.protocol, events];
}

const cases = {
  // --- the constructor
  "constructor: no argument": () => thrown(() => new WebSocket()),
  "constructor: without new": () => thrown(() => WebSocket(server.url)),
  "constructor: no URL": () => thrown(() => new WebSocket("//x:y:z")),
  "constructor: a relative URL": () => thrown(() => new WebSocket("/path")),
  "constructor: another scheme": () => thrown(() => new WebSocket("ftp://127.0.0.1/")),
  "constructor: a fragment": () => thrown(() => new WebSocket(`${server.url}/#x`)),
  "constructor: an empty fragment": () => thrown(() => new WebSocket(`${server.url}/#`)),
  "constructor: a symbol": () => thrown(() => new WebSocket(Symbol("x"))),
  "constructor: http becomes ws": () =>
    attribute((ws) => ws.url.replace(server.host, "HOST").replace(/id=.*/, "")).then((url) => {
      const ws = new WebSocket(`http://${server.host}/echo`);
      record(ws);
      const mapped = ws.url.replace(server.host, "HOST");
      ws.close();
      return [url, mapped];
    }),
  "constructor: https becomes wss": async () => {
    const ws = new WebSocket(`https://${server.host}/x y`);
    const { closed } = record(ws);
    const url = ws.url.replace(server.host, "HOST");
    return [url, await closed];
  },
  "constructor: a URL object": () => {
    const ws = new WebSocket(new URL("/echo", server.url));
    record(ws);
    ws.close();
    return ws.url.replace(server.host, "HOST");
  },
  "constructor: a URL is written as the standard does": () => {
    const ws = new WebSocket("WS://LOCALHOST:80");
    record(ws);
    ws.close();
    return ws.url;
  },
  "constructor: user and password": async () => {
    const [url, id] = place("/echo");
    const ws = new WebSocket(url.replace("//", "//us%20er:pass@"));
    ws.addEventListener("open", () => ws.close());
    await record(ws).closed;
    return [ws.url.includes("us%20er:pass@"), server.seen.get(id).headers.authorization ?? null];
  },
  "constructor: user and password that decode to no text": async () => {
    const [url, id] = place("/echo");
    const ws = new WebSocket(url.replace("//", "//%zz%ff:%@"));
    ws.addEventListener("open", () => ws.close());
    await record(ws).closed;
    return server.seen.get(id).headers.authorization ?? null;
  },
  "protocols: a string": () => offered("chat", { protocol: "chat" }),
  "protocols: a list": () => offered(["a", "b"], { protocol: "b" }),
  "protocols: an empty list": () => offered([]),
  "protocols: undefined": () => offered(undefined),
  "protocols: null": () => offered(null, { protocol: "null" }),
  "protocols: a number": () => offered(13, { protocol: "13" }),
  "protocols: any iterable": () => offered(new Set(["a", "b"]), { protocol: "a" }),
  "protocols: an empty string": () => thrown(() => new WebSocket(server.url, "")),
  "protocols: twice the same": () => thrown(() => new WebSocket(server.url, ["a", "a"])),
  "protocols: twice but for the case": () => thrown(() => new WebSocket(server.url, ["a", "A"])),
  "protocols: no tokens": () =>
    ["a b", "a,b", "ä", "a/b", "\0"].map((protocol) =>
      thrown(() => new WebSocket(server.url, protocol)),
    ),
  "protocols: the server chooses none": () => offered(["a"]),
  "protocols: the server chooses another": () => offered(["a"], { protocol: "b" }),
  "protocols: the server chooses unasked": () => offered([], { protocol: "b" }),
  "protocols: the server writes another case": () => offered(["a"], { protocol: "A" }),

  // --- attributes
  "attributes: at first": () => {
    const [url] = place("/echo");
    const ws = new WebSocket(url);
    record(ws);
    ws.close();
    const { bufferedAmount, protocol, extensions, binaryType, onopen, onmessage } = ws;
    return [bufferedAmount, protocol, extensions, binaryType, onopen, onmessage];
  },
  "attributes: readyState": () => {
    const [url] = place("/echo");
    const ws = new WebSocket(url);
    record(ws);
    const first = ws.readyState;
    ws.close();
    return [first, ws.readyState];
  },
  "attributes: constants": () => {
    const names = ["CONNECTING", "OPEN", "CLOSING", "CLOSED"];
    const { prototype } = WebSocket;
    return names.map((name) => [
      WebSocket[name],
      prototype[name],
      Object.getOwnPropertyDescriptor(WebSocket, name),
      Object.getOwnPropertyDescriptor(prototype, name),
    ]);
  },
  "attributes: read-only": () =>
    attribute((ws) => {
      "use strict";
      const names = ["url", "readyState", "bufferedAmount", "protocol", "extensions", "OPEN"];
      return names.map((name) => thrown(() => (ws[name] = 1)));
    }),
  "attributes: names that for..in finds": () => {
    const names = [];
    for (const name in WebSocket.prototype) names.push(name);
    return names.filter((name) => !["pause", "resume", "ping", "terminate"].includes(name)).sort();
  },
  "attributes: numbers of arguments": () => [
    WebSocket.length,
    WebSocket.prototype.send.length,
    WebSocket.prototype.close.length,
  ],
  "attributes: toStringTag": () => [`${WebSocket.prototype}`, WebSocket.name],
  "attributes: binaryType": () =>
    attribute((ws) => {
      const got = [ws.binaryType];
      for (const value of ["arraybuffer", "x", null, "blob", "", "ArrayBuffer"]) {
        ws.binaryType = value;
        got.push(ws.binaryType);
      }
      return got;
    }),
  "attributes: binaryType of Node": () =>
    attribute(async (ws) => {
      ws.binaryType = "nodebuffer";
      ws.send(Uint8Array.of(1));
      const { data } = await new Promise((resolve) => (ws.onmessage = resolve));
      return [ws.binaryType, data.constructor.name];
    }),
  "attributes: an EventTarget": () =>
    attribute((ws) => [ws instanceof EventTarget, ws instanceof WebSocket]),
  "attributes: taken from another object": () =>
    thrown(() => Object.getOwnPropertyDescriptor(WebSocket.prototype, "readyState").get.call({})),

  // --- send
  "send: while connecting": () => {
    const [url] = place("/echo");
    const ws = new WebSocket(url);
    record(ws);
    const error = thrown(() => ws.send("x"));
    const amount = ws.bufferedAmount;
    ws.close();
    return [error, amount];
  },
  "send: no argument": () => attribute((ws) => thrown(() => ws.send())),
  "send: a symbol": () => attribute((ws) => thrown(() => ws.send(Symbol("x")))),
  "send: texts": () => echoes("Grüße 👋", "", "\0", "x".repeat(70_000)),
  "send: half a surrogate pair": () => echoes("a\ud83d", "\udc4bb", "👋"),
  "send: an ArrayBuffer": () => echoes(Uint8Array.of(0, 1, 255).buffer, new ArrayBuffer(0)),
  "send: views": () => {
    const { buffer } = Uint8Array.of(9, 0, 1, 255, 9, 9);
    return echoes(
      new Uint8Array(buffer, 1, 3),
      new DataView(buffer, 1, 3),
      new Uint16Array(buffer, 2, 1),
      Buffer.from("ab"),
    );
  },
  "send: a Blob": () => echoes(new Blob(["ab", Uint8Array.of(0)]), new Blob([])),
  "send: a Blob among texts": () =>
    echoes("1", new Blob(["2"]), "3", Uint8Array.of(52), new Blob(["5"]), "6"),
  "send: what is no data": () => echoes(1, null, undefined, {}, [1, 2], true, new String("x")),
  "send: shared memory": () => echoes(new SharedArrayBuffer(2)),
  "send: a view of shared memory": () =>
    attribute((ws) => thrown(() => ws.send(new Uint8Array(new SharedArrayBuffer(2))))),
  "send: the buffer is changed afterwards": () =>
    talk(async (ws) => {
      let rest = 3;
      const back = new Promise((resolve) =>
        ws.addEventListener("message", () => --rest || resolve()),
      );
      const bytes = Uint8Array.of(1, 2, 3);
      ws.send(new Blob(["before"]));
      ws.send(bytes);
      ws.send(bytes.buffer);
      bytes.fill(9);

      await back;
      ws.close();
    }),
  "send: while closing": () =>
    talk(
      (ws) => {
        ws.send("before");
        ws.close();
        return [thrown(() => ws.send("behind")), ws.bufferedAmount];
      },
      {},
      "/echo",
    ),
  "send: when closed": async () => {
    const [url] = place("/echo");
    const ws = new WebSocket(url);
    await opened(ws);
    ws.close();
    await record(ws).closed;
    const before = ws.bufferedAmount;
    return [before, thrown(() => ws.send("xyz")), ws.bufferedAmount - before];
  },
  "bufferedAmount: bytes of UTF-8, at once": () =>
    attribute((ws) => {
      const got = [];
      for (const data of [
        "ü👋",
        "\ud83d",
        new Blob(["abc"]),
        new ArrayBuffer(5),
        new Uint16Array(2),
      ]) {
        const before = ws.bufferedAmount;
        ws.send(data);
        got.push(ws.bufferedAmount - before);
      }
      return got;
    }),
  "bufferedAmount: comes back to 0": () =>
    attribute(async (ws) => {
      for (let index = 0; index < 100; index++) ws.send("x".repeat(10_000));
      const all = ws.bufferedAmount;
      while (ws.bufferedAmount > 0) await later(20);
      return [all, ws.bufferedAmount];
    }),
  "bufferedAmount: stays within a task": () =>
    attribute((ws) => {
      ws.send("abc");
      for (const end = Date.now() + 50; Date.now() < end;);
      return ws.bufferedAmount;
    }),

  // --- close
  "close: without a code": () => talk((ws) => ws.close()),
  "close: with undefined": () => talk((ws) => ws.close(undefined, undefined)),
  "close: 1000": () => talk((ws) => ws.close(1000)),
  "close: 3000 and a reason": () => talk((ws) => ws.close(3000, "gut 👋")),
  "close: 4999": () => talk((ws) => ws.close(4999, "")),
  "close: a reason alone": () => talk((ws) => ws.close(undefined, "why")),
  "close: an empty reason alone": () => talk((ws) => ws.close(undefined, "")),
  "close: half a surrogate pair as reason": () => talk((ws) => ws.close(1000, "\ud83d")),
  "close: codes that may not be sent": () =>
    attribute((ws) =>
      [0, 999, 1001, 1005, 1006, 1015, 2999, 5000, NaN, null, "x", -1, 2999.4].map((code) =>
        thrown(() => ws.close(code)),
      ),
    ),
  "close: codes that become numbers": () => talk((ws) => ws.close("3000.4")),
  "close: a code beyond 16 bits": () => attribute((ws) => thrown(() => ws.close(65536 + 3000))),
  "close: a reason too long": () =>
    attribute((ws) => [thrown(() => ws.close(1000, "ü".repeat(62))), ws.readyState]),
  "close: the longest reason": () => talk((ws) => ws.close(1000, "x".repeat(123))),
  "close: a wrong code while connecting": () => {
    const [url] = place("/mute");
    const ws = new WebSocket(url);
    record(ws);
    const got = [
      thrown(() => ws.close(1)),
      thrown(() => ws.close(1000, "x".repeat(124))),
      ws.readyState,
    ];
    ws.close();
    return got;
  },
  "close: while connecting": async () => {
    const [url] = place("/mute");
    const ws = new WebSocket(url);
    const { closed, events } = record(ws);
    ws.close();
    const state = [ws.readyState, events.length];
    return [state, await closed];
  },
  "close: while connecting, later": async () => {
    const [url] = place("/mute");
    const ws = new WebSocket(url);
    const { closed, events } = record(ws);
    await later();
    ws.close(3000, "x");
    const state = [ws.readyState, events.length];
    return [state, await closed];
  },
  "close: twice": () => talk((ws) => (ws.close(3000), ws.close(4000), ws.readyState)),
  "close: when closed": async () => {
    const [url] = place("/echo");
    const ws = new WebSocket(url);
    await opened(ws);
    ws.close();
    await record(ws).closed;
    const { events } = record(ws);
    return [thrown(() => ws.close(3000)), thrown(() => ws.close(1)), ws.readyState, events];
  },
  "close: in the open event": async () => {
    const [url] = place("/echo");
    const ws = new WebSocket(url);
    ws.onopen = () => ws.close(1000);
    return record(ws).closed;
  },
  "close: behind what was sent": () =>
    talk((ws) => {
      for (let index = 0; index < 20; index++) ws.send(`${index}`);
      ws.send(new Blob(["last"]));
      ws.close();
    }),
  "close: messages that arrive while closing": () =>
    talk(async (ws) => {
      ws.send("one");
      await new Promise((resolve) => ws.addEventListener("message", resolve, { once: true }));
      ws.send("two"); // comes back behind the close
      ws.close();
    }),

  // --- messages and the server's end
  "message: text and binary, as Blob": () =>
    ends(
      "/say",
      said(frameOf(1, "ü"), frameOf(2, [0, 255]), frameOf(2, []), frameOf(8, closeBody(1000))),
    ),
  "message: in fragments, with a Ping between": () =>
    ends(
      "/say",
      said(
        Buffer.of(1, 2, 0xc3, 0xbc),
        Buffer.of(0x89, 0),
        Buffer.of(0x80, 1, 0x78),
        frameOf(8, []),
      ),
    ),
  "message: an ArrayBuffer is as long as the message": () =>
    attribute(async (ws) => {
      ws.binaryType = "arraybuffer";
      ws.send(Uint8Array.of(1, 2, 3));
      const { data } = await new Promise((resolve) => (ws.onmessage = resolve));
      return [data.constructor.name, data.byteLength];
    }),
  "message: a Blob has no type": () =>
    attribute(async (ws) => {
      ws.send(Uint8Array.of(1, 2, 3));
      const { data } = await new Promise((resolve) => (ws.onmessage = resolve));
      return [data.constructor.name, data.size, data.type];
    }),
  "end: an empty Close frame": () => ends("/say", said(frameOf(8, []))),
  "end: 1000": () => ends("/say", said(frameOf(8, closeBody(1000)))),
  "end: 1001 and a reason": () => ends("/say", said(frameOf(8, closeBody(1001, "grün")))),
  "end: 3500": () => ends("/say", said(frameOf(8, closeBody(3500, "x")))),
  "end: a code that may not be sent": () => ends("/say", said(frameOf(8, closeBody(1005)))),
  "end: one byte of a code": () => ends("/say", said(frameOf(8, [3]))),
  "end: a reason that is no UTF-8": () => ends("/say", said(frameOf(8, [3, 232, 255]))),
  "end: cut": () => ends("/say", { ...said(frameOf(1, "x")), cut: 1 }),
  "end: cut within a frame": () =>
    ends("/say", { ...said(frameOf(1, "xyz").subarray(0, 3)), cut: 1 }),
  "end: a text that is no UTF-8": () => ends("/say", said(frameOf(1, [255]))),
  "end: a frame of a reserved kind": () => ends("/say", said(frameOf(3, "x"))),
  "end: a masked frame": () => ends("/say", said(Buffer.of(0x81, 0x81, 0, 0, 0, 0, 0x78))),
  "end: a frame with a reserved bit": () => ends("/say", said(Buffer.of(0xc1, 1, 0x78))),
  "end: a continuation of nothing": () => ends("/say", said(frameOf(0, "x"))),
  "end: a long Ping": () => ends("/say", said(frameOf(9, "x".repeat(126)))),
  "end: a message of 17 MiB": async () => {
    const [url] = place("/echo");
    const ws = new WebSocket(url);
    ws.binaryType = "arraybuffer";
    ws.onopen = () => ws.send(new Uint8Array(17 * 2 ** 20));
    ws.onmessage = () => ws.close(1000);
    return (await record(ws).closed).map((event) => event.slice(0, 2));
  },
  "handshake: 401": () => ends("/http", { status: 401 }),
  "handshake: a redirect": () =>
    ends("/http", {
      status: 302,
      headers: JSON.stringify({ Location: `http://${server.host}/echo` }),
    }),
  "handshake: nobody listens": async () => {
    const other = await new RawServer().listen();
    other.close();
    return record(new WebSocket(other.url)).closed;
  },

  // --- events
  "events: their classes": async () => {
    const [url] = place("/say", said(frameOf(1, "x"), frameOf(8, [])));
    const ws = new WebSocket(url);
    const got = [];
    for (const type of ["open", "message", "close"]) {
      ws.addEventListener(type, (event) => {
        const { constructor, type, target, bubbles, cancelable, isTrusted } = event;
        got.push([constructor.name, type, target === ws, bubbles, cancelable, isTrusted]);
      });
    }
    await record(ws).closed;
    return got;
  },
  "events: a failure's": async () => {
    const ws = new WebSocket(place("/http", { status: 401 })[0]);
    const event = new Promise((resolve) => (ws.onerror = resolve));
    await record(ws).closed;
    return (await event).constructor.name;
  },
  "events: origin": async () => {
    const [url] = place("/say", said(frameOf(1, "x"), frameOf(8, [])));
    const ws = new WebSocket(url);
    const event = new Promise((resolve) => (ws.onmessage = resolve));
    await record(ws).closed;
    const { origin, lastEventId, source, ports } = await event;
    return [origin.replace(server.host, "HOST"), lastEventId, source, ports.length];
  },
  "events: on… keeps its place when replaced": async () => {
    const [url] = place("/echo");
    const ws = new WebSocket(url);
    const got = [];
    ws.onopen = () => got.push("first");
    ws.addEventListener("open", () => got.push("listener"));
    ws.onopen = () => got.push("second");
    await opened(ws);
    ws.close();
    await record(ws).closed;
    return got;
  },
  "events: on… set anew comes last": async () => {
    const [url] = place("/echo");
    const ws = new WebSocket(url);
    const got = [];
    ws.onopen = () => got.push("first");
    ws.addEventListener("open", () => got.push("listener"));
    ws.onopen = null;
    const none = ws.onopen;
    ws.onopen = () => got.push("second");
    await opened(ws);
    ws.close();
    await record(ws).closed;
    return [none, got];
  },
  "events: on… that is no function": () =>
    attribute((ws) =>
      ["x", 5, undefined, null, {}].map((value) => {
        ws.onmessage = value;
        return typeof ws.onmessage;
      }),
    ),
  "events: this and the argument of on…": async () => {
    const [url] = place("/echo");
    const ws = new WebSocket(url);
    const got = new Promise((resolve) => {
      ws.onopen = function (event) {
        resolve([this === ws, event.type, arguments.length]);
      };
    });
    await opened(ws);
    ws.close();
    await record(ws).closed;
    return got;
  },
  "events: an object that handles, once, removed": async () => {
    const [url] = place("/echo");
    const ws = new WebSocket(url);
    const got = [];
    ws.addEventListener("message", { handleEvent: ({ data }) => got.push(`object ${data}`) });
    ws.addEventListener("message", ({ data }) => got.push(`once ${data}`), { once: true });
    const removed = () => got.push("removed");
    ws.addEventListener("message", removed);
    ws.removeEventListener("message", removed);
    const last = new Promise((resolve) => {
      ws.addEventListener("message", ({ data }) => data === "2" && resolve());
    });
    await opened(ws);
    ws.send("1");
    ws.send("2");
    await last;
    ws.close();
    await record(ws).closed;
    return got;
  },
  "events: a listener that throws": async () => {
    const [url] = place("/say", said(frameOf(1, "x"), frameOf(8, [])));
    const got = [];
    const take = ({ message }) => got.push(message);
    process.on("uncaughtException", take);
    const ws = new WebSocket(url);
    ws.onmessage = () => {
      throw new Error("of the listener");
    };
    ws.addEventListener("message", () => got.push("the next"));
    const events = await record(ws).closed;
    process.off("uncaughtException", take);
    return [got.sort(), events];
  },
  "events: what a listener has begun is done before the next": async () => {
    const [url] = place("/say", said(frameOf(1, "1"), frameOf(1, "2"), frameOf(8, [])));
    const ws = new WebSocket(url);
    const got = [];
    ws.onmessage = async ({ data }) => {
      got.push(data);
      for (let index = 0; index < 10; index++) await undefined;
      got.push(`${data} done`);
    };
    await record(ws).closed;
    return got;
  },
};

const results = {};
for (const [name, play] of Object.entries(cases)) {
  if (only.length > 0 && !only.includes(name)) continue;
  const late = later(15_000).then(() => "no end within 15 s");
  results[name] = await Promise.race([
    Promise.resolve()
      .then(play)
      .catch((error) => `${error.stack}`),
    late,
  ]);
}
process.stdout.write(`${JSON.stringify(results)}\n`, () => {
  server.close();
  Promise.resolve(shutdown?.()).then(() => process.exit());
});
