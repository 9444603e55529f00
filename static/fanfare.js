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
 * @typedef {{epoch: string | null, offset: number}} Position  A place in a topic; epoch null: nothing there yet.
 *
 * @typedef {object} Options
 * @property {string | URL} [url]  Where the socket is: `/ws/` on this host unless given.
 * @property {string} [token]  A credential for every attempt; or
 * @property {() => string | Promise<string>} [getToken]  gets a fresh one before each. Without: the page's session.
 * @property {string[] | Record<string, Position | null>} [topics]  Instead of the server's default topics; with a
 *   position, what came after it is sent first.
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
 * @property {number} [retryAt]  offline: when the next attempt is due, in milliseconds since 1970.
 * @property {number} [code]  offline, closed: the close code; 0 where the client gave up the connection itself.
 * @property {string} [reason]  offline, closed: in words.
 *
 * @callback Transport  Opens one connection. `closed` ends it and is called once; `send` takes one JSON frame.
 * @param {URL} url
 * @param {string} token
 * @param {{frame: (text: unknown) => void, closed: (code: number, reason: string) => void}} on
 * @returns {{send: (text: string) => void, close: () => void}}
 */

const BACKOFF_BASE = 500; // Milliseconds, like all times here.
const BACKOFF_CAP = 30_000;
const STAYED_UP = 10_000; // A connection that lived this long starts the back-off anew.
const QUIET = 30_000;
const PATIENCE = 10_000;
const PASSING = new Set(["busy", "unavailable"]); // What the server refuses only for now.
const MAX_TOPICS = 1000;
const MAX_REQUESTS = 100;
const MAX_IDS = 1000;

/**
 * Connects, and stays connected until `close()` or until the server says not to come back.
 * @param {Options} [options]
 */
export function connect(options = {}) {
  return new Client(options, webSocket);
}

/** What a request is rejected with, and the `detail` of `error`; `code` is the server's, or one of those below. */
export class FanfareError extends Error {
  constructor(/** @type {unknown} */ code, /** @type {unknown} */ message) {
    super(words(message));
    this.name = "FanfareError";
    this.code = words(code);
  }
}

/** @type {Transport} */
function webSocket(url, token, on) {
  const socket = new WebSocket(url, ["fanfare.v1", ...(token ? [`bearer.${token}`] : [])]);
  socket.onmessage = ({ data }) => on.frame(data);
  socket.onclose = ({ code, reason }) => on.closed(code, reason);
  return socket;
}

/** Dispatches `message`, `recalled`, `reset`, `state` and `error`, each a CustomEvent with its `detail`. */
class Client extends EventTarget {
  /** @type {State} */
  #state = { state: "connecting" };
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

  #options;
  #transport;
  #defaults;

  constructor(/** @type {Options} */ options, /** @type {Transport} */ transport) {
    super();
    const { topics } = options;
    this.#options = options;
    this.#transport = transport;
    this.#defaults = !topics; // Until the server's `welcome` has named them.
    const named = Array.isArray(topics) ? topics.map((topic) => [topic, null]) : Object.entries(topics ?? {});
    for (const [topic, at] of named) this.#topics.set(topic, position(at));
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
    this.#become({ state: "connecting" });
    try {
      const { token, getToken } = this.#options;
      const credential = getToken ? await inTime(getToken()) : token;
      if (this.#state.state === "closed") return;
      const link = this.#transport(this.#url(), credential ?? "", {
        frame: (text) => link === this.#link && this.#receive(text),
        closed: (code, reason) => link === this.#link && this.#lost(code, reason),
      });
      this.#link = link;
      this.#await(() => this.#lost(0, "The server does not answer."), PATIENCE);
    } catch (error) {
      this.#emit("error", new FanfareError("no_connection", error?.message));
      this.#lost(0, "No credential, or no way to connect.");
    }
  }

  #url() {
    const url = new URL(this.#options.url ?? "/ws/", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    if (!this.#defaults) {
      // A topic with a position is subscribed after `welcome`, from there.
      const fresh = [...this.#topics.keys()].filter((topic) => !this.#topics.get(topic));
      url.searchParams.set("topics", fresh.join());
    }
    return url;
  }

  #lost(/** @type {number} */ code, /** @type {string} */ reason) {
    if (this.#state.state === "closed") return;
    if (code >= 4500 && code <= 4999) return this.#stop(code, reason);
    this.#disconnect();
    for (const [ref, request] of this.#requests) {
      // What changes topics is asked again; of what was published nobody knows whether it arrived.
      if (request.sent && typeof ref === "number") {
        this.#settle(ref, new FanfareError("connection_lost", "The connection was lost before the answer came."));
      }
      request.sent = false;
    }
    if (performance.now() - this.#onlineSince >= STAYED_UP) this.#failures = 0;
    this.#onlineSince = Infinity;
    const delay = Math.random() * Math.min(BACKOFF_CAP, BACKOFF_BASE * 2 ** this.#failures++);
    this.#await(() => this.#open(), delay);
    this.#become({ state: "offline", retryAt: Date.now() + delay, code, reason });
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

  #receive(/** @type {*} */ text) {
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
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
    this.#onlineSince = performance.now();
    this.#await(() => this.#probe(), QUIET);
    for (const topic of this.#topics.keys()) {
      const ref = `subscribe ${topic}`;
      if (!joined.has(topic)) this.#send(ref, JSON.stringify({ ...this.#subscription(topic), ref }));
      else this.#settle(ref, { topic, ...this.#topics.get(topic), recovered: true });
    }
    for (const [ref, { sent, text }] of this.#requests) sent || this.#send(ref, text);
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
    const at = this.#topics.get(topic);
    // Without an epoch the topic was empty when we came: from its beginning; what we have seen is dropped here.
    return { action: "subscribe", topic, since: at?.epoch === null ? { epoch: null, offset: 0 } : (at ?? undefined) };
  }

  /** @returns {Promise<*>} */
  #request(/** @type {number | string} */ ref, /** @type {object} */ frame) {
    if (this.#state.state === "closed") return refused("closed", `${this.#state.reason}`);
    this.#settle(ref, new FanfareError("superseded", "Asked for again."));
    if (this.#requests.size >= MAX_REQUESTS) return refused("busy", "Too many requests wait for an answer.");
    return new Promise((resolve, reject) => {
      const text = JSON.stringify({ ...frame, ref });
      const expire = () => this.#settle(ref, new FanfareError("timeout", "The server has not answered in time."));
      this.#requests.set(ref, { text, resolve, reject, sent: false, timer: setTimeout(expire, PATIENCE) });
      if (this.#state.state === "online") this.#send(ref, text);
    });
  }

  #send(/** @type {number | string} */ ref, /** @type {string} */ text) {
    const request = this.#requests.get(ref);
    if (request) request.sent = true;
    this.#link?.send(text);
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

  #become(/** @type {State} */ state) {
    this.#state = state;
    this.#emit("state", state);
  }

  #emit(/** @type {string} */ name, /** @type {*} */ detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/**
 * @typedef {object} Request
 * @property {string} text
 * @property {boolean} sent
 * @property {(answer: *) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {*} timer
 */

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
