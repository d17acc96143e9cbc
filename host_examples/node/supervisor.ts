/**
 * Keeps a plugin running, for hosts that must outlive it: to copy beside host.ts.
 *
 *     const supervisor = new Supervisor(() => Host.spawn(["wsplugin"]));
 *     const websocket = await supervisor.create("wss://example.com/");
 *
 * When the plugin dies, every connection gets its close event (1006, cause "failure") from the
 * host, and the plugin is started again: at once, then after 0.5, 1 and 2 seconds. A create
 * meanwhile waits. After five starts in three minutes creates fail at once, until the first of
 * them is three minutes ago. Connections are not opened again, and nothing is sent twice: that is
 * the app's affair, and reconnect.ts beside this file shows how.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { type Host, type Options, PluginEnded, type WebSocket } from "./host.ts";

/** Milliseconds before each start within the window; there is none beyond the last. */
const DELAYS = [0, 0, 500, 1000, 2000];
const WINDOW = 180_000;

/** The time, for tests: milliseconds since whenever, and a promise of later. */
export interface Clock {
  now(): number;
  sleep(ms: number): Promise<unknown>;
}

const clockOfTheSystem: Clock = {
  now: () => performance.now(),
  // Unless somebody waits for it, a restart must not keep the process alive.
  sleep: (ms) => sleep(ms, undefined, { ref: false }),
};

/** Starts the plugin with the first use, and again whenever it has died. */
export class Supervisor {
  readonly #start: () => Promise<Host>;
  readonly #clock: Clock;
  readonly #starts: number[] = [];
  #current: Promise<Host> | undefined;
  #hasRun = false;
  #stopped: Promise<number> | undefined;

  /** start: how one plugin is started. */
  constructor(start: () => Promise<Host>, clock = clockOfTheSystem) {
    this.#start = start;
    this.#clock = clock;
  }

  /**
   * Return the plugin that runs, once it does. Throws PluginEnded if it has died too often, if
   * the very first start fails (which no repetition would mend), or after stop.
   */
  async host(): Promise<Host> {
    if (this.#stopped) throw new PluginEnded("the supervisor has been stopped");
    return awake((this.#current ??= this.#run()));
  }

  /** Create a connection, as Host.create. */
  async create(url: string, options?: Options): Promise<WebSocket> {
    return (await this.host()).create(url, options);
  }

  /** Stop the plugin for good; resolves to its exit status, 0 if none is running. */
  stop(): Promise<number> {
    const host = this.#current?.catch(() => undefined); // told to whoever has waited for it
    this.#stopped ??= awake(host).then((running) => running?.stop() ?? 0);
    return this.#stopped;
  }

  async #run(): Promise<Host> {
    try {
      for (let why = ""; ;) {
        await this.#turn(why);
        try {
          const host = await this.#start();
          this.#hasRun = true;
          void host.ended.then(() => this.#restart());
          return host;
        } catch (error) {
          if (!this.#hasRun || !(error instanceof PluginEnded)) throw error;
          why = `: ${error.message}`;
        }
      }
    } catch (error) {
      this.#current = undefined; // The next one to ask tries again.
      throw error;
    }
  }

  /** Wait until the plugin may be started again, if it may. */
  async #turn(why: string): Promise<void> {
    const since = this.#clock.now() - WINDOW;
    while (this.#starts[0] !== undefined && this.#starts[0] <= since) this.#starts.shift();
    const delay = DELAYS[this.#starts.length];
    if (delay === undefined) {
      throw new PluginEnded(`the plugin was started five times in three minutes${why}`);
    }
    if (delay > 0) await this.#clock.sleep(delay);
    if (this.#stopped) throw new PluginEnded("the supervisor has been stopped");
    this.#starts.push(this.#clock.now());
  }

  #restart(): void {
    this.#current = this.#run();
    this.#current.catch(() => {}); // Whoever creates is told. After a stop, nobody does.
  }
}

/** Wait, and keep this process alive meanwhile: a restart does not. */
async function awake<T>(promise: T | Promise<T>): Promise<T> {
  const keepAlive = setInterval(() => {}, 2 ** 30);
  try {
    return await promise;
  } finally {
    clearInterval(keepAlive);
  }
}
