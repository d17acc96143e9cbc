// What tests/test_node_host.py does with the host in host_examples/node, scene by scene:
//
//     node [--expose-gc] host_scenes.mjs SCENE COMMAND-AS-JSON [ARGUMENT...]
//
// prints what came, a line of JSON each.

import { writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Host, PluginEnded, RequestError } from "../../host_examples/node/js/host.js";

const print = (...values) => writeSync(1, `${JSON.stringify(values)}\n`);
const outcome = (promise) =>
  promise.then(
    (value) => ["ok", value],
    (error) => [error.name, error.message],
  );
const urls = process.argv.slice(4);

const scenes = {
  async start(command, options = "{}") {
    const started = await outcome(Host.spawn(command, JSON.parse(options)));
    const [kind, value] = started;
    print(kind, kind === "ok" ? value.description.name : value);
    if (kind === "ok") print(await value.stop());
  },

  async stop(command, url) {
    const host = await Host.spawn(command);
    if (url) {
      for await (const { name } of await host.create(url)) if (name === "open") break;
    }
    const start = performance.now();
    print(await Promise.all([host.stop(), host.stop()]), Math.round(performance.now() - start));
    print(await host.stop(), ...(await outcome(host.describe())));
  },

  // The first connection's loop stands still until the second has had its echo.
  async slow(command, flooding, echoing) {
    const host = await Host.spawn(command);
    const flooded = await host.create(flooding);
    const flood = flooded[Symbol.asyncIterator]();
    await flood.next();
    const other = await host.create(echoing);
    let count = 0;
    for await (const { name } of other) {
      if (name === "open" || (name === "message" && ++count < 100)) await other.send("x");
      else if (name === "message") await other.close();
    }
    print("echoes", count);
    let bytes = 0;
    for await (const event of { [Symbol.asyncIterator]: () => flood }) {
      if (event.name === "message") bytes += event.data.length;
      else print(event.name, event.code, bytes);
    }
    await host.stop();
  },

  async flood(command, url) {
    const { heapUsed, external } = (gc(), process.memoryUsage());
    const host = await Host.spawn(command);
    const start = performance.now();
    let [messages, most, since] = [0, 0, 0];
    for await (const { name } of await host.create(url)) {
      if (name !== "message") continue;
      await sleep(50);
      messages += 1;
      if (performance.now() - since > 500) {
        gc();
        const now = process.memoryUsage();
        most = Math.max(most, now.heapUsed + now.external - heapUsed - external);
        since = performance.now();
        print("had", messages, most, now.rss);
      }
      if (performance.now() - start > 6000) break;
    }
    print("all", messages, most);
    await host.stop();
  },

  // Nobody loops before the fake has said all.
  async queue(command, options) {
    const host = await Host.spawn(command, JSON.parse(options));
    const websocket = await host.create("ws://127.0.0.1:1/");
    await host.request("app-background", {});
    const start = performance.now();
    let count = 0;
    for await (const event of websocket) count += event.name === "message" ? 1 : 0;
    print(count, Math.round(performance.now() - start));
    await host.stop();
  },

  // What the app holds, a queue that runs empty must not release.
  async holds(command) {
    const host = await Host.spawn(command, { queueLength: 2 });
    const websocket = await host.create("ws://127.0.0.1:1/");
    await websocket.pause();
    await host.request("app-background", {}); // four messages come with the answer
    const events = websocket[Symbol.asyncIterator]();
    for (let index = 0; index < 4; index++) await events.next();
    await host.describe();
    print("emptied");
    await websocket.resume();
    await host.describe();
    await host.stop();
  },

  async half(command) {
    const host = await Host.spawn(command, { queueLength: 10 });
    const websocket = await host.create("ws://127.0.0.1:1/");
    await host.request("app-background", {}); // ten messages come before the answer
    const events = websocket[Symbol.asyncIterator]();
    for (let index = 0; index < 10; index++) {
      await events.next();
      await host.describe();
    }
    await host.stop();
  },

  async loops(command) {
    const host = await Host.spawn(command);
    const websocket = await host.create("ws://127.0.0.1:1/");
    try {
      for await (const { name } of websocket) {
        for await (const _ of websocket) print("a second loop has had an event");
        print(name);
        throw new Error("of the app");
      }
    } catch ({ message }) {
      print(message);
    }
    for await (const _ of websocket) print("a loop after that has had an event");
    await host.describe();
    print(await host.stop());
  },

  async pending(command) {
    const host = await Host.spawn(command);
    const websocket = await host.create("ws://127.0.0.1:1/");
    const closing = (async () => {
      for await (const event of websocket) {
        print(event.name, event.data ?? event.code, event.cause, event.reason);
      }
    })();
    print(...(await outcome(host.background())));
    print(...(await outcome(websocket.send("x"))));
    await closing;
    print(await host.stop());
  },

  async stderr(command, kind) {
    const lines = [];
    const take = (line) => lines.push(line);
    const fail = (line) => {
      throw new Error(`the app's: ${line.slice(0, 10)}`);
    };
    const stderr = { take, fail }[kind] ?? kind;
    const host = await Host.spawn(command, { stderr });
    print(...(await outcome(host.background())));
    print(
      await host.stop(),
      lines.map((line) => [line.length, line.slice(0, 20)]),
    );
  },

  async idle(command, ...steps) {
    const host = await Host.spawn(command);
    for (const step of steps) {
      if (step === "call") host.background().then(() => print("answered"));
      else if (step === "unencodable")
        print(...(await outcome(host.create("ws://a", { app: 1n }))));
      else if (step === "surrogate") print(...(await outcome(host.create("ws://\ud83d"))));
      else {
        const websocket = await host.create(step);
        (async () => {
          for await (const { name } of websocket) print(name);
        })();
      }
    }
    process.on("exit", () => print("exit"));
  },

  async data(command, url) {
    const host = await Host.spawn(command);
    const websocket = await host.create(url);
    const bytes = Uint8Array.of(9, 0, 1, 255, 9);
    const shared = new SharedArrayBuffer(3);
    new Uint8Array(shared).set([0, 1, 255]);
    const things = [
      "text",
      new Blob(["ab", Uint8Array.of(0)]),
      bytes.subarray(1, 4),
      "behind a Blob",
      new Blob([]),
      bytes.slice(1, 4).buffer,
      new DataView(bytes.buffer, 1, 3),
      Buffer.from([0, 1, 255]),
      Uint16Array.of(1, 0xff00),
      shared,
      "last",
    ];
    const sent = things.map((thing) => websocket.send(thing));
    bytes.fill(7); // each has been taken as it was
    print(await outcome(websocket.send(5)), await outcome(websocket.send("\ud83d")));
    sent.push(websocket.close(1005));
    for await (const { name, data, code } of websocket) {
      if (name === "message") print(typeof data === "string" ? data : [...data]);
      else print(name, code ?? null);
    }
    await Promise.all(sent);
    await host.stop();
  },

  async calls(command) {
    const host = await Host.spawn(command);
    const hostHeaders = { Referer: "https://example.com" };
    const options = { app: "shop", hostHeaders, headers: { A: "b" }, tcpNoDelay: false };
    const websocket = await host.create("ws://127.0.0.1:1/", options);
    await websocket.send("x");
    await websocket.pause();
    await websocket.resume();
    print(await websocket.ping(300));
    await websocket.close(3000, "done", 0);
    await host.background("shop");
    await host.background();
    await host.stop();
  },
};

const [scene, command] = process.argv.slice(2);
await scenes[scene](JSON.parse(command), ...urls);
