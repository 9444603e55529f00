/**
 * The browser client of Fanfare: one live connection that comes back by itself and goes on where it stopped. Where a
 * WebSocket does not get through, it is an event stream, or else a long poll.
 *
 *     import { connect } from "/static/fanfare.js";
 *
 *     const client = connect({ getToken: () => fetch("/my/token").then((reply) => reply.text()) });
 *     client.addEventListener("message", ({ detail }) => show(detail.topic, detail.data));
 *     client.addEventListener("reset", ({ detail }) => reload(detail.topic));
 *     client.addEventListener("unread", ({ detail }) => (bell.textContent = detail.unread));
 *
 * Every stored message of a topic arrives once and in order, or `reset` says: load the topic again; the client goes on
 * from there. `data` is what someone else wrote: show it as text, never as HTML.
 *
 * Its types are in fanfare.d.ts, what it does in docs/clients.md.
 */

const BACKOFF_BASE = 500; // Milliseconds, like all times here.
const BACKOFF_CAP = 30_000;
const STAYED_UP = 10_000; // A connection that lived this long starts the back-off anew.
const QUIET = 30_000;
const PATIENCE = 10_000;
const MISSES = 2; // Attempts until another way is tried.
const BETTER = 15_000; // Until a better one is, at first.
const BETTER_CAP = 300_000;
const SILENT = 20_000; // A stream says something every 15 s.
const WAIT = 25; // Seconds that a poll waits.
const PACE = 100; // Between two polls.
const PASSING = new Set(["busy", "unavailable", "authorizer_unavailable"]); // What the server refuses only for now.
// What may go well later.
const AGAIN = new Set([...PASSING, "keys_unavailable", "timeout", "connection_lost", "no_connection"]);
const DEEDS = new Set(["seen", "read", "unread", "archive", "ack"]);
const PASSED_ON = new Set(["receipt", "unread", "task", "room", "board"]);
const SAFE = new Set(["GET", "PUT", "DELETE"]); // Nothing happens twice.
const ABOUT_TOPICS = new Set(["denied", "malformed_topic"]);
const NOWHERE = "e30"; // The place of no topic.
const EXPIRED = 4401;
const ANOTHER = "Another user has come.";
const RATE_LIMITED = 4429;
const SLOWER = 5000; // So much later it comes back then.
const MAX_TOPICS = 1000;
const MAX_REQUESTS = 100;
const MAX_IDS = 1000;
const BATCH = 100; // Ids in one acknowledgement,
const BATCHING = 500; // and how long they wait for others.
const RENEWING = 5000; // Between two fresh credentials, at least;
const MARGIN = 30_000; // and so long before the old one ends.
const MAX_DELAY = 2 ** 31 - 1;
const MAX_TEXT = 4_194_304; // Characters of an event or reply.

/** Connects, and stays connected until `close()` or until the server says not to come back. */
export function connect(options = {}) {
  return new Client(options);
}

/** What a request is rejected with, and the `detail` of `error`; `code` is the server's, or one of those below. */
export class FanfareError extends Error {
  constructor(code, message) {
    super(words(message));
    this.name = "FanfareError";
    this.code = words(code);
  }
}

/**
 * Dispatches `message`, `recalled`, `reset`, `receipt`, `unread`, `task`, `room`, `board`, `snapshot`, `state` and
 * `error`: each a CustomEvent.
 */
class Client extends EventTarget {
  #state;
  #topics = new Map(); // The topics that are wanted, and how far each has been read.
  #mine = new Set(); // Of these, how the user stands there is wanted, too.
  #held = new Map(); // What comes live of a topic while earlier messages are on their way.
  #requests = new Map(); // What waits for an answer, by ref: numbers for publishes, else words.
  #ids = new Set(); // The last messages without an offset.
  #users = []; // Who is watched,
  #show; // and what is told of them.
  #shown = new Set(); // What the server is still to be told of as shown,
  #acking; // and when.
  #receipts = []; // What waits to be sent, or for its answer,
  #delivering = false;
  #owner; // of this user,
  #shelf; // and for the next page.
  #token; // The last one.
  #fetching = null;
  #renewAt; // When it will be old.
  #renewal;
  #link = null;
  #ref = 0;
  #failures = 0;
  #onlineSince = Infinity;
  #timer; // The next attempt, or the end of patience with this connection.

  #spare = null; // A link by a better way, while that is tried beside the one that works.
  #later; // The next trial, or the end of patience with this one.
  #trials = 0;
  #misses = 0;
  #turns = 0; // From way to way, without getting through.

  #options;
  #defaults;
  #ways;
  #way;
  #next; // The way of the next attempt.

  constructor(options) {
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
   * Resolves with the server's answer once it is stored. Rejects with the server's code, or `timeout` or
   * `connection_lost` (it may be stored all the same), `busy`, `closed`.
   */
  publish(topic, data, type) {
    return this.#request(++this.#ref, { action: "publish", topic, data, type });
  }

  /**
   * Adds a topic, from now or from a position, until the server refuses it: also when this promise has timed out.
   * With `me`, `board` events also tell how the user stands there; on a WebSocket only.
   */
  subscribe(topic, since, { me } = {}) {
    if (!this.#topics.has(topic) && this.#topics.size >= MAX_TOPICS) return refused("busy", "Too many topics.");
    if (me) this.#mine.add(topic);
    if (position(since) && this.#topics.has(topic)) this.#held.set(topic, []);
    this.#topics.set(topic, position(since) ?? this.#topics.get(topic) ?? null);
    return this.#request(`subscribe ${topic}`, this.#subscription(topic));
  }

  unsubscribe(topic) {
    this.#topics.delete(topic);
    this.#mine.delete(topic);
    return this.#request(`unsubscribe ${topic}`, { action: "unsubscribe", topic });
  }

  /**
   * Changes messages of the user's inbox, in the order of the calls; what cannot be sent now is sent on return, and all
   * means all until now. Resolves with the ids that were changed, and what waits then.
   */
  receipt(deed, which) {
    if (this.#state.state === "closed") return refused("closed", this.#state.reason);
    const all = which?.all && { as_of: new Date().toISOString() };
    const one = { deed, which: all || { ...which }, now: all && this.#state.state === "online" };
    const waiting = [one, ...this.#receipts].reduce((sum, { which }) => sum + (which.ids?.length ?? 1), 0);
    if (waiting > MAX_IDS) return refused("busy", "Too many receipts wait for a connection.");
    return new Promise((resolve, reject) => {
      this.#receipts.push({ ...one, resolve, reject });
      this.#shelf?.keep(this.#receipts);
      this.#deliver();
    });
  }

  /** Watches up to 500 users, instead of those before: tells how each is now, and whenever that changes. */
  watch(users, tell) {
    this.#users = users;
    this.#show = tell;
    return this.#request("watch", { action: "subscribe", topic: "watch", users });
  }

  /** Says how the user is: available, away, busy or invisible, and in words. */
  setStatus(availability, text) {
    return this.#request(++this.#ref, { action: "status", availability, text });
  }

  /** Tells the server which messages the user was shown; in batches, and again after a lost connection. */
  ack(ids) {
    for (const id of ids) this.#shown.add(id);
    for (const id of this.#shown) if (this.#shown.size > MAX_IDS) this.#shown.delete(id);
    if (this.#shown.size) this.#acking ??= setTimeout(() => this.#acknowledge(), BATCHING);
  }

  /**
   * Asks the REST API beside the socket, with the client's credential: `request("inbox?limit=20")`. Asks again for half
   * a minute where the server says so, and where nothing can happen twice. Resolves with the JSON of the answer.
   */
  request(path, { method = "GET", body } = {}) {
    return this.#ask(path, method, body, 3 * PATIENCE, SAFE.has(method));
  }

  /** Says in words what is wrong with the connection, and which setting to change. */
  async diagnose() {
    const { diagnose } = await import("./fanfare-diagnose.js");
    return diagnose(this.#url(), () => this.#getToken());
  }

  /** Ends the connection for good. */
  close() {
    this.#stop(1000, "Closed by the page.");
  }

  /** `safe`: it may be said again after a silence. */
  async #ask(path, method, json, patience, safe) {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": unique() };
    const body = JSON.stringify(json);
    const until = Date.now() + patience;
    for (let failures = 0; this.#state.state !== "closed"; failures++) {
      try {
        if (this.#token === undefined) await this.#getToken();
        const options = { method, headers, body, signal: AbortSignal.timeout(patience / 3) };
        const text = await bodyOf(await fetched(this.#url(), this.#token, path, options));
        const answer = parsed(text || "null");
        if (answer === undefined) throw new Refusal(0, "This is no JSON.");
        return answer;
      } catch (error) {
        const { close, wait = 0 } = error ?? {};
        const delay = wait + backoff(Math.min(failures, 2));
        if (close >= 4500 || (!close && !safe) || Date.now() + delay > until) throw named(error);
        if (close === EXPIRED) await this.#getToken().catch(() => {});
        await pause(delay);
      }
    }
    throw new FanfareError("closed", this.#state.reason);
  }

  async #acknowledge() {
    const ids = [...this.#shown].slice(0, BATCH);
    const { code } = await this.#request("ack", { action: "ack", ids }).catch((error) => error);
    if (!AGAIN.has(code)) for (const id of ids) this.#shown.delete(id);
    this.#acking = undefined;
    this.ack([]);
  }

  async #open() {
    if (this.#state.state === "closed") return;
    this.#await(null);
    this.#way = this.#next;
    this.#become({ state: "connecting" });
    try {
      await this.#getToken();
      if (this.#state.state === "closed") return;
      this.#link = this.#dial(this.#way);
      this.#await(() => this.#lost(0, "The server does not answer."), PATIENCE);
    } catch (error) {
      if (this.#state.state === "closed") return;
      this.#emit("error", new FanfareError("no_connection", error?.message));
      this.#lost(0, "No credential, or no way to connect.");
    }
  }

  /** A fresh credential, for everything from now on; who asks meanwhile gets the same one. */
  #getToken() {
    return (this.#fetching ??= this.#fetchToken().finally(() => (this.#fetching = null)));
  }

  async #fetchToken() {
    const { token, getToken } = this.#options;
    const given = (getToken ? await inTime(getToken()) : token) ?? "";
    this.#token = words(given.token ?? given);
    const claims = decoded(this.#token.split(".")[1]) ?? {};
    this.#renewAt = Date.now() + renewal(claims, given.expires_at);
    this.#own(claims.sub && `${claims.iss} ${claims.sub}`);
    return this.#token;
  }

  /** Goes on with a fresh credential before the old one ends. */
  #renewIn(delay) {
    clearTimeout(this.#renewal);
    const wait = Math.min(Math.max(delay, RENEWING), MAX_DELAY);
    if (this.#options.getToken && wait) this.#renewal = setTimeout(() => this.#renew(), wait);
  }

  async #renew() {
    const owner = this.#owner;
    const ask = (token) => {
      if (owner && this.#owner && owner !== this.#owner) throw new FanfareError("superseded", ANOTHER);
      return this.#request(++this.#ref, { action: "refresh", token });
    };
    const { code, message } = await this.#getToken().then(ask).catch(named);
    if (this.#state.state !== "online") return; // It will be asked for when it comes back.
    if (!code) this.#renewIn(this.#renewAt - Date.now());
    else if (AGAIN.has(code)) this.#renewIn(RENEWING);
    else this.#lost(EXPIRED, message); // As for another user.
  }

  /** What another user has done is not sent as this one; it waits for a page of theirs. */
  #own(owner) {
    if (owner === this.#owner || this.#state.state === "closed") return;
    if (this.#owner) {
      this.#drop(new FanfareError("superseded", ANOTHER));
      for (const topic of this.#topics.keys()) if (owner && /^(user|account)\./.test(topic)) this.#topics.delete(topic);
      this.#defaults ||= owner && !this.#options.topics;
    }
    this.#owner = owner;
    this.#shelf = owner && new Shelf(`fanfare.receipts ${owner} `, (kept) => {
      this.#receipts.push(...kept);
      this.#deliver();
      return this.#receipts;
    });
  }

  #drop(error) {
    this.#shelf?.leave();
    for (const { reject } of this.#receipts.splice(0)) reject?.(error);
  }

  /** One after the other, each until it is answered. */
  async #deliver() {
    if (this.#delivering) return;
    this.#delivering = true;
    for (let one, failures = 0; this.#state.state === "online" && (one = this.#receipts[0]); ) {
      const which = one.now ? { all: true } : one.which;
      one.now = false; // Said again, it is as late as it is.
      const sent = this.#request(++this.#ref, { ...which, action: one.deed });
      const answer = await sent.catch((error) => error);
      if (AGAIN.has(answer.code)) await pause(backoff(failures++));
      else if (this.#receipts[0] === one) {
        failures = 0;
        this.#receipts.shift();
        this.#shelf?.keep(this.#receipts);
        if (answer instanceof Error) one.reject?.(answer);
        else one.resolve?.(answer);
      }
    }
    this.#delivering = false;
  }

  /** Listened to is the link in use, and a spare one until it has answered. */
  #dial(way, spare = false) {
    let link = null;
    const inUse = () => link !== null && link === this.#link;
    link = TRANSPORTS.get(way)(this.#url(), {
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
      token: () => this.#token,
      post: (path, body) => this.#ask(path, "POST", body, PATIENCE, true),
    });
    return link;
  }

  #url() {
    return new URL(this.#options.url ?? "/ws/", location.href);
  }

  /** A spare link wants nothing yet: while it is tried, the positions move on. */
  #wants(spare) {
    const names = spare ? [] : [...this.#topics.keys()];
    const topics = new Map(names.map((topic) => [topic, this.#since(topic)]));
    return { topics, defaults: this.#defaults, users: spare ? [] : this.#users };
  }

  #lost(code, reason, wait = 0) {
    if (this.#state.state === "closed") return;
    if (code >= 4500 && code <= 4999) return this.#stop(code, reason);
    if (this.#state.state === "connecting" && this.#link && code < 4000 && code !== 1012) this.#miss();
    this.#disconnect();
    this.#unsend();
    if (performance.now() - this.#onlineSince >= STAYED_UP) this.#failures = 0;
    this.#onlineSince = Infinity;
    const delay = (code === RATE_LIMITED ? SLOWER : wait) + backoff(this.#failures++);
    this.#await(() => this.#open(), delay);
    this.#become({ state: "offline", retryAt: Date.now() + delay, code, reason });
  }

  /** What waits for an answer. */
  #unsend() {
    this.#held.clear(); // It comes again.
    for (const one of this.#receipts) one.now = false;
    for (const [ref, request] of this.#requests) {
      if (request.safe) continue;
      // Topics are asked for again; of what was published nobody knows whether it arrived.
      if (request.sent && typeof ref === "number") {
        this.#settle(ref, new FanfareError("connection_lost", "The connection was lost before the answer came."));
      }
      request.sent = false;
    }
  }

  /** This way did not get through: when the server can be reached, it is the way that is barred. */
  async #miss() {
    const way = this.#way;
    if (++this.#misses < MISSES || !(await isThere(this.#url())) || this.#misses < MISSES) return;
    this.#misses = 0;
    this.#failures = ++this.#turns;
    this.#next = this.#ways[(this.#ways.indexOf(way) + 1) % this.#ways.length];
  }

  /** On a lesser way: tries the better ones after a while. */
  #plan() {
    this.#forgetSpare();
    const better = this.#ways.slice(0, this.#ways.indexOf(this.#way));
    if (!better.length) return (this.#trials = 0);
    const delay = Math.min(BETTER_CAP, BETTER * 2 ** this.#trials);
    this.#later = setTimeout(() => this.#try(better[this.#trials++ % better.length]), delay);
  }

  async #try(way) {
    const trial = (this.#later = setTimeout(() => this.#plan(), PATIENCE));
    try {
      await this.#getToken();
      if (trial === this.#later) this.#spare = this.#dial(way, true);
    } catch {
      // Another time.
    }
  }

  /** The better way has answered: it is the way now, and goes on from the positions as they are. */
  #improve(way) {
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

  #stop(code, reason) {
    if (this.#state.state === "closed") return;
    this.#disconnect();
    clearTimeout(this.#renewal);
    removeEventListener("online", this.#hurry);
    document.removeEventListener("visibilitychange", this.#hurry);
    this.#become({ state: "closed", code, reason });
    this.#drop(new FanfareError("closed", reason));
    for (const ref of this.#requests.keys()) this.#settle(ref, new FanfareError("closed", reason));
  }

  #disconnect() {
    this.#await(null);
    this.#forgetSpare();
    const link = this.#link;
    this.#link = null; // What the old link still says counts no more: its `close` may take minutes.
    link?.close();
  }

  /** The network is back, or somebody looks: no more waiting, and no trust in what looks alive. */
  #hurry = ({ type }) => {
    if (type !== "online" && document.visibilityState === "hidden") return;
    if (this.#state.state === "offline") this.#open();
    if (this.#state.state === "online") this.#probe();
  };

  /** Asks for a sign of life: a page cannot see the server's pings. */
  #probe() {
    this.#await(() => this.#lost(0, "The server has gone silent."), PATIENCE);
    this.#link?.send('{"action":"ping"}');
  }

  /** There is one thing at a time that the connection waits for. */
  #await(then, delay = 0) {
    clearTimeout(this.#timer);
    if (then) this.#timer = setTimeout(then, delay);
  }

  #receive(frame) {
    if (this.#state.state === "online") this.#await(() => this.#probe(), QUIET);
    const { event, ...detail } = frame ?? {};
    if (event === "welcome") this.#welcome(detail);
    else if (event === "message") this.#isNew(detail) && this.#emit("message", detail);
    else if (event === "recalled") this.#isRecall(detail) && this.#emit("recalled", detail);
    else if (event === "reset") this.#move(detail, true);
    else if (event === "presence") this.#tell(detail);
    else if (event === "subscribed") this.#subscribed(detail);
    else if (event === "unsubscribed") this.#left(detail);
    else if (event === "ok") this.#settle(detail.ref, detail);
    else if (event === "error") this.#refuse(detail);
    else if (PASSED_ON.has(event)) this.#emit(event, detail);
  }

  #welcome({ topics, unread, unseen, unread_more }) {
    if (unread !== undefined) this.#emit("unread", { unread, unseen, unread_more });
    const places = Object.entries(topics ?? {});
    if (this.#state.state === "online") for (const [topic, at] of places) this.#subscribed({ topic, ...at });
    if (this.#state.state !== "connecting") return;
    const joined = new Set();
    for (const [topic, at] of places) {
      this.#tell(at);
      const wanted = this.#topics.has(topic) || (this.#defaults && this.#topics.size < MAX_TOPICS);
      if (!wanted || !position(at) || this.#topics.get(topic)) continue;
      this.#topics.set(topic, position(at));
      joined.add(topic);
      if (at.snapshot) this.#emit("snapshot", { topic, ...at });
    }
    this.#defaults = false;
    this.#misses = this.#turns = 0;
    this.#next = this.#way;
    this.#onlineSince = performance.now();
    this.#await(() => this.#probe(), QUIET);
    for (const topic of this.#topics.keys()) {
      const ref = `subscribe ${topic}`;
      const more = !joined.has(topic) || this.#mine.has(topic);
      if (more) this.#send(ref, JSON.stringify({ ...this.#subscription(topic), ref }));
      else this.#settle(ref, { topic, ...this.#topics.get(topic), recovered: true });
    }
    const again = { action: "subscribe", topic: "watch", users: this.#users, ref: "watch" };
    if (this.#users.length) this.#send(again.ref, JSON.stringify(again));
    for (const [ref, { sent, text }] of this.#requests) sent || this.#send(ref, text);
    memory(this.#way);
    this.#plan();
    this.#become({ state: "online" });
    this.#renewIn(this.#renewAt - Date.now());
    this.#deliver();
  }

  /** Moves on past a message. False for one that was here already, or that is none. */
  #isNew(detail) {
    const { topic, offset, id } = detail;
    if (!this.#topics.has(topic) || typeof id !== "string") return false;
    if (offset === null) {
      if (this.#ids.has(id)) return false;
      this.#ids.add(id);
      if (this.#ids.size > MAX_IDS) this.#ids.delete(`${this.#ids.values().next().value}`);
      return true;
    }
    const { epoch = null, offset: last = 0 } = this.#topics.get(topic) ?? {};
    if (this.#held.get(topic)?.push(detail)) return false;
    if (!position({ epoch, offset }) || offset <= last) return false;
    this.#topics.set(topic, { epoch, offset });
    return true;
  }

  #isRecall({ topic, id }) {
    return this.#topics.has(topic) && typeof id === "string";
  }

  #tell(detail) {
    const { presences, snapshot = presences ?? detail } = detail ?? {};
    for (const one of [snapshot].flat()) if (this.#users.includes(one?.user)) this.#show(one);
  }

  #subscribed(detail) {
    this.#tell(detail);
    const ref = `subscribe ${words(detail.topic)}`;
    const held = this.#held.get(detail.topic) ?? [];
    this.#held.delete(detail.topic);
    held.sort((one, other) => one.offset - other.offset);
    for (const message of held) this.#isNew(message) && this.#emit("message", message);
    if (detail.snapshot) this.#emit("snapshot", detail);
    this.#move({ recovered: true, ref, ...detail }, detail.recovered === false);
  }

  /** The server says where we are, and whether something is lost. */
  #move(detail, lost) {
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

  #left(detail) {
    const { topic, ref } = detail;
    const asked = this.#settle(ref, detail);
    if (this.#requests.has(`subscribe ${words(topic)}`)) return; // Wanted again meanwhile.
    if (this.#topics.delete(topic) && !asked) {
      this.#emit("error", new FanfareError("unsubscribed", `The server has ended ${topic}.`));
    }
  }

  #refuse({ ref, code, message }) {
    const error = new FanfareError(code, message);
    if (typeof ref === "string" && ref.startsWith("subscribe ")) {
      if (PASSING.has(code)) return this.#lost(0, error.message); // The topic is asked for again.
      this.#topics.delete(ref.slice(10));
    }
    if (!this.#settle(ref, error)) this.#emit("error", error);
  }

  #subscription(topic) {
    return { action: "subscribe", topic, since: this.#since(topic), me: this.#mine.has(topic) || undefined };
  }

  #since(topic) {
    const at = this.#topics.get(topic);
    // Without an epoch the topic was empty: from its beginning; what we have seen is dropped here.
    return at?.epoch === null ? { epoch: null, offset: 0 } : (at ?? undefined);
  }

  #request(ref, frame) {
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

  #send(ref, text) {
    const request = this.#requests.get(ref) ?? {};
    request.sent = true;
    request.safe = this.#link?.send(text); // It will be answered, whatever becomes of the link.
  }

  /** Ends a request with its answer. False when nobody waits for it. */
  #settle(ref, answer) {
    const request = this.#requests.get(ref);
    if (!request) return false;
    clearTimeout(request.timer);
    this.#requests.delete(ref);
    if (answer instanceof FanfareError) request.reject(answer);
    else request.resolve(answer);
    return true;
  }

  #become(state) {
    this.#state = { ...state, transport: this.#way };
    this.#emit("state", this.#state);
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** Opens a link `{send, close}`. */
function webSocket(url, on) {
  const { topics, defaults } = on.wants();
  const token = on.token();
  url.protocol = url.protocol.replace("http", "ws");
  // A topic with a position is subscribed after `welcome`, from there.
  const fresh = [...topics.keys()].filter((topic) => !topics.get(topic));
  if (!defaults) url.searchParams.set("topics", fresh.join());
  const socket = new WebSocket(url, ["fanfare.v1", ...(token ? [`bearer.${token}`] : [])]);
  socket.onmessage = ({ data }) => on.frame(parsed(data));
  socket.onclose = ({ code, reason }) => on.closed(code, reason);
  return socket;
}

/** Server-sent events, by `fetch`: an `EventSource` cannot set headers. */
async function stream(requests, signal) {
  let rest = "";
  let data = "";
  let id = "";
  await read(await requests.get("stream", signal), (text) => {
    requests.alive();
    const lines = text.split("\n");
    lines[0] = rest + lines[0];
    rest = `${lines.pop()}`;
    bounded(rest + data);
    for (const line of lines) {
      const [, field, value] = /^(data|id): ?(.*)/s.exec(line) ?? [];
      if (field === "data") data += value;
      else if (field) id = value;
      if (line.trim()) continue;
      if (data) requests.event(parsed(data), signal);
      if (id) requests.place(id, signal);
      data = id = "";
    }
  });
  throw new Refusal(1006, "The stream has ended.");
}

/** The first poll is answered at once. */
async function poll(requests, signal) {
  for (let wait = 0; ; wait = WAIT) {
    requests.answer(parsed(await bodyOf(await requests.get("poll", signal, wait))), signal);
    await pause(PACE);
  }
}

/** Looks like a socket; what cannot be sent along a request makes a new one. */
class Requests {
  #abort = new AbortController();
  #heard = Date.now();
  #asked = new Map(); // Topics and positions, not answered so far.
  #topics = new Map();
  #places = new Map();
  #refusals = []; // In the order of the topics.

  #listen;
  #url;
  #on;

  constructor(listen, [url, on]) {
    this.#listen = listen;
    this.#url = url;
    this.#on = on;
    this.#again();
  }

  send(text) {
    const { action, ref, topic, since, users, ...message } = JSON.parse(text);
    if (action === "publish") return this.#publish(ref, topic, message);
    if (action === "status") return this.#post(ref, "presence", message);
    if (DEEDS.has(action)) return this.#post(ref, `inbox/${action}`, message);
    const isAsked = this.#asked.has(topic) && JSON.stringify(this.#asked.get(topic)) === JSON.stringify(since);
    if (action === "ping" && Date.now() - this.#heard < SILENT) this.#on.frame();
    else if (action !== "subscribe" || !isAsked) this.#again();
    if (users || action === "refresh") this.#on.answer(ref, {});
    if (action === "unsubscribe") this.#on.frame({ event: "unsubscribed", topic, ref });
  }

  close() {
    this.#abort.abort();
  }

  alive() {
    this.#heard = Date.now();
    this.#on.frame();
  }

  /** Asks for what the client wants now. */
  get(name, signal, wait = 0) {
    const { topics, defaults, users } = this.#on.wants();
    this.#topics = topics;
    for (const user of users) topics.set(`watch.${user}`, this.#places.get(`watch.${user}`));
    this.#asked = new Map(defaults || wait ? [] : topics);
    this.#refusals = [];
    const query = new URLSearchParams({ since: placeOf(topics), wait: `${wait}` });
    if (!defaults) query.set("topics", [...topics.keys()].join());
    return fetched(this.#url, this.#on.token(), `${name}?${query}`, { signal });
  }

  /** The answer to a poll, told as a stream would. */
  answer(answer, signal) {
    const { events, since } = answer ?? {};
    const places = placed(since);
    if (!Array.isArray(events) || !places) throw new Refusal(0, "This is no answer to a poll.");
    this.alive();
    for (const [topic, at] of places) {
      const first = events.find((event) => event?.topic === topic && event.offset > 0);
      if (this.#topics.get(topic)) places.delete(topic);
      else if (first) at.offset = first.offset - 1;
    }
    this.event({ event: "welcome", topics: Object.fromEntries(places) }, signal);
    for (const event of events) this.event(event, signal);
    this.place(since, signal);
  }

  event(frame, signal) {
    if (signal.aborted) return;
    const { event, code, reason } = frame ?? {};
    if (event === "closed") this.#on.closed(Number.isInteger(code) ? code : 1006, words(reason));
    else if (event === "error" && this.#asked.size) this.#refusals.push(frame);
    else this.#on.frame(frame);
  }

  /** Where the server says that we are. What is not there is refused. */
  place(text, signal) {
    const places = placed(text);
    if (!places) return;
    this.#places = new Map(places);
    const missing = [...this.#asked.keys()].filter((topic) => !places.has(topic));
    this.#asked.clear();
    this.event({ event: "welcome", topics: Object.fromEntries(places) }, signal);
    const last = this.#refusals.at(-1);
    for (const topic of last ? missing : []) {
      this.event({ ...(this.#refusals.shift() ?? last), ref: `subscribe ${topic}` }, signal);
    }
  }

  /** A new request takes the place of the one that listens. */
  #again() {
    this.#abort.abort();
    const { signal } = (this.#abort = new AbortController());
    queueMicrotask(() => signal.aborted || this.#listen(this, signal).catch((error) => this.#failed(error, signal)));
  }

  #failed({ close = 0, code, message, wait }, signal) {
    if (signal.aborted) return;
    if (!ABOUT_TOPICS.has(code) || !this.#asked.size) return this.#on.closed(close, message, wait);
    // None of the topics may be had: as on a socket, that is no reason to go.
    this.event({ event: "welcome" }, signal);
    this.#refusals = [{ event: "error", code, message }];
    this.place(NOWHERE, signal);
    if (!signal.aborted) this.#again();
  }

  #publish(ref, topic, message) {
    const [, kind = topic, key = true] = /^(user|account|topic)\.(.+)/s.exec(topic) ?? [];
    return this.#post(ref, "notifications", { to: { [kind]: key }, ...message });
  }

  async #post(ref, path, message) {
    const late = (error) => (error.close >= 4500 ? error : new FanfareError("timeout", error.message));
    this.#on.answer(ref, await this.#on.post(path, message).then((answer) => ({ ref, ...answer }), late));
  }
}

const TRANSPORTS = new Map([
  ["websocket", webSocket],
  ["stream", (...given) => new Requests(stream, given)],
  ["poll", (...given) => new Requests(poll, given)],
]);

/** `close`: as of a socket, or 0. */
class Refusal extends FanfareError {
  constructor(close, message, code = "", wait = 0) {
    super(code, message);
    this.close = close;
    this.wait = wait;
  }
}

/** The API's reply. Rejects with a Refusal. */
async function fetched(socket, token, path, options) {
  const url = new URL(`../api/${path}`, socket);
  url.protocol = url.protocol.replace("ws", "http");
  const bearer = token && { Authorization: `Bearer ${token}` };
  const sent = { ...options.headers, ...bearer };
  const reply = await fetch(url, { ...options, headers: sent, cache: "no-store", redirect: "error" });
  const { ok, status, headers } = reply;
  if (ok) return reply;
  const { code, message } = parsed(await bodyOf(reply))?.error ?? {};
  if (!words(code)) throw new Refusal(0, `Somebody answered ${status}.`); // Not our server.
  const bad = code === "token_expired" ? EXPIRED : 4501;
  const passing = code === "idempotency_in_progress" || status === 429 || status === 503;
  const close = passing ? 4410 : ({ 401: bad, 403: 4501 }[status] ?? (status < 500 ? 4500 : 0));
  throw new Refusal(close, message, code, Math.min(Number(headers.get("Retry-After")) || 0, 300) * 1000);
}

/** What waits, kept for the next page of the same user, should this one end first. A lock says that it is alive. */
class Shelf {
  #key;
  #leave;
  #open;

  /** `add` gets what pages that are gone have left. Without locks, as where there is no TLS, nothing is kept. */
  constructor(prefix, add) {
    const { locks } = navigator;
    const left = new Promise((resolve) => (this.#leave = resolve));
    const take = (key, lock) => {
      if (!lock || !this.#open) return;
      this.keep(add([parsed(localStorage.getItem(key))].flat().filter((one) => DEEDS.has(one?.deed))));
      localStorage.removeItem(key);
    };
    const open = async () => {
      this.#open ??= true;
      if (this.#open) this.keep(add([]));
      const keys = Object.keys(localStorage).filter((key) => key.startsWith(prefix));
      for (const key of keys.sort()) await locks.request(key, { ifAvailable: true }, (lock) => take(key, lock));
      await left;
    };
    this.#key = `${prefix}${Date.now()} ${unique()}`;
    locks?.request(this.#key, open).catch(() => {}); // Not every page may.
  }

  keep(list) {
    try {
      const text = JSON.stringify(list.map(({ deed, which }) => ({ deed, which })));
      if (this.#open && list.length) localStorage.setItem(this.#key, text);
      else if (this.#open) localStorage.removeItem(this.#key);
    } catch {
      // It is full.
    }
  }

  leave() {
    this.#open = false;
    this.#leave();
  }
}

async function read(reply, take) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part; !(part = await reader.read()).done; ) take(part.value);
}

async function bodyOf(reply) {
  let body = "";
  await read(reply, (text) => bounded((body += text)));
  return body;
}

function bounded(text) {
  if (text.length > MAX_TEXT) throw new Refusal(0, "The server says too much at once.");
}

/** The server's text for positions. */
function placeOf(topics) {
  const known = [...topics].flatMap(([topic, at]) => (at ? [[topic, [at.epoch, at.offset]]] : []));
  const bytes = [...new TextEncoder().encode(JSON.stringify(Object.fromEntries(known)))];
  return btoa(bytes.map((byte) => String.fromCharCode(byte)).join("")).replaceAll("+", "-").replaceAll("/", "_");
}

function placed(text) {
  try {
    const known = Object.entries(decoded(text)).map(([topic, [epoch, offset]]) => [topic, position({ epoch, offset })]);
    return new Map(known.filter(([, at]) => at));
  } catch {
    return null;
  }
}

/** What JSON in base64url says, or undefined. */
function decoded(text) {
  try {
    const bytes = [...atob(words(text).replaceAll("-", "+").replaceAll("_", "/"))].map((byte) => byte.charCodeAt(0));
    return parsed(new TextDecoder().decode(Uint8Array.from(bytes)));
  } catch {
    return undefined;
  }
}

/** After how long a credential is to be renewed; NaN: never. A page's clock may be wrong. */
function renewal({ exp, iat }, expiresAt) {
  const end = typeof expiresAt === "string" ? Date.parse(expiresAt) : (expiresAt ?? exp) * 1000;
  const now = Date.now();
  const life = end - (iat * 1000 > now || end < now ? iat * 1000 : now);
  return Math.max(life - MARGIN, life * 0.8);
}

/** Whether the server can be reached, by whatever way. */
function isThere(url) {
  url.protocol = url.protocol.replace("ws", "http");
  const reply = fetch(new URL("../livez", url), { mode: "no-cors", signal: AbortSignal.timeout(PATIENCE) });
  return reply.then(({ status }) => status < 500).catch(() => false);
}

/** The way that worked, for the next page. */
function memory(way) {
  try {
    if (way) sessionStorage.setItem("fanfare.transport", way);
    return sessionStorage.getItem("fanfare.transport");
  } catch {
    return null; // Not every page may.
  }
}

function unique() {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}

function backoff(failures) {
  return Math.random() * Math.min(BACKOFF_CAP, BACKOFF_BASE * 2 ** failures);
}

function pause(delay) {
  return new Promise((resolve) => setTimeout(resolve, delay));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The position that a value is, or null. */
function position(value) {
  const { epoch, offset } = value ?? {};
  const valid = (epoch === null || typeof epoch === "string") && Number.isSafeInteger(offset) && offset >= 0;
  return valid ? { epoch, offset } : null;
}

/** Text where text was promised: anything else might throw. */
function words(value) {
  return typeof value === "string" ? value : "";
}

/** What went wrong, as a FanfareError with a code. */
function named(error) {
  return error?.code && error instanceof FanfareError ? error : new FanfareError("no_connection", error?.message);
}

function refused(code, message) {
  return Promise.reject(new FanfareError(code, message));
}

function inTime(answer) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new FanfareError("timeout", "getToken took too long.")), PATIENCE);
    Promise.resolve(answer).then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
