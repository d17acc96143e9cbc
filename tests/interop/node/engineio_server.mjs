// The echo server on engine.io, below Socket.IO: packets of its own in the messages.
import { createServer } from "node:http";
import { once } from "node:events";
import { Server } from "engine.io";
import { MAX_SIZE, PING_INTERVAL_MS, PING_TIMEOUT_MS, answer, listen, tellClose } from "./words.mjs";

const http = createServer();
const server = new Server({
  transports: ["websocket"],
  maxHttpBufferSize: MAX_SIZE,
  perMessageDeflate: { threshold: 0 },
  pingInterval: PING_INTERVAL_MS,
  pingTimeout: PING_TIMEOUT_MS,
});
server.attach(http);

server.on("headers", (headers, request) => {
  headers["X-Interop-Echo"] = request.headers["x-interop"] ?? "";
});

server.on("connection", (socket) => {
  const webSocket = socket.transport.socket;
  const connection = {
    send: (text) => socket.send(text),
    sendLong: (text) => socket.send(text),
    ping: () => webSocket.ping("engine.io"),
    pong: () => once(webSocket, "pong"),
    // Engine.IO has neither codes nor reasons.
    close: () => socket.close(),
  };
  socket.on("message", (data) => {
    if (typeof data === "string") {
      answer(connection, data);
    } else {
      socket.send(data);
    }
  });
  webSocket.on("close", (code, reason) => tellClose(code, reason));
});

listen(http);
