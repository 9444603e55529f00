/**
 * The browser client of Fanfare: one live connection that comes back by itself and goes on where it stopped.
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
 *
 * Where a WebSocket does not get through, server-sent events take its place, then long poll, with the same promises.
 *
 * @typedef {{epoch: string | null, offset: number}} Position  A place in a topic; epoch null: nothing there yet.
 *
 * @typedef {object} Options
 * @property {string | URL} [url]  Where the socket is: `/ws/` on this host unless given; `../api/` is beside it.
 * @property {string} [token]  A credential for every attempt; or
 * @property {() => string | Promise<string>} [getToken]  gets a fresh one before each. Without: the page's session.
 * @property {string[] | Record<string, Position | null>} [topics]  Instead of the server's default topics; with a
 *   position, what came after it is sent first.
 * @property {Way[]} [transports]  The ways to try, best first; all three unless given.
 *
 * @typedef {"websocket" | "stream" | "poll"} Way
 *
 * @typedef {object} Message  `detail` of `message`.
 * @property {string} topic
 * @property {number | null} offset  null: not stored, seen only by who is connected.
 * @property {string} id
 * @property {string} type
 * @property {*} data
 * @property {string} created_at
 * @property {string} [expires_at]
 * @property {string} [sender]  The user who published it, set by the server; absent when an application did.
 *
 * @typedef {object} State  `detail` of `state`, and `client.state`.
 * @property {"connecting" | "online" | "offline" | "closed"} state  After `closed` nothing more comes.
 * @property {Way} transport  The way that this is about.
 * @property {number} [retryAt]  offline: when the next attempt is due, in milliseconds since 1970.
 * @property {number} [code]  offline, closed: the close code; 0 where the client gave up the connection itself.
 * @property {string} [reason]  offline, closed: in words.
 *
 * @callback Transport  Opens one connection.
 * @param {URL} url  Of the socket.
 * @param {string} token
 * @param {Ears} on
 * @returns {Link}
 *
 * @typedef {object} Link
 * @property {(text: string) => unknown} send  Takes one JSON frame. True when its answer will come by `on.answer`.
 * @property {() => void} close
 *
 * @typedef {object} Ears  What a transport tells, and asks. After `closed` nobody listens to the connection any more.
 * @property {(frame: *) => void} frame
 * @property {() => void} alive  There was a sign of life.
 * @property {(code: number, reason: string, wait?: number) => void} closed  `wait`: milliseconds until it may return.
 * @property {(ref: unknown, answer: object) => void} answer  Counts also when the connection is gone.
 * @property {() => Wants} wants
 * @property {() => Promise<string>} token  Gets a fresh credential.
 *
 * @typedef {{topics: Map<string, Position | undefined>, defaults: boolean}} Wants  The topics, and from where;
 *   `defaults`: those that the server chooses, too.
 */

const BACKOFF_BASE = 500; // Milliseconds, like all times here.
const BACKOFF_CAP = 30_000;
const STAYED_UP = 10_000; // A connection that lived this long starts the back-off anew.
const QUIET = 30_000;
const PATIENCE = 10_000;
const MISSES = 2; // Attempts in a row that get no answer, before another way is tried.
const BETTER = 15_000; // After that a better way is tried again, then after twice as long,
const BETTER_CAP = 300_000; // up to this.
const SILENT = 20_000; // A stream says something every 15 s.
const WAIT = 25; // Seconds that a poll waits.
const PACE = 100; // Between two polls.
const PASSING = new Set(["busy", "unavailable"]); // What the server refuses only for now.
const ABOUT_TOPICS = new Set(["denied", "malformed_topic"]);
const UNAVAILABLE = 4410; // Close codes, as the socket has them.
const TOKEN_EXPIRED = 4401;
const BAD_FRAMES = 4500;
const UNAUTHENTICATED = 4501;
const MAX_TOPICS = 1000;
const MAX_REQUESTS = 100;
const MAX_IDS = 1000;
const MAX_TEXT = 4_194_304; // Characters of an event or a reply.
const MEMORY = "fanfare.transport"; // In the session's storage: the way that worked.

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

/** @type {{link: Link | null, way?: Way, timer?: *}} */
const NO_SPARE = { link: null };

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
  /** @type {ReturnType<Transport> | null} */
  #link = null;
  #ref = 0;
  #failures = 0;
  #onlineSince = Infinity;
  /** @type {*} The next attempt, or the end of patience with this connection. */
  #timer;

  #spare = NO_SPARE; // A better way, while it is tried beside the one that works.
  /** @type {*} When a better way will be tried. */
  #later;
  #trials = 0;
  #misses = 0;

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
    this.#way = this.#next = this.#ways.find((way) => way === remembered()) ?? this.#ways[0];
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
      const token = await this.#credential();
      if (this.#state.state === "closed") return;
      this.#link = this.#dial(this.#way, token);
      this.#await(() => this.#lost(0, "The server does not answer."), PATIENCE);
    } catch (error) {
      this.#emit("error", new FanfareError("no_connection", error?.message));
      this.#lost(0, "No credential, or no way to connect.");
    }
  }

  async #credential() {
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
        if (frame?.event === "welcome" && link === this.#spare.link) this.#improve();
        if (inUse()) this.#receive(frame);
      },
      alive: () => inUse() && this.#alive(),
      closed: (code, reason, wait) => {
        if (inUse()) this.#lost(code, reason, wait);
        else if (link === this.#spare.link) this.#dropSpare();
      },
      answer: (ref, answer) => this.#settle(ref, answer),
      wants: () => this.#wants(spare && !inUse()),
      token: () => this.#credential(),
    });
    return link;
  }

  #url() {
    return new URL(this.#options.url ?? "/ws/", location.href);
  }

  /** A spare link wants nothing yet: while it is tried, the positions move on. @returns {Wants} */
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
    this.#next = this.#ways[(this.#ways.indexOf(way) + 1) % this.#ways.length];
  }

  /** On a lesser way: tries the better ones after a while, one after the other. */
  #plan() {
    clearTimeout(this.#later);
    const better = this.#ways.slice(0, this.#ways.indexOf(this.#way));
    if (!better.length) this.#trials = 0;
    else this.#later = setTimeout(() => this.#try(better), Math.min(BETTER_CAP, BETTER * 2 ** this.#trials));
  }

  async #try(/** @type {Way[]} */ better) {
    const way = better[this.#trials++ % better.length];
    this.#plan();
    try {
      const token = await this.#credential();
      if (this.#state.state !== "online" || this.#spare.link || this.#way === way) return;
      this.#spare = { link: this.#dial(way, token, true), way, timer: setTimeout(() => this.#dropSpare(), PATIENCE) };
    } catch {
      // Another time.
    }
  }

  /** The better way has answered: it is the way now, and goes on from the positions as they are. */
  #improve() {
    const { link, way = this.#way } = this.#spare;
    this.#spare.link = null; // Not to be closed with the old one.
    this.#disconnect();
    this.#unsend();
    this.#link = link;
    this.#way = way;
    this.#state = { ...this.#state, state: "connecting" };
  }

  #dropSpare() {
    const { link, timer } = this.#spare;
    this.#spare = NO_SPARE;
    clearTimeout(timer);
    link?.close();
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
    clearTimeout(this.#later);
    this.#dropSpare();
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

  #alive() {
    if (this.#state.state === "online") this.#await(() => this.#probe(), QUIET);
  }

  #receive(/** @type {*} */ frame) {
    this.#alive();
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
    this.#misses = 0;
    this.#next = this.#way;
    this.#onlineSince = performance.now();
    this.#await(() => this.#probe(), QUIET);
    for (const topic of this.#topics.keys()) {
      const ref = `subscribe ${topic}`;
      if (!joined.has(topic)) this.#send(ref, JSON.stringify({ ...this.#subscription(topic), ref }));
      else this.#settle(ref, { topic, ...this.#topics.get(topic), recovered: true });
    }
    for (const [ref, { sent, text }] of this.#requests) sent || this.#send(ref, text);
    remember(this.#way);
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
  const address = new URL(url);
  address.protocol = url.protocol.replace("http", "ws");
  // A topic with a position is subscribed after `welcome`, from there.
  const fresh = [...topics.keys()].filter((topic) => !topics.get(topic));
  if (!defaults) address.searchParams.set("topics", fresh.join());
  const socket = new WebSocket(address, ["fanfare.v1", ...(token ? [`bearer.${token}`] : [])]);
  socket.onmessage = ({ data }) => on.frame(parsed(data));
  socket.onclose = ({ code, reason }) => on.closed(code, reason);
  return socket;
}

/** Server-sent events, read by `fetch`: an `EventSource` cannot set headers. */
async function stream(/** @type {Requests} */ requests, /** @type {AbortSignal} */ signal) {
  const reply = await requests.get("stream", signal);
  const take = eventReader(
    (text) => requests.event(parsed(text), signal),
    (text) => requests.place(text, signal),
  );
  await read(reply, (text) => {
    requests.alive();
    take(text);
  });
  throw new Refusal(1006, "The stream has ended.");
}

/** The first poll, and one that asks for other topics, is answered at once. */
async function poll(/** @type {Requests} */ requests, /** @type {AbortSignal} */ signal) {
  for (let wait = 0; ; wait = WAIT) {
    requests.answer(parsed(await bodyOf(await requests.get("poll", signal, wait))), signal);
    await pause(PACE);
  }
}

/**
 * A connection of HTTP requests. Nothing can be sent along one that listens: for other topics it is made anew, from
 * the client's positions. To the client it looks like a socket.
 * @implements {Link}
 */
class Requests {
  #abort = new AbortController();
  #welcomed = false;
  #heard = Date.now();
  /** @type {Wants["topics"]} The positions that this request has sent. */
  #sent = new Map();
  /** @type {Map<string, string | undefined> | null} What it asks for; null once that is answered. */
  #asked = null;
  /** @type {*[]} Why topics are refused, in the order in which they were asked for. */
  #refusals = [];

  #listen;
  #url;
  #token;
  #on;

  /**
   * @param {(requests: Requests, signal: AbortSignal) => Promise<void>} listen
   * @param {URL} url
   * @param {string} token
   * @param {Ears} on
   */
  constructor(listen, url, token, on) {
    this.#listen = listen;
    this.#url = url;
    this.#token = token;
    this.#on = on;
    this.#again();
  }

  send(/** @type {string} */ text) {
    const { action, ref, topic, since, data, type } = JSON.parse(text);
    if (action === "publish") {
      const to = target(topic);
      if (to) this.#publish(ref, JSON.stringify({ to, data, type }));
      else this.#on.answer(ref, new FanfareError("denied", `Over HTTP nothing can be published to ${topic}.`));
      return true;
    }
    if (action === "ping" && Date.now() - this.#heard < SILENT) this.#on.alive();
    else if (action !== "subscribe" || !this.#isAsked(topic, since)) this.#again();
    if (action === "unsubscribe") this.#on.frame({ event: "unsubscribed", topic, ref });
    return false;
  }

  close() {
    this.#abort.abort();
  }

  alive() {
    this.#heard = Date.now();
    this.#on.alive();
  }

  /** Asks for what the client wants now. @returns {Promise<Response>} */
  async get(/** @type {string} */ name, /** @type {AbortSignal} */ signal, /** @type {number} */ wait = NaN) {
    const { topics, defaults } = this.#on.wants();
    const url = beside(this.#url, `api/${name}`);
    const place = placeOf(topics);
    /** @type {Record<string, string>} */
    const headers = {};
    if (!defaults) url.searchParams.set("topics", [...topics.keys()].join());
    if (wait >= 0) url.searchParams.set("wait", `${wait}`);
    if (wait >= 0 && place) url.searchParams.set("since", place);
    else if (place) headers["Last-Event-ID"] = place;
    if (!(wait > 0)) this.#asked = new Map(defaults ? [] : [...topics].map(([name, at]) => [name, JSON.stringify(at)]));
    this.#sent = topics;
    this.#refusals = [];
    const reply = await this.#fetch(url, { headers, signal }, this.#token);
    if (!reply.ok) throw await refusal(reply);
    return reply;
  }

  /** The answer to a poll, as a stream would have it. */
  answer(/** @type {*} */ answer, /** @type {AbortSignal} */ signal) {
    const { events, since } = answer ?? {};
    const at = placed(since);
    if (!Array.isArray(events) || !at) throw new Refusal(0, "This is no answer to a poll.");
    this.alive();
    for (const topic of at.keys()) if (this.#sent.get(topic)) at.delete(topic);
    this.event({ event: "welcome", topics: before(events, at) }, signal);
    for (const event of events) this.event(event, signal);
    this.place(since, signal);
  }

  /** An event of the server's, as a socket would have it. */
  event(/** @type {*} */ frame, /** @type {AbortSignal} */ signal) {
    if (signal.aborted) return;
    const { event, topic, topics, code, reason } = frame ?? {};
    if (event === "welcome" && this.#welcomed) this.#subscribed(topics, signal);
    else if (event === "closed") this.#on.closed(Number.isInteger(code) ? code : 1006, words(reason));
    else if (event === "error" && this.#asked) this.#refusals.push(frame);
    else if (event === "subscribed") this.#on.frame({ ...frame, ref: `subscribe ${words(topic)}` });
    else this.#on.frame(frame);
    if (event === "welcome") this.#welcomed = true;
  }

  /** Where the server says that the client is. The first place of a request also says which topics it got. */
  place(/** @type {unknown} */ text, /** @type {AbortSignal} */ signal) {
    const at = placed(text);
    if (!at) return;
    const missing = [...(this.#asked?.keys() ?? [])].filter((topic) => !at.has(topic));
    this.#asked = null;
    this.#subscribed(Object.fromEntries(at), signal);
    this.#refuse(missing, signal);
  }

  #subscribed(/** @type {*} */ topics, /** @type {AbortSignal} */ signal) {
    for (const [topic, at] of Object.entries(topics ?? {})) {
      this.event({ event: "subscribed", topic, ...at, recovered: true }, signal);
    }
  }

  #refuse(/** @type {string[]} */ topics, /** @type {AbortSignal} */ signal) {
    const [last = { event: "error", code: "denied", message: "Refused." }] = this.#refusals.slice(-1);
    for (const topic of topics) {
      this.event({ ...(this.#refusals.shift() ?? last), ref: `subscribe ${topic}` }, signal);
    }
  }

  #isAsked(/** @type {string} */ topic, /** @type {unknown} */ since) {
    return this.#asked?.has(topic) && this.#asked.get(topic) === JSON.stringify(since);
  }

  /** What the request before has not said yet, the new one says: the client's positions know no better. */
  #again() {
    this.#abort.abort();
    const { signal } = (this.#abort = new AbortController());
    queueMicrotask(() => signal.aborted || this.#listen(this, signal).catch((error) => this.#failed(error, signal)));
  }

  #failed(/** @type {*} */ error, /** @type {AbortSignal} */ signal) {
    if (signal.aborted) return;
    const { code, why, message, wait } = error instanceof Refusal ? error : new Refusal(0, error?.message);
    const asked = [...(this.#asked?.keys() ?? [])];
    if (!ABOUT_TOPICS.has(why) || !asked.length) return this.#on.closed(code, message, wait);
    // None of the topics may be had: as on a socket, that is no reason to go.
    this.event({ event: "welcome", topics: {} }, signal);
    this.#asked = null;
    this.#refusals = [{ event: "error", code: why, message }];
    this.#refuse(asked, signal);
    if (!signal.aborted) this.#again();
  }

  /** Until it is answered, or nobody waits any more. The key makes the server store it once, however often it comes. */
  async #publish(/** @type {unknown} */ ref, /** @type {string} */ body) {
    const key = Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
    const until = Date.now() + PATIENCE;
    let token = this.#token;
    for (let failures = 0; Date.now() < until; failures++) {
      let wait = 0;
      try {
        const signal = AbortSignal.timeout(PATIENCE / 3);
        const url = beside(this.#url, "api/notifications");
        const reply = await this.#fetch(url, { method: "POST", headers, body, signal }, token);
        if (reply.ok) return this.#on.answer(ref, { ref, ...parsed(await bodyOf(reply)) });
        const refused = await refusal(reply);
        if (refused.code >= 4500) return this.#on.answer(ref, new FanfareError(refused.why, refused.message));
        if (refused.code === TOKEN_EXPIRED) token = await this.#on.token();
        wait = refused.wait;
      } catch {
        // Once more.
      }
      await pause(wait + Math.random() * BACKOFF_BASE * 2 ** failures);
    }
  }

  #fetch(/** @type {URL} */ url, /** @type {*} */ options, /** @type {string} */ token) {
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    return fetch(url, { ...options, headers, cache: "no-store" });
  }
}

/** @type {Map<string, Transport>} Best first. */
const TRANSPORTS = new Map([
  ["websocket", webSocket],
  ["stream", (url, token, on) => new Requests(stream, url, token, on)],
  ["poll", (url, token, on) => new Requests(poll, url, token, on)],
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

/** Why a request is not answered, with the close code that a socket would have; 0: nobody knows that it was heard. */
class Refusal extends Error {
  constructor(/** @type {number} */ code, /** @type {unknown} */ message, why = "", wait = 0) {
    super(words(message));
    this.code = code;
    this.why = why;
    this.wait = wait;
  }
}

/** What a reply that is not OK comes to. One that is not the server's own, but a proxy's, says nothing. */
async function refusal(/** @type {Response} */ reply) {
  const { status, headers } = reply;
  const { code: why, message } = parsed(await bodyOf(reply))?.error ?? {};
  const wait = Math.min(Number(headers.get("Retry-After")) || 0, 300) * 1000;
  let code = 0;
  if ([409, 429, 503].includes(status)) code = UNAVAILABLE;
  else if (status === 401 && /has expired/.test(words(message))) code = TOKEN_EXPIRED;
  else if (status === 401 || status === 403) code = UNAUTHENTICATED;
  else if ([400, 413, 415, 422].includes(status)) code = BAD_FRAMES;
  return words(why) ? new Refusal(code, message, why, wait) : new Refusal(0, `The server answered ${status}.`);
}

/** A text of the body's at a time. */
async function read(/** @type {Response} */ reply, /** @type {(text: string) => void} */ take) {
  const reader = /** @type {ReadableStream} */ (reply.body).pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    take(value);
  }
}

async function bodyOf(/** @type {Response} */ reply) {
  let body = "";
  await read(reply, (text) => {
    body += text;
    checkSize(body.length);
  });
  return body;
}

function checkSize(/** @type {number} */ size) {
  if (size > MAX_TEXT) throw new Refusal(0, "The server says too much at once.");
}

/**
 * Reads server-sent events as they come, in pieces of any size -> a function that takes a piece.
 * @param {(data: string) => void} event
 * @param {(id: string) => void} place
 */
function eventReader(event, place) {
  let rest = ""; // Of a line that has not ended yet.
  let afterReturn = false; // The line feed that belongs to it may come with the next piece.
  /** @type {string[]} */
  let data = [];
  /** @type {string | null} */
  let id = null;
  let size = 0;
  const end = () => {
    const [text, at] = [data, id];
    [data, id, size] = [[], null, 0];
    if (text.length) event(text.join("\n"));
    if (at !== null) place(at);
  };
  const take = (/** @type {string} */ line) => {
    if (!line) return end();
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (field === "data") data.push(value);
    else if (field === "id") id = value;
    if (field) checkSize((size += line.length));
  };
  return (/** @type {string} */ piece) => {
    if (!piece) return;
    const lines = (afterReturn && piece[0] === "\n" ? piece.slice(1) : piece).split(/\r\n|[\r\n]/);
    afterReturn = piece.endsWith("\r");
    lines[0] = rest + lines[0];
    rest = /** @type {string} */ (lines.pop());
    lines.forEach(take);
    checkSize(size + rest.length);
  };
}

/** The server's text for positions. Empty where there are none. */
function placeOf(/** @type {Wants["topics"]} */ topics) {
  const known = [...topics].flatMap(([topic, at]) => (at ? [[topic, [at.epoch, at.offset]]] : []));
  if (!known.length) return "";
  const ascii = JSON.stringify(Object.fromEntries(known)).replace(
    /[^ -~]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return btoa(ascii).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** The positions that such a text names; null when it is none. @returns {Map<string, Position> | null} */
function placed(/** @type {unknown} */ text) {
  try {
    const bytes = atob(words(text).replaceAll("-", "+").replaceAll("_", "/"));
    const places = JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0))));
    const found = new Map();
    for (const [topic, [epoch, offset]] of Object.entries(places)) {
      if (position({ epoch, offset })) found.set(topic, { epoch, offset });
    }
    return found;
  } catch {
    return null;
  }
}

/** The positions before some events, from those after them. */
function before(/** @type {*[]} */ events, /** @type {Map<string, Position>} */ after) {
  const first = new Map();
  for (const { topic, offset } of events.filter((event) => event?.event === "message" && event.offset > 0)) {
    if (!first.has(topic)) first.set(topic, offset - 1);
  }
  const places = [...after].map(([topic, at]) => [topic, { ...at, offset: first.get(topic) ?? at.offset }]);
  return Object.fromEntries(places);
}

/** `to` of a notification that goes to a topic. */
function target(/** @type {unknown} */ topic) {
  const [, kind, key] = /^(user|account|topic)\.(.+)$/s.exec(words(topic)) ?? [];
  if (kind) return { [kind]: key };
  return topic === "all" ? { all: true } : null;
}

/** Whether anything but a proxy's complaint comes from the server. */
function isThere(/** @type {URL} */ url) {
  const request = fetch(beside(url, "livez"), { mode: "no-cors", cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  return request.then(
    ({ status }) => status < 500,
    () => false,
  );
}

/** An HTTP address of the server that has the socket. */
function beside(/** @type {URL} */ socket, /** @type {string} */ path) {
  const url = new URL(`../${path}`, socket);
  url.protocol = url.protocol.replace("ws", "http");
  return url;
}

function remembered() {
  try {
    return sessionStorage.getItem(MEMORY);
  } catch {
    return null; // Not every page may.
  }
}

function remember(/** @type {Way} */ way) {
  try {
    sessionStorage.setItem(MEMORY, way);
  } catch {
    // The next page finds out by itself.
  }
}

function pause(/** @type {number} */ delay) {
  return new Promise((resolve) => setTimeout(resolve, delay));
}

/** The JSON that a text is; undefined when it is none. @returns {*} */
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
