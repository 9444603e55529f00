/**
 * A user's inbox, and the top of a board, as plain objects that follow the server: for React, Vue or a plain page. What
 * each promises is in `fanfare-state.d.ts`.
 */

const PAGE = 20;
const PAGE_MAX = 100;
const KEPT = 500; // Messages; then the newest page is loaded again.
const COUNTED = 1000; // As far as the server counts; and so many ids are in a receipt at most: there may be others.
const RECALLED = 100;
const PAUSE = 300; // Milliseconds from one load to the next.
const LATER = 5000;

const states = new WeakMap();
const boards = new WeakMap(); // By client: the stores of each topic, for they share one subscription.

export function inbox(client) {
  return new Inbox(client);
}

export function board(client, name, options = {}) {
  return new Board(client, name, options);
}

/** The rows of a board after a change. */
export function changed(before, { set, removed }) {
  const gone = new Set([...removed, ...set.map(({ name }) => name)]);
  const rows = before.filter(({ name }) => !gone.has(name));
  for (const row of set) rows.splice(row.rank, 0, row);
  return rows.map((row, rank) => (row.rank === rank ? row : { ...row, rank }));
}

class Store extends EventTarget {
  state = () => states.get(this);

  subscribe = (listener) => {
    const tell = () => listener();
    this.addEventListener("change", tell);
    return () => this.removeEventListener("change", tell);
  };
}

class Inbox extends Store {
  #page = { messages: [], unread: 0, unseen: 0, unreadMore: false }; // As the server has told it.
  #deeds = new Set(); // What the user has done, until the server has answered.
  #recalled = []; // Ids.
  #next; // null: there is no older page.
  #isLoading = false;
  #isStale = false;
  #error = null;
  #later;

  #client;
  #stop = new AbortController();

  constructor(client) {
    super();
    this.#client = client;
    listen(client, this.#stop.signal, {
      state: ({ state }) => state === "online" && this.#load(),
      reset: ({ topic }) => isForInbox(topic) && this.#load(),
      message: (message) => this.#receive(message),
      recalled: (message) => this.#recall(message),
      receipt: ({ state, ids }) => this.#happened(state, ids),
      unread: (counts) => this.#count(counts),
    });
    this.#show();
    if (client.state.state === "online") this.#load();
  }

  async more() {
    if (!this.#next || this.#isLoading) return;
    const cursor = encodeURIComponent(this.#next);
    await this.#ask(`inbox?limit=${PAGE}&cursor=${cursor}`, ({ messages }) => {
      const known = new Set(this.#page.messages.map(({ id }) => id));
      return [...this.#page.messages, ...messages.filter(({ id }) => !known.has(id))];
    });
    if (this.#isStale) this.#load();
  }

  read(which) {
    return this.#do("read", which);
  }

  seen(which) {
    return this.#do("seen", which);
  }

  archive(which) {
    return this.#do("archive", which);
  }

  unread(which) {
    return this.#do("unread", which);
  }

  close() {
    this.#stop.abort();
    clearTimeout(this.#later);
  }

  /** The newest page as it is now; and once more for what comes meanwhile, as that may be in it or not. */
  async #load() {
    this.#isStale = true;
    while (this.#isStale && !this.#isLoading && !this.#stop.signal.aborted) {
      this.#isStale = false;
      const limit = Math.min(Math.max(this.#page.messages.length, PAGE), PAGE_MAX);
      await this.#ask(`inbox?limit=${limit}`, ({ messages }) => messages);
    }
  }

  async #ask(path, messagesOf) {
    clearTimeout(this.#later);
    this.#isLoading = true;
    this.#show();
    try {
      const answer = await this.#client.request(path);
      if (!Array.isArray(answer?.messages)) throw new TypeError("This is no page of an inbox.");
      const messages = messagesOf(answer).filter((message) => typeof message?.id === "string");
      this.#page = { ...this.#page, messages };
      this.#next = answer.next ?? null;
      this.#error = null;
      this.#count(answer);
      if (this.#isStale) await pause(PAUSE);
    } catch (error) {
      this.#error = error;
      this.#isStale = false;
      const again = () => this.#client.state.state === "online" && this.#load();
      if (!this.#stop.signal.aborted) this.#later = setTimeout(again, LATER);
    }
    this.#isLoading = false;
    this.#show();
  }

  #receive(message) {
    const { topic, id, offset } = message;
    if (!isForInbox(topic) || offset === null || this.#recalled.includes(id)) return;
    if (this.#isLoading) return (this.#isStale = true);
    const { messages, unread, unseen } = this.#page;
    if (messages.some((other) => other.id === id)) return;
    const fresh = { ...message, seen_at: null, read_at: null, archived_at: null };
    const counts = { unread: Math.min(unread + 1, COUNTED), unseen: Math.min(unseen + 1, COUNTED) };
    this.#page = { ...this.#page, ...counts, messages: [fresh, ...messages] };
    if (messages.length >= KEPT) this.#load();
    this.#show();
  }

  #recall({ topic, id }) {
    if (!isForInbox(topic)) return;
    this.#recalled = [id, ...this.#recalled].slice(0, RECALLED);
    this.#page = { ...this.#page, messages: this.#page.messages.filter((message) => message.id !== id) };
    this.#show();
    this.#load(); // Only the server knows whether it had counted.
  }

  /** Some of the user's devices did this. */
  #happened(deed, ids) {
    if (!Array.isArray(ids)) return;
    this.#page = after(this.#page, { deed, ids: new Set(ids), at: now() });
    this.#show();
    const isShort = this.#next && this.#page.messages.length < PAGE;
    if (this.#isLoading || isShort || ids.length >= COUNTED) this.#load();
  }

  #count({ unread, unseen, unread_more: unreadMore }) {
    const counts = { unread: Number(unread) || 0, unseen: Number(unseen) || 0, unreadMore: unreadMore === true };
    this.#page = { ...this.#page, ...counts };
    this.#show();
  }

  async #do(deed, which) {
    const { messages } = this.#page;
    const all = which === "all";
    const ids = all ? messages.map(({ id }) => id) : [which].flat();
    const until = messages.map(({ created_at: at }) => at).sort().at(-1);
    const mine = { deed, all, ids: new Set(ids), at: now() };
    this.#deeds.add(mine);
    this.#show();
    try {
      // Not what comes before the server hears of it: the user has not seen that.
      const counts = await this.#client.receipt(deed, !all ? { ids } : until ? { as_of: until } : { all: true });
      this.#page = after(this.#page, mine);
      this.#count(counts);
      if (this.#isLoading) this.#isStale = true;
      else if (this.#next && this.#page.messages.length < PAGE) this.#load();
    } finally {
      this.#deeds.delete(mine);
      this.#show();
    }
  }

  #show() {
    const page = [...this.#deeds].reduce(after, this.#page);
    const loading = this.#isLoading || (this.#next === undefined && !this.#error);
    become(this, { ...page, more: Boolean(this.#next), loading, error: this.#error });
  }
}

/** A page of the inbox after a deed. Doing it again changes nothing. */
function after(page, { deed, all, ids, at }) {
  let { unread, unseen } = page;
  const messages = [];
  for (const message of page.messages) {
    if (!ids.has(message.id)) {
      messages.push(message);
      continue;
    }
    const { seen_at, read_at } = message;
    const isRead = deed === "unread" ? false : deed === "read" ? true : Boolean(read_at);
    const isSeen = Boolean(seen_at) || deed !== "unread";
    unseen -= isSeen - Boolean(seen_at);
    if (deed === "archive") unread -= !read_at;
    else unread += Boolean(read_at) - isRead;
    if (deed === "archive") continue;
    const isSo = isSeen === Boolean(seen_at) && isRead === Boolean(read_at);
    const times = { seen_at: isSeen ? (seen_at ?? at) : null, read_at: isRead ? (read_at ?? at) : null };
    messages.push(isSo ? message : { ...message, ...times });
  }
  if (all) unseen = messages.filter(({ seen_at }) => !seen_at).length; // Only what has come since.
  if (all && deed !== "seen") unread = messages.filter(({ id, read_at }) => !read_at && !ids.has(id)).length;
  const unreadMore = page.unreadMore && !(all && deed !== "seen");
  return { messages, unread: Math.max(unread, 0), unseen: Math.max(unseen, 0), unreadMore };
}

class Board extends Store {
  #at = { window: null, total: 0, version: 0, me: null, loading: true, error: null };
  #all = [];

  #client;
  #name;
  #topic;
  #options;
  #stop = new AbortController();

  constructor(client, name, options) {
    super();
    this.#client = client;
    this.#name = name;
    this.#topic = `board.${name}`;
    this.#options = options;
    listen(client, this.#stop.signal, {
      snapshot: ({ topic, snapshot }) => topic === this.#topic && this.#begin(snapshot),
      board: (event) => event.topic === this.#topic && this.#receive(event),
    });
    this.#show({});
    this.#join();
  }

  close() {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    const others = this.#others();
    others.delete(this);
    if (!others.size) this.#client.unsubscribe(this.#topic).catch(() => {});
  }

  #others() {
    const topics = boards.get(this.#client) ?? new Map();
    boards.set(this.#client, topics);
    if (!topics.has(this.#topic)) topics.set(this.#topic, new Set());
    return topics.get(this.#topic);
  }

  /** The first one gets the snapshot; the others know from it. */
  async #join() {
    const others = this.#others();
    const [first] = others;
    const { me = false } = this.#options;
    const isTold = [...others].some((other) => other.#options.me || !me);
    others.add(this);
    if (first) {
      this.#all = first.#all;
      this.#show({ ...first.#at, me: me ? first.#at.me : null });
    }
    if (isTold) return;
    try {
      await this.#client.subscribe(this.#topic, undefined, { me });
    } catch (error) {
      if (["timeout", "superseded"].includes(error.code)) return; // It is asked for again.
      for (const one of this.#others()) one.#show({ loading: false, error });
    }
  }

  #begin({ leaderboard, version, total, window }) {
    if (!Array.isArray(leaderboard)) return;
    this.#all = leaderboard;
    this.#show({ window, version, total, loading: false, error: null });
  }

  #receive({ snapshot, me, set, removed, version, total }) {
    if (snapshot) this.#begin(snapshot);
    if (me !== undefined && this.#options.me) this.#show({ me });
    if (!Array.isArray(set) || !Array.isArray(removed) || version !== this.#at.version + 1) return;
    this.#all = changed(this.#all, { set, removed });
    this.#show({ version, total });
  }

  #show(news) {
    this.#at = { ...this.#at, ...news };
    become(this, { name: this.#name, ...this.#at, rows: this.#all.slice(0, this.#options.top ?? 10) });
  }
}

function become(store, state) {
  states.set(store, Object.freeze(state));
  store.dispatchEvent(new Event("change"));
}

function listen(client, signal, handlers) {
  for (const [name, handle] of Object.entries(handlers)) {
    client.addEventListener(name, ({ detail }) => handle(detail), { signal });
  }
}

/** Neither rooms nor boards have a part in it. */
export function isForInbox(topic) {
  return /^(user\.|account\.|all$)/.test(topic);
}

function now() {
  return new Date().toISOString();
}

function pause(delay) {
  return new Promise((resolve) => setTimeout(resolve, delay));
}
