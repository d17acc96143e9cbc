// What tests/test_npm_package.py does with the package: node package_scenes.mjs SCENE [ARGUMENT...]

import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import * as wsplugin from "wsplugin";
import * as miniApp from "wsplugin/mini-app";
import { RawServer } from "./raw_server.mjs";

const require = createRequire(import.meta.url);
const { configure, findPlugin, shutdown, WebSocket } = wsplugin;
const [scene, ...values] = process.argv.slice(2);
const print = (...line) => console.log(JSON.stringify(line));
const once = (target, name) =>
  new Promise((resolve) => target.addEventListener(name, resolve, { once: true }));
const thrown = (call) => {
  try {
    call();
  } catch (error) {
    return error.message;
  }
  return "";
};

/** Print the end of a connection, as the class tells it. */
async function end(websocket) {
  const error = once(websocket, "error");
  const { code, wasClean } = await once(websocket, "close");
  print((await error).error.message, code, wasClean);
}

const scenes = {
  // Both ways to load it give the same classes.
  same() {
    for (const [module, name] of [
      [wsplugin, "wsplugin"],
      [miniApp, "wsplugin/mini-app"],
    ]) {
      const other = require(name);
      const names = Object.keys(module).sort();
      print(
        names,
        names.every((key) => module[key] === other[key]),
      );
      print(Object.keys(other).sort());
    }
  },

  // An app that does not stop the plugin ends all the same.
  async ends(url, how) {
    const websocket = new WebSocket(url);
    await once(websocket, "open");
    websocket.close();
    await once(websocket, "close");
    if (how === "shutdown") await shutdown();
    process.on("exit", () => print("exit"));
  },

  // While it is open, it does not.
  async stays(url) {
    const websocket = new WebSocket(url);
    await once(websocket, "open");
    print("open");
    websocket.onclose = ({ code }) => print("close", code);
    process.on("exit", () => print("exit"));
  },

  // So many that a queue with a price of its own length would be seen.
  async many(count) {
    const server = await new RawServer().listen();
    const websocket = new WebSocket(`${server.url}/silent?id=1`);
    await once(websocket, "open");
    const start = performance.now();
    for (let index = 0; index < count; index++) websocket.send("x");
    const queued = websocket.bufferedAmount;
    while (websocket.bufferedAmount > 0) await sleep(20);
    print(queued, Math.round(performance.now() - start));
    websocket.terminate();
    await once(websocket, "close");
    server.close();
  },

  // More than the plugin takes for a server that does not read: the rest waits here.
  async burst(deaf, echoing) {
    const websocket = new WebSocket(deaf);
    await once(websocket, "open");
    for (let index = 0; index < 40; index++) websocket.send(`${index} `.padEnd(2 ** 20));
    const other = new WebSocket(echoing);
    await once(other, "open"); // The plugin has read what was written before this.
    print("queued", websocket.bufferedAmount > 16 * 2 ** 20);
    other.close();
    const { code } = await once(websocket, "close");
    print(code, websocket.bufferedAmount);
  },

  async flood(url, count) {
    const websocket = new WebSocket(url);
    let got = 0;
    websocket.onmessage = () => got++;
    await once(websocket, "open");
    const start = performance.now();
    await once(websocket, "close");
    print(got, got / (performance.now() - start));
  },

  async configured(url, command) {
    const wanted = { command, args: ["--allow-host", "example.com"], stderr: "ignore" };
    configure({ command: "none" });
    configure(wanted);
    await end(new WebSocket(url));
    print(thrown(() => configure({ ...wanted, args: [...wanted.args] })));
    print(thrown(() => configure({ ...wanted, args: [] })));
    await shutdown();
    print(thrown(() => configure({ command })));
    const websocket = new WebSocket(url);
    await once(websocket, "open");
    websocket.close();
    await once(websocket, "close");
    await shutdown();
  },

  find(command) {
    print(findPlugin(command || undefined));
  },

  async missing() {
    await end(new WebSocket("ws://127.0.0.1:1/"));
  },

  // Twice, so that the second time nothing but the wait for a restart keeps the process alive.
  async killed(url) {
    const { readFileSync } = require("node:fs");
    let websockets = [new WebSocket(url), new WebSocket(url)];
    for (let death = 1; death <= 2; death++) {
      await Promise.all(websockets.map((websocket) => once(websocket, "open")));
      const ends = websockets.map(end);
      process.kill(Number(readFileSync(process.env.PIDFILE, "utf8")), "SIGKILL");
      await Promise.all(ends);
      websockets = [new WebSocket(url)];
    }
    const [next] = websockets;
    await once(next, "open");
    print("open");
    print(typeof (await next.ping()) === "number");
    await next.pause();
    await next.resume();
    next.terminate();
    await end(next);
  },

  // 200 and not five; the one beyond is told, and nobody is evicted.
  async room(url) {
    const websockets = Array.from({ length: 200 }, () => new WebSocket(url));
    await Promise.all(websockets.map((websocket) => once(websocket, "open")));
    const beyond = new WebSocket(url);
    const [{ error }, { code }] = await Promise.all([once(beyond, "error"), once(beyond, "close")]);
    print(
      error.code,
      code,
      websockets.every(({ readyState }) => readyState === 1),
    );
    await shutdown();
  },
};

await scenes[scene](...values);
