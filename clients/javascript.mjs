// The shortest correct client in JavaScript, for browsers and Node.js 22 or newer: WebSocket, else server-sent events, else
// long-poll. All three go on from the same cursor, so changing between them loses nothing and doubles nothing.
//
//   const client = new Client("https://chat.example", () => token);
//   client.follow({ rooms: "lobby", cursor, onEvent: (event, cursor) => … });
//   await client.send("lobby", { text: "hello" });
//
// From a shell: TOKEN=… node javascript.mjs http://127.0.0.1:8080 lobby 'hello'

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
/** A way that fails so often in a row gives way to the next one. */
const TRIES = 2;

/** Calls when nothing was heard for long: 10 seconds at first, 40 then. A bridge says something every 15. */
class Silence {
  constructor(call) {
    this.call = call;
    this.timer = setTimeout(call, 10_000);
  }

  broken() {
    clearTimeout(this.timer);
    this.timer = setTimeout(this.call, 40_000);
  }

  stop() {
    clearTimeout(this.timer);
  }
}

export class Client {
  constructor(url, token) {
    this.url = url;
    this.token = token;
  }

  async ask(method, path, body) {
    const answer = await fetch(this.url + path, {
      method,
      headers: { Authorization: `Bearer ${this.token()}`, "Content-Type": "application/json" },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(60_000),
    });
    const json = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(json.detail), { problem: json });
    return json;
  }

  /** Asks until there is an answer that another attempt would not change. */
  async insist(method, path, body) {
    for (;;) {
      try {
        return await this.ask(method, path, body);
      } catch (error) {
        if (error.problem && !error.problem.retryable) throw error;
        await pause(error.problem?.retry_after_ms ?? 1000);
      }
    }
  }

  /** With a key it is safe to send again until there is an answer: it stands in the room once. */
  send(room, body, key = crypto.randomUUID()) {
    return this.insist("POST", `/v1/rooms/${room}/messages`, { key, body });
  }

  /** Gives every event behind the cursor, in order, each once, for ever. What another attempt would not change is thrown. */
  async follow({ rooms, cursor = "", onEvent, ways = ["websocket", "sse", "poll"] }) {
    this.cursor = cursor;
    let heard;
    const take = (event, next) => {
      [this.cursor, heard] = [next, true];
      if (event) onEvent(event, next);
    };
    for (let way = 0, failed = 0; ; ) {
      heard = false;
      try {
        await this[ways[way]](rooms, take);
      } catch (error) {
        if (error.problem && !error.problem.retryable) throw error;
      }
      failed = heard ? 0 : failed + 1;
      if (failed >= TRIES && way + 1 < ways.length) [way, failed] = [way + 1, 0];
      await pause(1000);
    }
  }

  address(path, rooms, more = {}) {
    return `${this.url}${path}?${new URLSearchParams({ rooms, cursor: this.cursor, ...more })}`;
  }

  /** A WebSocket cannot send the token as a header: it takes a ticket, another one each time. */
  async websocket(rooms, take) {
    const { ticket } = await this.ask("POST", "/v1/tickets", {});
    const socket = new WebSocket(this.address("/v1/ws", rooms, { ticket }).replace(/^http/, "ws"));
    // A proxy may let the handshake through and nothing after it; and a browser does not say that the other side is gone.
    const silence = new Silence(() => socket.close());
    const asking = setInterval(() => socket.readyState === 1 && socket.send('{"op":"ping"}'), 15_000);
    await new Promise((resolve, reject) => {
      socket.onmessage = ({ data }) => {
        silence.broken();
        const frame = JSON.parse(data);
        if (frame.op === "event" || frame.op === "cursor") take(frame.event, frame.cursor);
        if (frame.op === "error") reject(Object.assign(new Error(frame.problem.detail), { problem: frame.problem }));
      };
      socket.onclose = resolve;
      socket.onerror = reject;
    }).finally(() => {
      clearInterval(asking);
      silence.stop();
      socket.close();
    });
  }

  /** By fetch, which unlike EventSource can send the token as a header. */
  async sse(rooms, take) {
    const headers = { Authorization: `Bearer ${this.token()}` };
    const stop = new AbortController();
    const silence = new Silence(() => stop.abort());
    try {
      const answer = await fetch(this.address("/v1/events/stream", rooms), { headers, signal: stop.signal });
      if (!answer.ok) throw Object.assign(new Error("refused"), { problem: await answer.json() });
      let text = "";
      for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
        silence.broken();
        const blocks = (text + chunk).split("\n\n");
        text = blocks.pop();
        for (const block of blocks) this.block(block, take);
      }
    } finally {
      silence.stop();
      stop.abort();
    }
  }

  block(block, take) {
    const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
    if (fields.event === "error") {
      const problem = JSON.parse(fields.data);
      throw Object.assign(new Error(problem.detail), { problem });
    }
    if (fields.id) take(fields.event ? undefined : fields.data && JSON.parse(fields.data), fields.id);
  }

  async poll(rooms, take) {
    for (;;) {
      const page = await this.ask("GET", this.address("/v1/events", rooms, { wait: 25 }).slice(this.url.length));
      page.events.forEach((event) => take(event, this.cursor));
      take(undefined, page.cursor);
    }
  }
}

if (globalThis.process?.argv[1] && import.meta.url === (await import("node:url")).pathToFileURL(process.argv[1]).href) {
  const [url, room, text, ways] = process.argv.slice(2);
  const client = new Client(url, () => process.env.TOKEN);
  await client.send(room, { text });
  const onEvent = (event) => console.log(JSON.stringify(event));
  await client.follow({ rooms: room, cursor: "earliest", onEvent, ways: ways?.split(",") });
}
