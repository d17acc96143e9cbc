// What a mini-app has: node mini_app_scenes.mjs SCENE URL

import { setTimeout as sleep } from "node:timers/promises";
import { shutdown, WebSocket } from "wsplugin";
import { connectSocket, MiniApp } from "wsplugin/mini-app";
import { RawServer } from "./raw_server.mjs";

const print = (...line) => console.log(JSON.stringify(line));
const server = await new RawServer().listen();
let count = 0;
const place = (path = "/echo") => `${server.url}${path}?id=${++count}`;
const seen = () => server.seen.get(`${count}`).headers;

/** Print each callback under a name. */
const callbacks = (name) => ({
  success: ({ errMsg }) => print(name, "success", errMsg),
  fail: ({ errMsg }) => print(name, "fail", errMsg),
  complete: ({ errMsg }) => print(name, "complete", errMsg),
});

/** Make a call whose callbacks are printed, and wait until it is complete. */
const settled = (name, call) =>
  new Promise((resolve) => {
    const own = callbacks(name);
    call({ ...own, complete: (result) => (own.complete(result), resolve()) });
  });

/** Print each event under a name, and return a promise of each. */
function listen(task, name) {
  const told = {};
  for (const kind of ["Open", "Message", "Error", "Close"]) {
    told[kind] = new Promise((resolve) =>
      task[`on${kind}`]((result) => {
        if (name && kind !== "Open") print(name, kind, result);
        resolve(result);
      }),
    );
  }
  return told;
}

const scenes = {
  async talk() {
    let called = false;
    const task = connectSocket({
      url: place(),
      header: { "X-Number": 5, "x-yes": true, "x-none": null, referer: "https://forged.example" },
      protocols: [],
      forceCellularNetwork: true,
      ...callbacks("connect"),
      success: (result) => ((called = true), callbacks("connect").success(result)),
    });
    const { Open, Close, Message } = listen(task, "task");
    print("called at once", called, task.readyState);
    task.send({ data: "early", ...callbacks("early") });
    const { header, profile } = await Open;
    print(header.upgrade, Object.keys(profile), task.readyState);
    const { "x-number": number, "x-yes": yes, "x-none": none = null, referer = null } = seen();
    print(number, yes, none, referer, seen()["sec-websocket-extensions"] ?? null);
    const bytes = Uint8Array.of(0, 1, 255);
    task.send({ data: "text", ...callbacks("send") });
    await Message;
    const binary = new Promise((resolve) => task.onMessage(resolve));
    task.send({ data: bytes.buffer });
    bytes.fill(0);
    const { data } = await binary;
    print(data.constructor.name, [...new Uint8Array(data)]);
    await settled("number", (more) => task.send({ data: 5, ...more }));
    await settled("wrong code", (more) => task.close({ code: 1, ...more }));
    task.close({ code: 3000, reason: "done", ...callbacks("close") });
    await Close;
    print(task.readyState);
    await settled("late", (more) => task.send({ data: "late", ...more }));
  },

  // Five at a time, of each app; a closed one makes room.
  async five() {
    const app = new MiniApp({ app: "one", referer: "https://container.example/one" });
    const other = new MiniApp({ app: "two" });
    const tasks = [];
    for (let index = 0; index < 5; index++) {
      const task = app.connectSocket({ url: place() });
      tasks.push({ task, ...listen(task) });
    }
    await Promise.all(tasks.map(({ Open }) => Open));
    print(seen().referer);
    const sixth = app.connectSocket({ url: place(), ...callbacks("sixth") });
    await listen(sixth, "sixth").Error;
    print(sixth.readyState);
    const others = listen(other.connectSocket({ url: place() }));
    await others.Open;
    tasks[0].task.close();
    await tasks[0].Close;
    const seventh = app.connectSocket({ url: place(), ...callbacks("seventh") });
    await listen(seventh).Open;
    print(tasks.map(({ task }) => task.readyState));
  },

  async refused() {
    const task = connectSocket({ url: "http://127.0.0.1:1/", ...callbacks("connect") });
    await listen(task, "task").Error;
    const refusing = connectSocket({ url: place("/http") + "&status=403", ...callbacks("403") });
    await listen(refusing, "403").Close;
    await settled("close", (more) => task.close(more));
  },

  // The plugin of this scene has room for fewer than the facade.
  async limit() {
    const first = connectSocket({ url: place() });
    await listen(first).Open;
    const second = connectSocket({ url: place(), ...callbacks("second") });
    await listen(second, "second").Error;
    print(first.readyState);
  },

  async background() {
    const app = new MiniApp({ app: "hidden", backgroundAfter: 100 });
    const other = new MiniApp({ app: "shown" });
    const w3c = new WebSocket(place());
    const others = other.connectSocket({ url: place() });
    await listen(others).Open;
    const open = app.connectSocket({ url: place() });
    await listen(open, "open").Open;
    app.hide();
    app.show();
    await sleep(300);
    print(open.readyState);
    const connecting = app.connectSocket({ url: place("/mute") });
    const ends = [listen(open).Close, listen(connecting, "connecting").Close];
    app.hide();
    app.hide();
    await Promise.all(ends);
    const refused = app.connectSocket({ url: place(), ...callbacks("hidden") });
    await listen(refused).Error;
    app.show();
    await listen(app.connectSocket({ url: place() })).Open;
    print(others.readyState, w3c.readyState);
  },

  async dispose() {
    const app = new MiniApp({ app: "gone" });
    const task = app.connectSocket({ url: place() });
    await listen(task, "task").Open;
    app.dispose();
    await server.ended(`${count}`);
    app.connectSocket({ url: place(), ...callbacks("after") });
    task.send({ data: "x", ...callbacks("send") });
    // What takes longer than a call would have shown it.
    const other = listen(connectSocket({ url: place() }));
    await other.Open;
    print(task.readyState);
  },

  // A listener's fault is the listener's.
  async faults() {
    const faults = [];
    const onListenerError = ({ message }) => faults.push(message);
    const app = new MiniApp({ app: "faulty", onListenerError });
    const fail = (words) => () => {
      throw new Error(words);
    };
    const task = app.connectSocket({
      url: place(),
      success: fail("success"),
      complete: fail("complete"),
    });
    task.onOpen(fail("open"));
    const { Open, Close } = listen(task, "task");
    await Open;
    task.onMessage(fail("message"));
    const echo = new Promise((resolve) => task.onMessage(resolve));
    task.send({ data: "x" });
    await echo;
    task.close();
    await Close;
    print(faults);
  },
};

await scenes[process.argv[2]]();
await shutdown();
server.close();
