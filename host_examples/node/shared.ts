/**
 * The one plugin that the classes of this package share: how it is found, configured, supervised.
 */

import { dirname, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { Host, type HostOptions, PluginEnded } from "./host.ts";
import { Supervisor } from "./supervisor.ts";

/** What configure takes. */
export interface Configuration extends HostOptions {
  /** Path of the plugin; else WSPLUGIN, an installed @wsplugin package, or wsplugin on PATH. */
  command?: string;
  /** Options of the plugin, such as "--allow-host", "example.com"; see wsplugin --help. */
  args?: readonly string[];
}

const MISSING =
  "Install it (pip install wsplugin, or npm install @wsplugin/" +
  `${process.platform}-${process.arch}), or name its path in WSPLUGIN or configure({ command }).`;

let configuration: Configuration = {};
let supervisor: Supervisor | undefined;

/**
 * Say how the shared plugin is started: before the first connection. A later call that says
 * anything else throws.
 */
export function configure(wanted: Configuration): void {
  if (supervisor && !isDeepStrictEqual(wanted, configuration)) {
    throw new Error("the plugin is in use: configure comes before the first connection");
  }
  configuration = { ...wanted };
}

/**
 * Return the path of the plugin, and whether somebody has named or installed it: else PATH has to
 * have it.
 */
export function findPlugin(command = configuration.command): { path: string; found: boolean } {
  const path = command ?? process.env["WSPLUGIN"];
  if (path) return { path, found: true };
  try {
    const name = `@wsplugin/${process.platform}-${process.arch}/package.json`;
    const executable = process.platform === "win32" ? "wsplugin.exe" : "wsplugin";
    return { path: join(dirname(require.resolve(name)), "bin", executable), found: true };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "MODULE_NOT_FOUND") throw error;
  }
  return { path: "wsplugin", found: false };
}

/** Return the supervisor of the shared plugin, which is started with its first connection. */
export function shared(): Supervisor {
  supervisor ??= new Supervisor(start);
  return supervisor;
}

/**
 * Stop the shared plugin in good order. An app need not: the plugin ends with its process. What
 * comes after this starts another plugin, and may configure it.
 */
export async function shutdown(): Promise<void> {
  const stopping = supervisor;
  supervisor = undefined;
  await stopping?.stop();
}

async function start(): Promise<Host> {
  const { command, args = [], ...options } = configuration;
  const { path, found } = findPlugin(command);
  // Nobody is evicted: who opens more connections than that is told so.
  const limits = ["--max-connections", "200", "--at-limit", "refuse"];
  try {
    return await Host.spawn([path, ...limits, ...args], options);
  } catch (error) {
    if (found || !(error instanceof PluginEnded)) throw error;
    throw new PluginEnded(`${error.message}. ${MISSING}`);
  }
}
