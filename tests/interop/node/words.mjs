// What the echo servers understand, as ../apps/words.py has it.

export const PROTOCOL = "interop.v2";
export const MAX_SIZE = 8 * 2 ** 20;
export const PING_INTERVAL_MS = 300;
export const PING_TIMEOUT_MS = 1500;

const LONG_TEXT = "é0123456789".repeat(2 ** 18);
const QUIET_TIME_MS = 2500;

// Echoes one message, or does as it says: `connection` has send, sendLong, ping, pong and close.
export function answer(connection, text) {
  if (text === "long") {
    connection.sendLong(LONG_TEXT);
  } else if (text === "quiet") {
    connection.ping();
    const pong = connection.pong();
    const time = new Promise((resolve) => setTimeout(resolve, QUIET_TIME_MS));
    Promise.all([pong, time]).then(() => connection.send("still here"));
  } else if (text.startsWith("close ")) {
    const [, code, reason] = text.match(/^close (\d+) (.*)$/);
    connection.close(Number(code), reason);
  } else {
    connection.send(text);
  }
}

export function tellClose(code, reason) {
  console.log(`closed ${code} ${reason}`.trimEnd());
}

export function listen(server) {
  server.listen(0, "127.0.0.1", () => console.log(`listening ${server.address().port}`));
}
