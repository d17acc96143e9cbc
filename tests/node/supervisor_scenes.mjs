// The supervisor with a clock and plugins of the test's own: node supervisor_scenes.mjs SCENE
//
// prints what came, a line of JSON each, with the time on that clock.

import { PluginEnded, Supervisor } from "wsplugin";

class Clock {
  time = 0;
  #sleepers = [];

  now() {
    return this.time;
  }

  sleep(ms) {
    return new Promise((wake) => this.#sleepers.push({ at: this.time + ms, wake }));
  }

  /** Let time pass, and all that happens in it happen. */
  async pass(ms) {
    const end = this.time + ms;
    for (;;) {
      await settle();
      this.#sleepers.sort((one, other) => one.at - other.at);
      if (!(this.#sleepers[0]?.at <= end)) break;
      const { at, wake } = this.#sleepers.shift();
      this.time = at;
      wake();
    }
    this.time = end;
  }
}

const settle = () => new Promise(setImmediate);
const clock = new Clock();
const print = (...line) => console.log(JSON.stringify([clock.time, ...line]));

/** A plugin that can be killed. */
class Plugin {
  static count = 0;
  name = `plugin ${++Plugin.count}`;
  stops = 0;
  ended = new Promise((resolve) => (this.die = resolve));

  async create(url) {
    return `${url} on ${this.name}`;
  }

  async stop() {
    this.stops += 1;
    this.die(0);
    return 7;
  }
}

let running;
let broken = "";
async function start() {
  print(broken || "start");
  if (broken) throw new PluginEnded(broken);
  return (running = new Plugin());
}
const supervisor = new Supervisor(start, clock);
const create = (name) =>
  supervisor.create(name).then(
    (value) => print(value),
    (error) => print(name, error.name, error.message),
  );

async function die() {
  print("death");
  running.die(137);
  await settle();
}

const scenes = {
  // Only what is used is started, and once; five times in three minutes, and not a sixth.
  async deaths() {
    await clock.pass(1000);
    create("a");
    create("b");
    await clock.pass(0);
    for (let count = 0; count < 5; count++) {
      await die();
      create(`after death ${count + 1}`);
      await clock.pass(5000);
    }
    await clock.pass(154_000);
    create("early");
    await clock.pass(999);
    create("still early");
    await clock.pass(1);
    create("late");
    await clock.pass(5000);
  },

  // What fails while it is started again is tried again; those who wait, wait for that.
  async restarts() {
    create("a");
    await clock.pass(0);
    broken = "no such file";
    await die();
    create("waits");
    await clock.pass(1200);
    broken = "";
    await clock.pass(10_000);
  },

  async never() {
    broken = "no such file";
    create("a");
    await clock.pass(0);
    create("b");
    await clock.pass(0);
    for (const name of ["c", "d", "e", "f"]) {
      create(name);
      await clock.pass(10_000);
    }
  },

  async stop() {
    create("a");
    await clock.pass(0);
    print(await Promise.all([supervisor.stop(), supervisor.stop()]), running.stops);
    create("b");
    await clock.pass(10_000);
  },

  async "stop before"() {
    print(await supervisor.stop());
    create("b");
    await clock.pass(0);
  },

  async "stop while waiting"() {
    create("a");
    await clock.pass(0);
    await die();
    await clock.pass(0);
    await die();
    create("waits");
    const stopped = supervisor.stop();
    await clock.pass(500);
    print(await stopped);
  },
};

await scenes[process.argv[2]]();
