'use strict';
// The seed part of the contract (create, send, close, background) on Node with `ws`, written the
// way its users would: readline in, process.stdout.write out, one JSON.stringify a message.
//
// Most such programs never look at what `write` returns, and hold in memory whatever the host has
// not read yet. With --paced this one stops reading until the host has caught up.

const readline = require('node:readline');
const WebSocket = require('ws');

const MAX_CONNECTIONS = 5;
const paced = process.argv.includes('--paced');
const connections = new Map(); // id -> WebSocket, oldest first
let lastId = 0;
let behind = false; // the host is, and nothing is read

function write(message) {
  const more = process.stdout.write(JSON.stringify(message) + '\n');
  if (more || !paced || behind) return;
  behind = true;
  input.pause();
  for (const ws of connections.values()) ws.pause();
  process.stdout.once('drain', () => {
    behind = false;
    input.resume();
    for (const ws of connections.values()) ws.resume();
  });
}

function respond(id, response) {
  if (id !== undefined && id !== null) write({ id, response });
}

function fail(id, code, errMsg) {
  write({ id: id ?? null, error: { code, errMsg } });
}

function emit(id, name, payload) {
  write({ event: 'websocket-event', payload: { id, name, payload } });
}

function create(requestId, { url, headers = {}, protocols = [] }) {
  const names = Object.keys(headers).map((name) => name.toLowerCase());
  if (names.includes('referer')) throw new Error('payload.headers: Referer cannot be set');
  if (!names.includes('content-type')) {
    headers = { ...headers, 'content-type': 'application/json' };
  }
  const ws = new WebSocket(url, protocols, { headers, perMessageDeflate: false });
  const id = `ws-${++lastId}`;
  connections.set(id, ws);
  respond(requestId, { id });
  const live = [...connections.values()].filter((ws) => ws.readyState <= WebSocket.OPEN);
  if (live.length > MAX_CONNECTIONS) {
    live[0].close(1001, `connection limit of ${MAX_CONNECTIONS} reached`);
  }

  let responseHeaders = {};
  ws.on('upgrade', (response) => {
    responseHeaders = response.headers;
  });
  ws.on('open', () => {
    if (behind) ws.pause();
    emit(id, 'open', { headers: responseHeaders });
  });
  ws.on('message', (data, isBinary) => {
    emit(
      id,
      'message',
      isBinary
        ? { type: 'arraybuffer', data: Array.from(data) }
        : { type: 'text', data: data.toString() }
    );
  });
  ws.on('error', (error) => emit(id, 'error', { errMsg: error.message }));
  ws.on('close', (code, reason) => {
    connections.delete(id);
    emit(id, 'close', { code, reason: reason.toString() });
  });
}

function send(requestId, { id, type, data }) {
  const ws = connections.get(id);
  if (!ws || ws.readyState !== WebSocket.OPEN) {
    fail(requestId, 'not-open', `${id} is not open`);
    return;
  }
  const message = type === 'text' ? data : Buffer.from(data);
  ws.send(message, { binary: type !== 'text' }, (error) => {
    if (error) fail(requestId, 'not-open', error.message);
    else respond(requestId, {});
  });
}

function close(requestId, { id, code = 1000, reason = '' }) {
  connections.get(id)?.close(code, reason);
  respond(requestId, {});
}

function background(requestId) {
  const closed = [...connections.values()].map((ws) => {
    ws.close(1001, 'application entered background');
    return new Promise((resolve) => ws.once('close', resolve));
  });
  Promise.all(closed).then(() => respond(requestId, {}));
}

const actions = {
  'websocket-create': create,
  'websocket-send': send,
  'websocket-close': close,
  'app-background': background,
};

const input = readline.createInterface({ input: process.stdin, crlfDelay: Infinity });

input.on('line', (line) => {
  if (line.trim() === '') return;
  let request;
  try {
    request = JSON.parse(line);
  } catch (error) {
    fail(null, 'invalid-json', error.message);
    return;
  }
  const action = actions[request?.action];
  if (!action) {
    fail(request?.id, 'unknown-action', `no such action: ${request?.action}`);
    return;
  }
  try {
    action(request.id, request.payload ?? {});
  } catch (error) {
    fail(request.id, 'invalid-payload', error.message);
  }
});

input.on('close', () => {
  for (const ws of connections.values()) ws.close(1001, 'plugin shutting down');
});
