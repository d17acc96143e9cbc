/** The package `wsplugin`: a host for the plugin, and the class that people know on top of it. */

export {
  type Data,
  type Event as HostEvent,
  Host,
  type HostOptions,
  type Options,
  PluginEnded,
  RequestError,
  WebSocket as Connection,
} from "./host.ts";
export { type Configuration, configure, findPlugin, shutdown } from "./shared.ts";
export { type Clock, Supervisor } from "./supervisor.ts";
export {
  type BinaryType,
  CloseEvent,
  type ErrorEvent,
  WebSocket,
  type WebSocketEventMap,
  type WebSocketOptions,
} from "./websocket.ts";
