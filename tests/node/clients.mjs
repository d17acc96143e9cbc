// Clients that people use, each through the class of the package:
//
//     node clients.mjs CLIENT
//
// prints what came, a line of JSON each. The servers are those that the clients' authors have.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { shutdown, WebSocket } from "wsplugin";

const print = (...values) => console.log(JSON.stringify(values));
const require = createRequire(import.meta.url);

/** Listen on a free port; return it. */
async function listen(http) {
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  return http.address().port;
}

const once = (target, name) =>
  new Promise((resolve) => target.addEventListener(name, resolve, { once: true }));

const clients = {
  // The plugin is killed under it, and then the server drops it.
  async "reconnecting-websocket"() {
    const { default: ReconnectingWebSocket } = await import("reconnecting-websocket");
    const { WebSocketServer } = await import("ws");
    const http = createServer();
    const server = new WebSocketServer({ server: http });
    server.on("connection", (socket) => {
      socket.on("message", (data) => socket.send(`${data}`));
    });
    const url = `ws://127.0.0.1:${await listen(http)}/`;
    const options = { WebSocket, minReconnectionDelay: 50, maxReconnectionDelay: 200 };
    const websocket = new ReconnectingWebSocket(url, [], options);
    const echo = async (text) => {
      const message = once(websocket, "message");
      websocket.send(text); // which waits for the connection, if there is none
      print((await message).data);
    };
    await echo("first");
    const pid = Number(readFileSync(process.env.PIDFILE, "utf8"));
    const closed = once(websocket, "close");
    process.kill(pid, "SIGKILL");
    print("killed", (await closed).code);
    await echo("second");
    print("another process", pid !== Number(readFileSync(process.env.PIDFILE, "utf8")));
    const dropped = once(websocket, "close");
    for (const socket of server.clients) socket.terminate();
    print("dropped", (await dropped).code);
    await echo("third");
    websocket.close(1000, "done");
    print("closed", (await once(websocket, "close")).code);
    http.close();
  },

  async "graphql-ws"() {
    const { GraphQLObjectType, GraphQLSchema, GraphQLString } = await import("graphql");
    const { createClient } = await import("graphql-ws");
    const { useServer } = await import("graphql-ws/use/ws");
    const { WebSocketServer } = await import("ws");
    const field = (more) => ({ type: GraphQLString, ...more });
    async function* count() {
      for (let number = 1; number <= 3; number++) yield { count: `${number}` };
    }
    const schema = new GraphQLSchema({
      query: new GraphQLObjectType({
        name: "Query",
        fields: { hello: field({ resolve: () => "world" }) },
      }),
      subscription: new GraphQLObjectType({
        name: "Subscription",
        fields: { count: field({ subscribe: count }) },
      }),
    });
    const http = createServer();
    useServer({ schema }, new WebSocketServer({ server: http }));
    const url = `ws://127.0.0.1:${await listen(http)}/`;
    const client = createClient({ url, webSocketImpl: WebSocket, retryAttempts: 0 });
    for (const query of ["{ hello }", "subscription { count }"]) {
      for await (const { data } of client.iterate({ query })) print(data);
    }
    await client.dispose();
    http.close();
    http.closeAllConnections();
  },

  async "engine.io-client"() {
    globalThis.WebSocket = WebSocket;
    const { Socket, WebSocket: transport } = await import("engine.io-client");
    const engine = require("engine.io");
    const http = createServer();
    const server = engine.attach(http);
    server.on("connection", (socket) => socket.on("message", (data) => socket.send(data)));
    const url = `ws://127.0.0.1:${await listen(http)}/`;
    const socket = new Socket(url, { transports: [transport] });
    socket.binaryType = "arraybuffer";
    const sent = ["text 👋", Uint8Array.of(0, 1, 255)];
    socket.on("open", () => sent.forEach((data) => socket.send(data)));
    const got = [];
    await new Promise((resolve) =>
      socket.on("message", (data) => {
        got.push(typeof data === "string" ? data : [...new Uint8Array(data)]);
        if (got.length === sent.length) resolve();
      }),
    );
    print(socket.transport.name, ...got);
    const closed = new Promise((resolve) => socket.on("close", resolve));
    socket.close();
    print("close", await closed);
    server.close();
    http.close();
  },

  async "socket.io-client"() {
    globalThis.WebSocket = WebSocket;
    const { WebSocket: transport } = await import("engine.io-client");
    const { io } = await import("socket.io-client");
    const { Server } = await import("socket.io");
    const http = createServer();
    const server = new Server(http);
    server.on("connection", (socket) => {
      socket.on("add", (a, b, bytes, answer) => answer(a + b, bytes));
      socket.emit("welcome", { to: "you" });
    });
    const url = `http://127.0.0.1:${await listen(http)}/`;
    const socket = io(url, { transports: [transport], reconnectionDelay: 50 });
    print(await new Promise((resolve) => socket.on("welcome", resolve)));
    const [sum, bytes] = await new Promise((resolve) =>
      socket.emit("add", 1, 2, Buffer.from([1, 2]), (...answer) => resolve(answer)),
    );
    print(sum, [...new Uint8Array(bytes)]);
    // It comes back by itself.
    const back = new Promise((resolve) => socket.once("welcome", resolve));
    server.disconnectSockets(true);
    socket.once("disconnect", (why) => why === "io server disconnect" && socket.connect());
    print(await back);
    socket.close();
    await server.close();
  },

  async mqtt() {
    const { MqttClient } = await import("mqtt");
    const file = require.resolve("mqtt").replace(/build[/\\].*/, "build/lib/connect/ws.js");
    const { browserStreamBuilder } = require(file);
    const { Aedes } = await import("aedes");
    const { createWebSocketStream, WebSocketServer } = await import("ws");
    const broker = await Aedes.createBroker();
    const http = createServer();
    new WebSocketServer({ server: http }).on("connection", (socket, request) => {
      broker.handle(createWebSocketStream(socket), request);
    });
    const options = {
      protocol: "ws",
      hostname: "127.0.0.1",
      port: await listen(http),
      path: "/",
      clientId: "client",
      protocolId: "MQTT",
      protocolVersion: 4,
      createWebsocket: (url, protocols) => new WebSocket(url, protocols),
    };
    const client = new MqttClient((self) => browserStreamBuilder(self, options), options);
    await new Promise((resolve) => client.once("connect", resolve));
    await client.subscribeAsync("greetings/#", { qos: 1 });
    const message = new Promise((resolve) => client.once("message", (...got) => resolve(got)));
    await client.publishAsync("greetings/you", "Grüße 👋", { qos: 1 });
    const [topic, payload] = await message;
    print(topic, `${payload}`, client.stream.socket instanceof WebSocket);
    await client.endAsync();
    await new Promise((resolve) => broker.close(resolve));
    http.close();
    http.closeAllConnections();
  },

  async signalr() {
    const { HttpTransportType, HubConnectionBuilder, LogLevel } =
      await import("@microsoft/signalr");
    const { WebSocketServer } = await import("ws");
    const http = createServer();
    // A hub that speaks the JSON protocol: messages that end with a record separator.
    new WebSocketServer({ server: http }).on("connection", (socket) => {
      const say = (message) => socket.send(`${JSON.stringify(message)}\x1e`);
      socket.on("message", (data) => {
        for (const text of `${data}`.split("\x1e").slice(0, -1)) {
          const { protocol, type, target, arguments: values, invocationId } = JSON.parse(text);
          if (protocol) say({});
          if (type === 1 && target === "add") {
            say({ type: 1, target: "adding", arguments: values });
            say({ type: 3, invocationId, result: values[0] + values[1] });
          }
        }
      });
    });
    const connection = new HubConnectionBuilder()
      .withUrl(`http://127.0.0.1:${await listen(http)}/hub`, {
        WebSocket,
        skipNegotiation: true,
        transport: HttpTransportType.WebSockets,
      })
      .configureLogging(LogLevel.Warning)
      .build();
    connection.on("adding", (...values) => print("adding", ...values));
    await connection.start();
    print(await connection.invoke("add", 1, 2));
    await connection.stop();
    http.close();
    http.closeAllConnections();
  },
};

await clients[process.argv[2]]();
await shutdown();
