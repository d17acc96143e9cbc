// A server for the cases, frame by frame: the path says how it behaves.
//
//     /echo             every message comes back; so does a Close frame
//     /say?…            as /echo, and first writes the bytes given in hexadecimal as `bytes`, then,
//                       with `cut`, ends the TCP connection
//     /http?…           answers with this status, and these headers as JSON
//     /silent           accepts, and answers no frame
//     /mute             does not answer the handshake
//
// Any may have `protocol`, the subprotocol that is chosen. What it has seen is in `seen`, by the
// query's `id`: the request's headers, the frames as [opcode, hexadecimal], the end of the stream.

import { createHash } from "node:crypto";
import { createServer } from "node:net";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const CLOSE = 8;

export class RawServer {
  seen = new Map();
  #server = createServer((socket) => this.#serve(socket));
  #sockets = new Set();
  #waiting = new Map();

  async listen() {
    await new Promise((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    this.host = `127.0.0.1:${this.#server.address().port}`;
    this.url = `ws://${this.host}`;
    return this;
  }

  close() {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }

  /** Resolves to what was seen of an id, once its connection has ended. */
  ended(id) {
    const seen = this.seen.get(id);
    if (seen?.ended) return Promise.resolve(seen);
    return new Promise((resolve) => this.#waiting.set(id, resolve));
  }

  #serve(socket) {
    let data = Buffer.alloc(0);
    let play;
    let seen = { headers: {}, frames: [], ended: false };
    this.#sockets.add(socket);
    socket.on("error", () => {}); // the client has cut the connection: close comes next
    socket.on("close", () => {
      this.#sockets.delete(socket);
      seen.ended = true;
      this.#waiting.get(seen.id)?.(seen);
    });
    socket.on("data", (chunk) => {
      data = Buffer.concat([data, chunk]);
      if (!play) {
        const end = data.indexOf("\r\n\r\n");
        if (end < 0) return;
        const [line, ...fields] = data.subarray(0, end).toString("latin1").split("\r\n");
        data = data.subarray(end + 4);
        const path = new URL(line.split(" ")[1], this.url);
        for (const field of fields) {
          const colon = field.indexOf(":");
          seen.headers[field.slice(0, colon).toLowerCase()] = field.slice(colon + 1).trim();
        }
        seen.id = path.searchParams.get("id");
        this.seen.set(seen.id, seen);
        play = this.#open(socket, path, seen.headers);
      }
      for (let frame; (frame = takeFrame(data)); data = frame.rest) {
        seen.frames.push([frame.opcode, frame.payload.toString("hex")]);
        if (play) play(frame);
      }
    });
  }

  #open(socket, path, headers) {
    const { searchParams: query, pathname } = path;
    if (pathname === "/mute") return () => {};
    if (pathname === "/http") {
      const fields = Object.entries(JSON.parse(query.get("headers") ?? "{}"));
      const lines = fields.map(([name, value]) => `${name}: ${value}\r\n`).join("");
      socket.end(`HTTP/1.1 ${query.get("status")} x\r\n${lines}Content-Length: 0\r\n\r\n`);
      return () => {};
    }
    const key = headers["sec-websocket-key"] + GUID;
    const accept = createHash("sha1").update(key).digest("base64");
    const chosen = query.get("protocol");
    const protocol = chosen === null ? "" : `Sec-WebSocket-Protocol: ${chosen}\r\n`;
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        `Sec-WebSocket-Accept: ${accept}\r\n${protocol}\r\n`,
    );
    if (pathname === "/say") {
      socket.write(Buffer.from(query.get("bytes"), "hex"));
      if (query.has("cut")) socket.destroySoon();
    }
    if (pathname === "/silent") return () => {};
    return ({ opcode, payload }) => {
      socket.write(frameOf(opcode, payload));
      if (opcode === CLOSE) socket.end();
    };
  }
}

export function frameOf(opcode, payload) {
  const bytes = Buffer.from(payload);
  if (bytes.length < 126) return Buffer.concat([Buffer.of(0x80 | opcode, bytes.length), bytes]);
  const head = Buffer.alloc(bytes.length < 65536 ? 4 : 10);
  head[0] = 0x80 | opcode;
  head[1] = bytes.length < 65536 ? 126 : 127;
  if (bytes.length < 65536) head.writeUInt16BE(bytes.length, 2);
  else head.writeBigUInt64BE(BigInt(bytes.length), 2);
  return Buffer.concat([head, bytes]);
}

function takeFrame(data) {
  if (data.length < 2) return undefined;
  let size = data[1] & 0x7f;
  let at = 2;
  if (size === 126) [size, at] = [data.length < 4 ? Infinity : data.readUInt16BE(2), 4];
  if (size === 127)
    [size, at] = [data.length < 10 ? Infinity : Number(data.readBigUInt64BE(2)), 10];
  if (data.length < at + 4 + size) return undefined;
  const mask = data.subarray(at, at + 4);
  const payload = Buffer.from(data.subarray(at + 4, at + 4 + size));
  for (let index = 0; index < size; index++) payload[index] ^= mask[index & 3];
  return { opcode: data[0] & 0x0f, payload, rest: data.subarray(at + 4 + size) };
}
