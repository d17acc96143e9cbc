// The echo server on ws.
import { createServer } from "node:http";
import { once } from "node:events";
import { WebSocketServer } from "ws";
import { MAX_SIZE, PROTOCOL, answer, listen, tellClose } from "./words.mjs";

// Splits characters of the text, which has 12 bytes to a repetition, now and then.
const FRAGMENT = 99_991;

const http = createServer();
const server = new WebSocketServer({
  server: http,
  maxPayload: MAX_SIZE,
  perMessageDeflate: { threshold: 0 },
  handleProtocols: (protocols) => (protocols.has(PROTOCOL) ? PROTOCOL : false),
});

server.on("headers", (headers, request) => {
  headers.push(`X-Interop-Echo: ${request.headers["x-interop"] ?? ""}`);
});

server.on("connection", (socket) => {
  const connection = {
    send: (text) => socket.send(text),
    sendLong: (text) => {
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length; at += FRAGMENT) {
        const fin = at + FRAGMENT >= bytes.length;
        socket.send(bytes.subarray(at, at + FRAGMENT), { fin, binary: false });
      }
    },
    ping: () => socket.ping("ws"),
    pong: () => once(socket, "pong"),
    close: (code, reason) => socket.close(code, reason),
  };
  socket.on("message", (data, isBinary) => {
    if (isBinary) {
      socket.send(data);
    } else {
      answer(connection, data.toString());
    }
  });
  socket.on("close", (code, reason) => tellClose(code, reason));
  socket.on("error", () => socket.terminate());
});

listen(http);
