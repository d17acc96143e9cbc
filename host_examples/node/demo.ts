/**
 * The story that all the examples tell, with the host beside this file.
 *
 * An echo server, then the demo; the plugin's command line may follow the URL. js/ holds what
 * `npm install && npx tsc` makes of the TypeScript, so that nothing has to be installed first.
 * From Node 22.18 on demo.ts itself runs as well.
 *
 * $ python3 -m venv .venv && .venv/bin/pip install .
 * $ python3 host_examples/python/echo_server.py 8765 &
 * $ node host_examples/node/js/demo.js ws://127.0.0.1:8765/ .venv/bin/wsplugin
 */

import { Host, RequestError } from "./host.ts";

async function main(url: string, command: string[]): Promise<void> {
  const host = await Host.spawn(command.length > 0 ? command : undefined);
  const websocket = await host.create(url);
  for await (const event of websocket) {
    switch (event.name) {
      case "open":
        console.log("open");
        await websocket.send("Grüße 👋");
        break;
      case "message":
        if (typeof event.data === "string") {
          console.log(`text: ${event.data}`);
          await websocket.send(Uint8Array.of(0x00, 0x01, 0x7f, 0x80, 0xff));
        } else {
          const octets = [...event.data].map((octet) => octet.toString(16).padStart(2, "0"));
          console.log(`binary: ${octets.join(" ")}`);
          await websocket.close(1000, "done");
        }
        break;
      case "error":
        console.log(`error: ${event.code}: ${event.errMsg}`);
        break;
      case "close":
        console.log(`close: ${event.code} ${event.reason} (${event.cause})`);
        break;
    }
  }
  try {
    await websocket.send("too late");
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    console.log(`refused: ${error.code}`);
  }
  console.log(`exit status: ${await host.stop()}`);
}

const [url, ...command] = process.argv.slice(2);
try {
  await main(url ?? "ws://127.0.0.1:8765/", command);
} catch (error) {
  console.error(String(error));
  process.exitCode = 1;
}
