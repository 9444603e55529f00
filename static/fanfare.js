/**
 * The browser client of Fanfare: one live connection that comes back by itself and goes on where it stopped. Where a
 * WebSocket does not get through, it is an event stream, or else a long poll.
 *
 *     import { connect } from "/static/fanfare.js";
 *
 *     const client = connect({ getToken: () => fetch("/my/token").then((reply) => reply.text()) });
 *     client.addEventListener("message", ({ detail }) => show(detail.topic, detail.data));
 *     client.addEventListener("recalled", ({ detail }) => hide(detail.id));
 *     client.addEventListener("reset", ({ detail }) => reload(detail.topic));
 *
 * Every stored message of a topic arrives once and in order. Where that cannot be kept, `reset` says so: load the
 * topic again; the client goes on from there. `data` is what someone else wrote: show it as text, never as HTML.
 * docs/protocol.md shows what a message has.
 *
 * @typedef {{epoch: string | null, offset: number}} Position  A place in a topic; epoch null: nothing there yet.
 *
 * @typedef {"websocket" | "stream" | "poll"} Way
 *
 * @typedef {object} Options
 * @property {string | URL} [url]  Where the socket is: `/ws/` on this host unless given. `../api/` is beside it.
 * @property {string} [token]  A credential for every attempt; or
 * @property {() => string | Promise<string>} [getToken]  gets a fresh one before each. Without: the page's session.
 * @property {string[] | Record<string, Position | null>} [topics]  Instead of the server's default topics; with a
 *   position, what came after it is sent first.
 * @property {Way[]} [transports]  The ways to try, best first.
 *
 * @typedef {object} State  `detail` of `state`, and `client.state`.
 * @property {"connecting" | "online" | "offline" | "closed"} state  After `closed` nothing more comes.
 * @property {Way} transport
 * @property {number} [retryAt]  offline: when the next attempt is due, in milliseconds since 1970.
 * @property {number} [code]  offline, closed: the close code; 0 where the client gave up the connection itself.
 * @property {string} [reason]  offline, closed: in words.
 *
 * @typedef {{send: (text: string) => unknown, close: () => void}} Link  `send` takes a JSON frame; true: its answer
 *   comes by `on.answer`, also when the link is gone.
 *
 * @callback Transport  Opens a link. Its `frame` is an event, or just a sign of life; its `closed` may say how long not
 *   to come back.
 * @param {URL} url  The socket's.
 * @param {string} token
 * @param {{
 *   frame: (frame?: *) => void,
 *   closed: (code: number, reason: string, wait?: number) => void,
 *   answer: (ref: unknown, answer: object) => void,
 *   wants: () => {topics: Topics, defaults: boolean},
 *   getToken: () => Promise<string>,
 * }} on
 * @returns {Link}
 *
 * @typedef {Map<string, Position | undefined>} Topics  And from where.
 *
 * @callback Listen  Rejects with the reason when it ends.
 * @param {Requests} requests
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */

const BACKOFF_BASE = 500; // Milliseconds, like all times here.
const BACKOFF_CAP = 30_000;
const STAYED_UP = 10_000; // A connection that lived this long starts the back-off anew.
const QUIET = 30_000;
const PATIENCE = 10_000;
const MISSES = 2; // Attempts in a row, until another way is tried.
const BETTER = 15_000; // Then a better way is tried again, and each time after twice as long.
const BETTER_CAP = 300_000;
const SILENT = 20_000; // A stream says something every 15 s.
const WAIT = 25; // Seconds that a poll waits.
const PACE = 100; // Between two polls.
const PASSING = new Set(["busy", "unavailable"]); // What the server refuses only for now.
const ABOUT_TOPICS = new Set(["denied", "malformed_topic"]);
const EXPIRED = 4401;
const MAX_TOPICS = 1000;
const MAX_REQUESTS = 100;
const MAX_IDS = 1000;
const MAX_TEXT = 4_194_304; // Characters of an event or reply.

/**
 * Connects, and stays connected until `close()` or until the server says not to come back.
 * @param {Options} [options]
 */
export function connect(options = {}) {
  return new Client(options);
}

/** What a request is rejected with, and the `detail` of `error`; `code` is the server's, or one of those below. */
export class FanfareError extends Error {
  constructor(/** @type {unknown} */ code, /** @type {unknown} */ message) {
    super(words(message));
    this.name = "FanfareError";
    this.code = words(code);
  }
}

/** Dispatches `message`, `recalled`, `reset`, `state` and `error`, each a CustomEvent with its `detail`. */
class Client extends EventTarget {
  /** @type {State} */
  #state;
  /** @type {Map<string, Position | null>} The topics that are wanted, and how far each has been read. */
  #topics = new Map();
  /** @type {Map<number | string, Request>} What waits for an answer, by ref: numbers for publishes, else words. */
  #requests = new Map();
  /** @type {Set<string>} The last messages without an offset. */
  #ids = new Set();
  /** @type {Link | null} */
  #link = null;
  #ref = 0;
  #failures = 0;
  #onlineSince = Infinity;
  /** @type {*} The next attempt, or the end of patience with this connection. */
  #timer;

  /** @type {Link | null} By a better way, while that is tried beside the one that works. */
  #spare = null;
  /** @type {*} The next trial, or the end of patience with this one. */
  #later;
  #trials = 0;
  #misses = 0;
  #turns = 0; // From way to way, without getting through.

  #options;
  #defaults;
  /** @type {Way[]} */
  #ways;
  /** @type {Way} The way of this attempt, */
  #way;
  #next; // and that of the next one.

  constructor(/** @type {Options} */ options) {
    super();
    const { topics, transports } = options;
    this.#options = options;
    this.#defaults = !topics; // Until the server's `welcome` has named them.
    this.#ways = (transports ?? [...TRANSPORTS.keys()]).filter((way) => TRANSPORTS.has(way));
    if (!this.#ways.length) throw new TypeError("transports: websocket, stream, poll.");
    this.#way = this.#next = this.#ways.find((way) => way === memory()) ?? this.#ways[0];
    const named = Array.isArray(topics) ? topics.map((topic) => [topic, null]) : Object.entries(topics ?? {});
    for (const [topic, at] of named) this.#topics.set(topic, position(at));
    this.#state = { state: "connecting", transport: this.#way };
    addEventListener("online", this.#hurry);
    document.addEventListener("visibilitychange", this.#hurry);
    queueMicrotask(() => this.#open()); // Not before the page could add its listeners.
  }

  get state() {
    return this.#state;
  }

  /**
   * Publishes, as soon as the connection is there, and resolves with the server's answer once it is stored. Rejects
   * with the server's code, or `timeout` or `connection_lost` (it may be stored all the same), `busy`, `closed`.
   * @param {string} topic
   * @param {*} data
   * @param {string} [type]
   * @returns {Promise<{id: string, topic: string, epoch: string, offset: number}>}
   */
  publish(topic, data, type) {
    return this.#request(++this.#ref, { action: "publish", topic, data, type });
  }

  /**
   * Adds a topic, from now or from a position. It stays wanted over reconnects, even when this promise has timed
   * out, until the server refuses it.
   * @param {string} topic
   * @param {Position} [since]
   * @returns {Promise<{topic: string, epoch: string | null, offset: number, recovered: boolean}>}
   */
  subscribe(topic, since) {
    if (!this.#topics.has(topic) && this.#topics.size >= MAX_TOPICS) return refused("busy", "Too many topics.");
    this.#topics.set(topic, position(since) ?? this.#topics.get(topic) ?? null);
    return this.#request(`subscribe ${topic}`, this.#subscription(topic));
  }

  /** @param {string} topic @returns {Promise<object>} */
  unsubscribe(topic) {
    this.#topics.delete(topic);
    return this.#request(`unsubscribe ${topic}`, { action: "unsubscribe", topic });
  }

  /** Ends the connection for good. */
  close() {
    this.#stop(1000, "Closed by the page.");
  }

  async #open() {
    if (this.#state.state === "closed") return;
    this.#await(null);
    this.#way = this.#next;
    this.#become({ state: "connecting" });
    try {
      const token = await this.#getToken();
      if (this.#state.state === "closed") return;
      this.#link = this.#dial(this.#way, token);
      this.#await(() => this.#lost(0, "The server does not answer."), PATIENCE);
    } catch (error) {
      this.#emit("error", new FanfareError("no_connection", error?.message));
      this.#lost(0, "No credential, or no way to connect.");
    }
  }

  async #getToken() {
    const { token, getToken } = this.#options;
    return (getToken ? await inTime(getToken()) : token) ?? "";
  }

  /** Only the link in use is listened to, and a spare one until it has answered. @returns {Link} */
  #dial(/** @type {Way} */ way, /** @type {string} */ token, spare = false) {
    /** @type {Link | null} */
    let link = null;
    const inUse = () => link !== null && link === this.#link;
    link = /** @type {Transport} */ (TRANSPORTS.get(way))(this.#url(), token, {
      frame: (frame) => {
        if (link === this.#spare && frame?.event === "welcome") this.#improve(way);
        if (inUse()) this.#receive(frame);
      },
      closed: (code, reason, wait) => {
        if (inUse()) this.#lost(code, reason, wait);
        else if (link === this.#spare) this.#plan();
      },
      answer: (ref, answer) => this.#settle(ref, answer),
      wants: () => this.#wants(spare && !inUse()),
      getToken: () => this.#getToken(),
    });
    return link;
  }

  #url() {
    return new URL(this.#options.url ?? "/ws/", location.href);
  }

  /** A spare link wants nothing yet: while it is tried, the positions move on. */
  #wants(/** @type {boolean} */ spare) {
    const names = spare ? [] : [...this.#topics.keys()];
    return { topics: new Map(names.map((topic) => [topic, this.#since(topic)])), defaults: this.#defaults };
  }

  #lost(/** @type {number} */ code, /** @type {string} */ reason, wait = 0) {
    if (this.#state.state === "closed") return;
    if (code >= 4500 && code <= 4999) return this.#stop(code, reason);
    if (this.#state.state === "connecting" && this.#link && code < 4000 && code !== 1012) this.#miss();
    this.#disconnect();
    this.#unsend();
    if (performance.now() - this.#onlineSince >= STAYED_UP) this.#failures = 0;
    this.#onlineSince = Infinity;
    const delay = wait + Math.random() * Math.min(BACKOFF_CAP, BACKOFF_BASE * 2 ** this.#failures++);
    this.#await(() => this.#open(), delay);
    this.#become({ state: "offline", retryAt: Date.now() + delay, code, reason });
  }

  /** What waits for an answer of this link. */
  #unsend() {
    for (const [ref, request] of this.#requests) {
      if (request.safe) continue;
      // What changes topics is asked again; of what was published nobody knows whether it arrived.
      if (request.sent && typeof ref === "number") {
        this.#settle(ref, new FanfareError("connection_lost", "The connection was lost before the answer came."));
      }
      request.sent = false;
    }
  }

  /** This way did not get through. When the server can be reached all the same, it is the way that is barred. */
  async #miss() {
    const way = this.#way;
    if (++this.#misses < MISSES || !(await isThere(this.#url())) || this.#misses < MISSES) return;
    this.#misses = 0;
    this.#failures = ++this.#turns;
    this.#next = this.#ways[(this.#ways.indexOf(way) + 1) % this.#ways.length];
  }

  /** On a lesser way: tries the better ones after a while, one after the other. */
  #plan() {
    this.#forgetSpare();
    const better = this.#ways.slice(0, this.#ways.indexOf(this.#way));
    if (!better.length) return (this.#trials = 0);
    const delay = Math.min(BETTER_CAP, BETTER * 2 ** this.#trials);
    this.#later = setTimeout(() => this.#try(better[this.#trials++ % better.length]), delay);
  }

  async #try(/** @type {Way} */ way) {
    const trial = (this.#later = setTimeout(() => this.#plan(), PATIENCE));
    const token = await this.#getToken().catch(() => null);
    if (token !== null && trial === this.#later) this.#spare = this.#dial(way, token, true);
  }

  /** The better way has answered: it is the way now, and goes on from the positions as they are. */
  #improve(/** @type {Way} */ way) {
    const link = this.#spare;
    this.#spare = null; // Not to be closed with the old one.
    this.#disconnect();
    this.#unsend();
    this.#link = link;
    this.#way = way;
    this.#state = { ...this.#state, state: "connecting" };
  }

  #forgetSpare() {
    clearTimeout(this.#later);
    this.#later = null;
    this.#spare?.close();
    this.#spare = null;
  }

  #stop(/** @type {number} */ code, /** @type {string} */ reason) {
    if (this.#state.state === "closed") return;
    this.#disconnect();
    removeEventListener("online", this.#hurry);
    document.removeEventListener("visibilitychange", this.#hurry);
    this.#become({ state: "closed", code, reason });
    for (const ref of this.#requests.keys()) this.#settle(ref, new FanfareError("closed", reason));
  }

  #disconnect() {
    this.#await(null);
    this.#forgetSpare();
    const link = this.#link;
    this.#link = null; // What the old link still says counts no more: its `close` may take minutes.
    link?.close();
  }

  /** The network is back, or somebody looks: wait no longer, and doubt a connection that looks alive. */
  #hurry = (/** @type {Event} */ { type }) => {
    if (type !== "online" && document.visibilityState === "hidden") return;
    if (this.#state.state === "offline") this.#open();
    if (this.#state.state === "online") this.#probe();
  };

  /** Asks for a sign of life: browsers do not show the server's own pings to a page. */
  #probe() {
    this.#await(() => this.#lost(0, "The server has gone silent."), PATIENCE);
    this.#link?.send('{"action":"ping"}');
  }

  /** There is one thing at a time that the connection waits for. */
  #await(/** @type {(() => void) | null} */ then, delay = 0) {
    clearTimeout(this.#timer);
    if (then) this.#timer = setTimeout(then, delay);
  }

  #receive(/** @type {*} */ frame) {
    if (this.#state.state === "online") this.#await(() => this.#probe(), QUIET);
    const { event, ...detail } = frame ?? {};
    if (event === "welcome") this.#welcome(detail);
    else if (event === "message") this.#isNew(detail) && this.#emit("message", detail);
    else if (event === "recalled") this.#isRecall(detail) && this.#emit("recalled", detail);
    else if (event === "reset") this.#move(detail, true);
    else if (event === "subscribed") this.#move(detail, detail.recovered === false);
    else if (event === "unsubscribed") this.#left(detail);
    else if (event === "ok") this.#settle(detail.ref, detail);
    else if (event === "error") this.#refuse(detail);
  }

  #welcome(/** @type {*} */ { topics }) {
    if (this.#state.state !== "connecting") return;
    const joined = new Set();
    for (const [topic, at] of Object.entries(topics ?? {})) {
      const wanted = this.#topics.has(topic) || (this.#defaults && this.#topics.size < MAX_TOPICS);
      if (!wanted || !position(at) || this.#topics.get(topic)) continue;
      this.#topics.set(topic, position(at));
      joined.add(topic);
    }
    this.#defaults = false;
    this.#misses = this.#turns = 0;
    this.#next = this.#way;
    this.#onlineSince = performance.now();
    this.#await(() => this.#probe(), QUIET);
    for (const topic of this.#topics.keys()) {
      const ref = `subscribe ${topic}`;
      if (!joined.has(topic)) this.#send(ref, JSON.stringify({ ...this.#subscription(topic), ref }));
      else this.#settle(ref, { topic, ...this.#topics.get(topic), recovered: true });
    }
    for (const [ref, { sent, text }] of this.#requests) sent || this.#send(ref, text);
    memory(this.#way);
    this.#plan();
    this.#become({ state: "online" });
  }

  /** Moves on past a message. False for one that was here already, or that is none. */
  #isNew(/** @type {*} */ { topic, offset, id }) {
    if (!this.#topics.has(topic) || typeof id !== "string") return false;
    if (offset === null) {
      if (this.#ids.has(id)) return false;
      this.#ids.add(id);
      if (this.#ids.size > MAX_IDS) this.#ids.delete(`${this.#ids.values().next().value}`);
      return true;
    }
    const { epoch = null, offset: last = 0 } = this.#topics.get(topic) ?? {};
    if (!position({ epoch, offset }) || offset <= last) return false;
    this.#topics.set(topic, { epoch, offset });
    return true;
  }

  #isRecall(/** @type {*} */ { topic, id }) {
    return this.#topics.has(topic) && typeof id === "string";
  }

  /** The server says where we are now, and whether something is lost. */
  #move(/** @type {*} */ detail, /** @type {boolean} */ lost) {
    const { topic, ref } = detail;
    const to = position(detail);
    if (to && this.#topics.has(topic)) {
      const at = this.#topics.get(topic);
      if (!lost && at && (at.epoch ?? to.epoch) === to.epoch) to.offset = Math.max(to.offset, at.offset);
      this.#topics.set(topic, to);
      if (lost) this.#emit("reset", { topic, ...to });
    }
    this.#settle(ref, detail);
  }

  #left(/** @type {*} */ detail) {
    const { topic, ref } = detail;
    const asked = this.#settle(ref, detail);
    if (this.#requests.has(`subscribe ${words(topic)}`)) return; // Wanted again meanwhile.
    if (this.#topics.delete(topic) && !asked) {
      this.#emit("error", new FanfareError("unsubscribed", `The server has ended ${topic}.`));
    }
  }

  #refuse(/** @type {*} */ { ref, code, message }) {
    const error = new FanfareError(code, message);
    if (typeof ref === "string" && ref.startsWith("subscribe ")) {
      if (PASSING.has(code)) return this.#lost(0, error.message); // The topic is asked for again.
      this.#topics.delete(ref.slice(10));
    }
    if (!this.#settle(ref, error)) this.#emit("error", error);
  }

  #subscription(/** @type {string} */ topic) {
    return { action: "subscribe", topic, since: this.#since(topic) };
  }

  #since(/** @type {string} */ topic) {
    const at = this.#topics.get(topic);
    // Without an epoch the topic was empty when we came: from its beginning; what we have seen is dropped here.
    return at?.epoch === null ? { epoch: null, offset: 0 } : (at ?? undefined);
  }

  /** @returns {Promise<*>} */
  #request(/** @type {number | string} */ ref, /** @type {object} */ frame) {
    if (this.#state.state === "closed") return refused("closed", `${this.#state.reason}`);
    this.#settle(ref, new FanfareError("superseded", "Asked for again."));
    if (this.#requests.size >= MAX_REQUESTS) return refused("busy", "Too many requests wait for an answer.");
    return new Promise((resolve, reject) => {
      const text = JSON.stringify({ ...frame, ref });
      const expire = () => this.#settle(ref, new FanfareError("timeout", "The server has not answered in time."));
      this.#requests.set(ref, { text, resolve, reject, sent: false, safe: false, timer: setTimeout(expire, PATIENCE) });
      if (this.#state.state === "online") this.#send(ref, text);
    });
  }

  #send(/** @type {number | string} */ ref, /** @type {string} */ text) {
    const request = this.#requests.get(ref);
    if (request) request.sent = true;
    const safe = this.#link?.send(text) === true;
    if (request) request.safe = safe;
  }

  /** Ends a request with its answer. False when nobody waits for it. */
  #settle(/** @type {*} */ ref, /** @type {*} */ answer) {
    const request = this.#requests.get(ref);
    if (!request) return false;
    clearTimeout(request.timer);
    this.#requests.delete(ref);
    if (answer instanceof FanfareError) request.reject(answer);
    else request.resolve(answer);
    return true;
  }

  #become(/** @type {Omit<State, "transport">} */ state) {
    this.#state = { ...state, transport: this.#way };
    this.#emit("state", this.#state);
  }

  #emit(/** @type {string} */ name, /** @type {*} */ detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** @type {Transport} */
function webSocket(url, token, on) {
  const { topics, defaults } = on.wants();
  url.protocol = url.protocol.replace("http", "ws");
  // A topic with a position is subscribed after `welcome`, from there.
  const fresh = [...topics.keys()].filter((topic) => !topics.get(topic));
  if (!defaults) url.searchParams.set("topics", fresh.join());
  const socket = new WebSocket(url, ["fanfare.v1", ...(token ? [`bearer.${token}`] : [])]);
  socket.onmessage = ({ data }) => on.frame(parsed(data));
  socket.onclose = ({ code, reason }) => on.closed(code, reason);
  return socket;
}

/** Server-sent events, by `fetch`: an `EventSource` cannot set headers. @type {Listen} */
async function stream(requests, signal) {
  let rest = "";
  let data = "";
  await read(await requests.get("stream", signal), (text) => {
    requests.alive();
    const lines = (rest + text).split(/\r?\n/);
    rest = `${lines.pop()}`;
    bounded(rest + data);
    for (const line of lines) {
      const [, field, value] = /^(data|id): ?(.*)/.exec(line) ?? [];
      if (field === "data") data += value;
      else if (field) requests.place(value, signal);
      if (line || !data) continue;
      requests.event(parsed(data), signal);
      data = "";
    }
  });
  throw new Refusal(1006, "The stream has ended.");
}

/** The first poll is answered at once. @type {Listen} */
async function poll(requests, signal) {
  for (let wait = 0; ; wait = WAIT) {
    requests.answer(parsed(await bodyOf(await requests.get("poll", signal, wait))), signal);
    await pause(PACE);
  }
}

/**
 * Requests that look like a socket to the client. Nothing can be sent along one that listens: for other topics there is
 * a new one, from the client's positions.
 * @implements {Link}
 */
class Requests {
  #abort = new AbortController();
  #welcomed = false;
  #heard = Date.now();
  /** @type {Topics} What is asked for, until it is answered. */
  #asked = new Map();
  /** @type {Topics} */
  #topics = new Map();
  /** @type {*[]} Why topics are refused, in the order of the topics. */
  #refusals = [];

  #listen;
  #url;
  #token;
  #on;

  constructor(/** @type {Listen} */ listen, /** @type {Parameters<Transport>} */ [url, token, on]) {
    url.protocol = url.protocol.replace("ws", "http");
    this.#listen = listen;
    this.#url = url;
    this.#token = token;
    this.#on = on;
    this.#again();
  }

  send(/** @type {string} */ text) {
    const { action, ref, topic, since, ...message } = JSON.parse(text);
    if (action === "publish") return this.#publish(ref, topic, message);
    const isAsked = this.#asked.has(topic) && JSON.stringify(this.#asked.get(topic)) === JSON.stringify(since);
    if (action === "ping" && Date.now() - this.#heard < SILENT) this.#on.frame();
    else if (action !== "subscribe" || !isAsked) this.#again();
    if (action === "unsubscribe") this.#on.frame({ event: "unsubscribed", topic, ref });
  }

  close() {
    this.#abort.abort();
  }

  alive() {
    this.#heard = Date.now();
    this.#on.frame();
  }

  /** Asks for what the client wants now. `wait`: for a poll. */
  get(/** @type {string} */ name, /** @type {AbortSignal} */ signal, wait = -1) {
    const { topics, defaults } = this.#on.wants();
    const place = placeOf(topics);
    const isPoll = wait >= 0;
    this.#topics = topics;
    this.#asked = new Map(defaults || wait > 0 ? [] : topics);
    this.#refusals = [];
    const query = { ...(!defaults && { topics: [...topics.keys()].join() }), ...(isPoll && { wait: `${wait}` }) };
    const headers = !isPoll && place && { "Last-Event-ID": place };
    return this.#fetch(name, { ...query, ...(isPoll && place && { since: place }) }, { headers, signal });
  }

  /** The answer to a poll, told as a stream would. */
  answer(/** @type {*} */ answer, /** @type {AbortSignal} */ signal) {
    const { events, since } = answer ?? {};
    const places = placed(since);
    if (!Array.isArray(events) || !places) throw new Refusal(0, "This is no answer to a poll.");
    this.alive();
    const fresh = [...places].filter(([topic]) => !this.#topics.get(topic));
    const starts = fresh.map(([topic, at]) => {
      const first = events.find((event) => event?.topic === topic && event.offset > 0);
      return [topic, first ? { ...at, offset: first.offset - 1 } : at];
    });
    this.event({ event: "welcome", topics: Object.fromEntries(starts) }, signal);
    for (const event of events) this.event(event, signal);
    this.place(since, signal);
  }

  /** An event, told as a socket would. */
  event(/** @type {*} */ frame, /** @type {AbortSignal} */ signal) {
    if (signal.aborted) return;
    const { event, topic, topics, code, reason } = frame ?? {};
    if (event === "closed") this.#on.closed(Number.isInteger(code) ? code : 1006, words(reason));
    else if (event === "error" && this.#asked.size) this.#refusals.push(frame);
    else if (event === "subscribed") this.#on.frame({ ...frame, ref: `subscribe ${words(topic)}` });
    else if (event !== "welcome") this.#on.frame(frame);
    else if (this.#welcomed) this.#subscribed(Object.entries(topics ?? {}), signal);
    else {
      this.#welcomed = true;
      this.#on.frame(frame);
    }
  }

  /** Where the server says that we are. What was asked for and is not there is refused. */
  place(/** @type {unknown} */ text, /** @type {AbortSignal} */ signal) {
    const places = placed(text);
    if (!places) return;
    const missing = [...this.#asked.keys()].filter((topic) => !places.has(topic));
    this.#asked.clear();
    this.#subscribed([...places], signal);
    this.#refuse(missing, signal);
  }

  #subscribed(/** @type {[string, *][]} */ places, /** @type {AbortSignal} */ signal) {
    for (const [topic, at] of places) this.event({ event: "subscribed", topic, ...at, recovered: true }, signal);
  }

  #refuse(/** @type {string[]} */ topics, /** @type {AbortSignal} */ signal) {
    const last = this.#refusals.at(-1);
    if (!last) return;
    for (const topic of topics) this.event({ ...(this.#refusals.shift() ?? last), ref: `subscribe ${topic}` }, signal);
  }

  /** A new request takes the place of the one that listens. */
  #again() {
    this.#abort.abort();
    const { signal } = (this.#abort = new AbortController());
    queueMicrotask(() => signal.aborted || this.#listen(this, signal).catch((error) => this.#failed(error, signal)));
  }

  #failed(/** @type {*} */ { close = 0, code, message, wait }, /** @type {AbortSignal} */ signal) {
    if (signal.aborted) return;
    const topics = [...this.#asked.keys()];
    if (!ABOUT_TOPICS.has(code) || !topics.length) return this.#on.closed(close, message, wait);
    // None of the topics may be had: as on a socket, that is no reason to go.
    this.event({ event: "welcome" }, signal);
    this.#asked.clear();
    this.#refusals = [{ event: "error", code, message }];
    this.#refuse(topics, signal);
    if (!signal.aborted) this.#again();
  }

  /** Asks until there is an answer or nobody waits any more; the key makes the server store it once. */
  #publish(/** @type {unknown} */ ref, /** @type {string} */ topic, /** @type {object} */ message) {
    const [, kind = "", key = true] = /^(?:(user|account|topic)\.(.+)|all)$/s.exec(topic) ?? [];
    const id = crypto.getRandomValues(new Uint32Array(4)).join("-");
    const headers = { "Content-Type": "application/json", "Idempotency-Key": id };
    const body = JSON.stringify({ to: { [kind || topic]: key }, ...message });
    const until = Date.now() + PATIENCE;
    const ask = async () => {
      try {
        const signal = AbortSignal.timeout(PATIENCE / 3);
        const reply = await this.#fetch("notifications", {}, { method: "POST", headers, body, signal });
        this.#on.answer(ref, { ref, ...parsed(await bodyOf(reply)) });
      } catch (/** @type {*} */ error) {
        if (error.close >= 4500) return this.#on.answer(ref, error);
        if (error.close === EXPIRED) this.#token = await this.#on.getToken().catch(() => this.#token);
        await pause((error.wait ?? 0) + BACKOFF_BASE * (0.5 + Math.random()));
        if (Date.now() < until) ask();
      }
    };
    ask();
    return true;
  }

  /** @param {string} name @param {Record<string, string>} query @param {*} options @returns {Promise<Response>} */
  async #fetch(name, query, { headers, ...options }) {
    const url = new URL(`../api/${name}?${new URLSearchParams(query)}`, this.#url);
    const authorization = this.#token && { Authorization: `Bearer ${this.#token}` };
    const reply = await fetch(url, { ...options, headers: { ...headers, ...authorization }, cache: "no-store" });
    if (reply.ok) return reply;
    const { code, message } = parsed(await bodyOf(reply))?.error ?? {};
    if (!words(code)) throw new Refusal(0, `Somebody answered ${reply.status}.`); // Not our server.
    const wait = Math.min(Number(reply.headers.get("Retry-After")) || 0, 300) * 1000;
    throw new Refusal(closeCode(reply.status, words(message)), message, code, wait);
  }
}

/** @type {Map<string, Transport>} Best first. */
const TRANSPORTS = new Map([
  ["websocket", webSocket],
  ["stream", (...given) => new Requests(stream, given)],
  ["poll", (...given) => new Requests(poll, given)],
]);

/**
 * @typedef {object} Request
 * @property {string} text
 * @property {boolean} sent
 * @property {boolean} safe  Sent, and the answer does not depend on the link.
 * @property {(answer: *) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {*} timer
 */

/** Why there is no answer; `close` is the code that a socket would close with, or 0. */
class Refusal extends FanfareError {
  constructor(/** @type {number} */ close, /** @type {unknown} */ message, code = "", wait = 0) {
    super(code, message);
    this.close = close;
    this.wait = wait;
  }
}

function closeCode(/** @type {number} */ status, /** @type {string} */ message) {
  if (status === 401 && message.includes("has expired")) return EXPIRED;
  if ([401, 403].includes(status)) return 4501;
  if ([409, 429, 503].includes(status)) return 4410;
  return [400, 413, 415, 422].includes(status) ? 4500 : 0;
}

async function read(/** @type {*} */ reply, /** @type {(text: string) => void} */ take) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part; !(part = await reader.read()).done; ) take(part.value);
}

async function bodyOf(/** @type {Response} */ reply) {
  let body = "";
  await read(reply, (text) => bounded((body += text)));
  return body;
}

function bounded(/** @type {string} */ text) {
  if (text.length > MAX_TEXT) throw new Refusal(0, "The server says too much at once.");
}

/** The server's text for positions; empty without any. */
function placeOf(/** @type {Topics} */ topics) {
  const known = [...topics].flatMap(([topic, at]) => (at ? [[topic, [at.epoch, at.offset]]] : []));
  if (!known.length) return "";
  const bytes = [...new TextEncoder().encode(JSON.stringify(Object.fromEntries(known)))];
  return btoa(bytes.map((byte) => String.fromCharCode(byte)).join("")).replaceAll("+", "-").replaceAll("/", "_");
}

/** The positions in such a text. @returns {Map<string, Position> | null} */
function placed(/** @type {unknown} */ text) {
  try {
    const bytes = [...atob(words(text).replaceAll("-", "+").replaceAll("_", "/"))].map((byte) => byte.charCodeAt(0));
    const places = Object.entries(parsed(new TextDecoder().decode(Uint8Array.from(bytes))));
    return new Map(places.map(([topic, [epoch, offset]]) => [topic, position({ epoch, offset })]).filter(([, at]) => at));
  } catch {
    return null;
  }
}

/** Whether the server can be reached, by whatever way. */
function isThere(/** @type {URL} */ url) {
  url.protocol = url.protocol.replace("ws", "http");
  const reply = fetch(new URL("../livez", url), { mode: "no-cors", signal: AbortSignal.timeout(PATIENCE) });
  return reply.then(({ status }) => status < 500).catch(() => false);
}

/** The way that worked, for the session's other pages. */
function memory(/** @type {Way | undefined} */ way) {
  try {
    if (way) sessionStorage.setItem("fanfare.transport", way);
    return sessionStorage.getItem("fanfare.transport");
  } catch {
    return null; // Not every page may.
  }
}

function pause(/** @type {number} */ delay) {
  return new Promise((resolve) => setTimeout(resolve, delay));
}

/** The JSON in a text, or undefined. @returns {*} */
function parsed(/** @type {*} */ text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The position that a value is, or null. @returns {Position | null} */
function position(/** @type {*} */ value) {
  const { epoch, offset } = value ?? {};
  const valid = (epoch === null || typeof epoch === "string") && Number.isSafeInteger(offset) && offset >= 0;
  return valid ? { epoch, offset } : null;
}

/** Text where text was promised: anything else might throw when it is made into some. */
function words(/** @type {unknown} */ value) {
  return typeof value === "string" ? value : "";
}

/** @returns {Promise<never>} */
function refused(/** @type {string} */ code, /** @type {string} */ message) {
  return Promise.reject(new FanfareError(code, message));
}

/** @template T @param {T | Promise<T>} answer @returns {Promise<T>} */
function inTime(answer) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new FanfareError("timeout", "getToken took too long.")), PATIENCE);
    Promise.resolve(answer).then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
