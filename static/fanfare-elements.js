/**
 * Elements for any page, by one client. What others wrote is shown as text, and links lead to http(s) only. Their
 * attributes, slots and parts are in `fanfare-elements.d.ts`.
 */

import { connect } from "./fanfare.js";
import { board, inbox, isForInbox } from "./fanfare-state.js";

const TEXT_MAX = 500;
const COUNTED = 99; // In the badge.
const LATER = 5000; // Milliseconds, like all times here.
const MINUTE = 60_000;
const TOASTS = 3;
const TOAST = 8000;
const BURST = 150; // What comes in these is told together, as after a reconnect.
const WATCHED = 500;
const PACE = 400; // From one picture of a board to the next: what moves is to arrive,
const MOVES = 350; // as it does in these.
const LEADS = 3000; // So long somebody is first before it is said aloud.
const UNITS = [["day", 86_400], ["hour", 3600], ["minute", 60]];
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const ENDS = new Set(["done", "failed", "cancelled"]);
const NAMES = ["bell", "inbox", "toasts", "task", "presence", "board"].map((name) => `fanfare-${name}`);

/** The client of all elements that have none of their own, and what elements say, by language. */
export const Fanfare = {
  client: null,
  messages: {
    en: {
      notifications: "Notifications",
      new: "{count} new",
      unread: "{count} unread",
      isUnread: "Unread",
      markRead: "Mark read",
      markUnread: "Mark unread",
      markAllRead: "Mark all read",
      archive: "Archive",
      older: "Show older ones",
      empty: "Nothing here.",
      loading: "Loading…",
      notLoaded: "This could not be loaded: {reason}",
      notDone: "This was not done: {reason}",
      closed: "There is no connection: {reason}",
      dismiss: "Dismiss",
      many: { one: "{count} new notification", other: "{count} new notifications" },
      task: "Task",
      queued: "Queued",
      running: "Running",
      done: "Done",
      failed: "Failed: {reason}",
      cancelled: "Cancelled",
      cancel: "Cancel",
      available: "is here",
      away: "is away",
      busy: "is busy",
      offline: "is not here",
      unknown: "cannot be seen",
      place: "Place",
      name: "Name",
      points: "Points",
      nobody: "Nobody has scored so far.",
      players: { one: "{count} player", other: "{count} players" },
      you: "You are at place {place} of {total}, with {points}.",
      leads: "{name} leads.",
    },
  },
};

/** Asked for only when all elements of the page are there, and its module has had its say. */
function shared() {
  const given = (name) => document.querySelector(NAMES.map((tag) => `${tag}[${name}]`).join())?.getAttribute(name);
  const [tokenUrl, url] = [given("token-url"), given("url")];
  const here = /^https?:/.test(import.meta.url) ? import.meta.url : location.href;
  const getToken = tokenUrl && (() => tokenFrom(tokenUrl));
  return (Fanfare.client ??= connect({ url: new URL(url ?? "/ws/", url ? location.href : here), getToken }));
}

async function tokenFrom(url) {
  const reply = await fetch(url, { cache: "no-store" });
  if (!reply.ok) throw new Error(`${url} answered ${reply.status}.`);
  const text = await reply.text();
  return text.trimStart().startsWith("{") ? JSON.parse(text) : text.trim();
}

const inboxes = new WeakMap();

function inboxOf(client) {
  if (!inboxes.has(client)) inboxes.set(client, inbox(client));
  return inboxes.get(client);
}

// --- Words ----------------------------------------------------------------------------------------

/** `say(key, {count, …})`, `say.number` and `say.ago` in the language of the place where the element is. */
function wordsFor(element) {
  const lang = languageOf(element);
  const say = (key, values = {}) => {
    const known = [lang, lang.split("-")[0], "en"].find((one) => Fanfare.messages[one]?.[key]);
    const found = Fanfare.messages[known]?.[key] ?? key;
    const form = () => new Intl.PluralRules(known).select(values.count);
    const text = found.other ? (found[form()] ?? found.other) : found;
    return text.replace(/\{(\w+)\}/g, (all, name) => (name in values ? inserted(values[name]) : all));
  };
  const inserted = (value) => (typeof value === "number" ? say.number(value) : `\u2068${shortened(value)}\u2069`);
  say.number = (value) => (Number.isFinite(value) ? value.toLocaleString(lang, { maximumFractionDigits: 6 }) : "");
  say.ago = (moment) => {
    const seconds = (Date.parse(moment) - Date.now()) / 1000 || 0;
    const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", Infinity];
    return new Intl.RelativeTimeFormat(lang, { numeric: "auto" }).format(Math.min(0, Math.round(seconds / size)), unit);
  };
  return say;
}

function languageOf(element) {
  try {
    return Intl.getCanonicalLocales(element.closest("[lang]")?.lang || navigator.language)[0];
  } catch {
    return "en";
  }
}

/** What a message says: `data` may be any JSON, from anyone. */
function textOf({ data }) {
  const text = [data, data?.text, data?.title].find((one) => typeof one === "string") ?? JSON.stringify(data) ?? "";
  return shortened(text);
}

function shortened(text) {
  const words = typeof text === "string" ? text : "";
  return words.length > TEXT_MAX ? `${words.slice(0, TEXT_MAX).replace(/[\uD800-\uDBFF]$/, "")}…` : words;
}

/** An address that is safe to follow, or nothing. */
function safe(address) {
  try {
    const { protocol, href } = new URL(address, document.baseURI);
    return typeof address === "string" && address && /^https?:$/.test(protocol) ? href : undefined;
  } catch {
    return undefined;
  }
}

// --- Elements -------------------------------------------------------------------------------------

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function button(part, text, act) {
  const made = h("button", { part, type: "button" }, text);
  made.addEventListener("click", act);
  return made;
}

function slot(name, ...otherwise) {
  return h("slot", { name }, ...otherwise);
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A text of somebody else's, which is a link if `data.url` is one. */
function textElement(message) {
  const href = safe(message.data?.url);
  const text = textOf(message);
  return h("p", { part: "text", dir: "auto" }, href ? h("a", { part: "link", href, rel: "noreferrer" }, text) : text);
}

/** Follows a client as long as it is on the page, with one set of attributes. */
class FanfareElement extends HTMLElement {
  #client = null;
  #end = null;

  constructor() {
    super();
    this.attachShadow({ mode: "open" }).adoptedStyleSheets = [sheet];
  }

  get client() {
    return this.#client ?? Fanfare.client;
  }

  set client(client) {
    this.#client = client;
    this.#begin();
  }

  connectedCallback() {
    const { client } = this;
    if (Object.hasOwn(this, "client") && delete this.client) this.#client = client; // Set before there was a setter.
    this.#begin();
  }

  disconnectedCallback() {
    this.#end?.abort();
  }

  attributeChangedCallback() {
    this.#begin();
  }

  #begin() {
    this.#end?.abort();
    if (!this.isConnected) return;
    const { signal } = (this.#end = new AbortController());
    queueMicrotask(() => signal.aborted || this.follow(this.client ?? shared(), signal));
  }

  show(...nodes) {
    this.shadowRoot.replaceChildren(...nodes);
  }
}

// --- The inbox, alone or under a bell -------------------------------------------------------------

class InboxView {
  #items = new Map(); // By id: {item, message, made}.
  #known = new Set(); // Acknowledged.
  #isShown = false;
  #isSeeing = false;
  #refusal = null; // Of what the user did last.

  #host;
  #client;
  #store;
  #say;
  #title;
  #all;
  #list;
  #empty;
  #more;
  #note;

  constructor(host, client, signal) {
    this.#host = host;
    this.#client = client;
    this.#store = inboxOf(client);
    const say = (this.#say = wordsFor(host));
    this.#title = h("h2", { part: "title", id: "title", tabindex: "-1" }, say("notifications"));
    this.#all = button("action", say("markAllRead"), () => this.#do("read", "all"));
    this.#list = h("ol", { part: "list", role: "list", "aria-labelledby": "title" });
    this.#empty = h("p", { part: "empty" });
    this.#more = button("action more", say("older"), () => this.#store.more());
    this.#note = h("p", { part: "note", role: "status" });
    const head = h("div", { part: "header" }, slot("header", this.#title), this.#all);
    this.node = h("div", { part: "inbox" }, head, this.#list, slot("empty", this.#empty), this.#more, this.#note);
    this.#listen(signal);
  }

  get items() {
    return [...this.#list.children];
  }

  /** Where the focus goes when the inbox opens. */
  focus() {
    (this.items[0] ?? this.#title).focus();
  }

  #listen(signal) {
    this.node.addEventListener("keydown", (event) => this.#move(event));
    this.#list.addEventListener("focusin", (event) => this.#rove(itemOf(event)));
    signal.addEventListener("abort", this.#store.subscribe(() => this.#update()));
    this.#client.addEventListener("state", () => this.#update(), { signal });
    document.addEventListener("visibilitychange", () => this.#look(), { signal });
    const observer = new IntersectionObserver((entries) => {
      this.#isShown = entries.at(-1).isIntersecting;
      this.#look();
    });
    observer.observe(this.node);
    const clock = setInterval(() => this.#tell(), MINUTE);
    signal.addEventListener("abort", () => {
      observer.disconnect();
      this.#isShown = false;
      clearInterval(clock);
      for (const { made } of this.#items.values()) made?.remove();
    });
    this.#update();
  }

  /** Items stay where they are, so that nobody who is about to press a button loses it. */
  #update() {
    const { messages, unread, more, loading, error } = this.#store.state();
    const ids = new Set(messages.map(({ id }) => id));
    for (const id of this.#items.keys()) if (!ids.has(id)) this.#drop(id);
    messages.forEach((message, place) => {
      const { item } = this.#items.get(message.id) ?? this.#add(message);
      this.#items.get(message.id).message = message;
      if (this.#list.children[place] !== item) this.#list.insertBefore(item, this.#list.children[place] ?? null);
      item.part.toggle("unread", !message.read_at);
      item.querySelector("[part=mark]").hidden = Boolean(message.read_at);
      write(item.querySelector("button"), this.#say(message.read_at ? "markUnread" : "markRead"));
    });
    if (!this.#list.querySelector("[tabindex='0']")) this.#rove(this.#list.firstElementChild);
    this.#all.disabled = unread === 0;
    this.#more.hidden = !more;
    this.#more.disabled = loading;
    write(this.#empty, this.#say(loading ? "loading" : "empty"));
    this.#empty.parentElement.hidden = messages.length > 0;
    const { state, reason } = this.#client.state;
    const refusal = this.#refusal ?? error?.message;
    if (state === "closed") write(this.#note, this.#say("closed", { reason }));
    else write(this.#note, refusal ? this.#say(this.#refusal ? "notDone" : "notLoaded", { reason: refusal }) : "");
    this.#look();
  }

  #add(message) {
    const { id } = message;
    const say = this.#say;
    const label = `text-${crypto.randomUUID()}`;
    const mark = h("span", { part: "mark", role: "img", "aria-label": say("isUnread"), id: `${label}-mark` });
    const time = h("time", { part: "time", datetime: message.created_at }, say.ago(message.created_at));
    const from = h("span", { part: "from", dir: "auto" }, shortened(message.sender));
    const text = textElement(message);
    text.id = label;
    const template = this.#host.querySelector("template[slot=item]");
    const toggle = button("action", "", () => {
      const isRead = this.#items.get(id)?.message.read_at;
      this.#do(isRead ? "unread" : "read", [id]);
    });
    const archive = button("action", say("archive"), () => this.#do("archive", [id]));
    for (const one of [toggle, archive]) one.setAttribute("aria-describedby", label);
    const body = slot(`item-${label}`, h("p", { part: "meta" }, from, time), text);
    const actions = h("p", { part: "actions" }, toggle, archive);
    const named = { "aria-labelledby": `${label}-mark ${label}` };
    const item = h("li", { part: "item", tabindex: "-1", ...named }, mark, body, actions);
    item.addEventListener("click", (event) => this.#select(event, id));
    const made = template && h("div", { slot: `item-${label}` }, filled(template, message, say));
    if (made) this.#host.append(made);
    this.#items.set(id, { item, message, made });
    return this.#items.get(id);
  }

  /** The focus goes on to the next one. */
  #drop(id) {
    const { item, made } = this.#items.get(id);
    const next = item.nextElementSibling ?? item.previousElementSibling ?? this.#title;
    const hasFocus = item.matches(":focus-within") || made?.matches(":focus-within");
    this.#items.delete(id);
    if (hasFocus) next.focus();
    item.remove();
    made?.remove();
  }

  #tell() {
    for (const { item, message } of this.#items.values()) {
      write(item.querySelector("time"), this.#say.ago(message.created_at));
    }
  }

  #select(event, id) {
    if (event.composedPath().some((node) => node.localName === "button")) return;
    const { message } = this.#items.get(id) ?? {};
    if (!message) return;
    const select = new CustomEvent("select", { detail: message, bubbles: true, composed: true, cancelable: true });
    if (!this.#host.dispatchEvent(select)) event.preventDefault();
    if (!message.read_at) this.#do("read", [id]);
  }

  #move(event) {
    const { items } = this;
    const item = itemOf(event);
    const place = items.indexOf(item);
    const there = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: items.length - 1 }[event.key];
    if (there !== undefined) items[Math.min(Math.max(there, 0), items.length - 1)]?.focus();
    else if (item && event.key === "Delete") item.querySelector("button:last-of-type").click();
    else if (event.key === "Enter" && event.target === item) (item.querySelector("a") ?? item).click();
    else return;
    event.preventDefault();
  }

  /** One item is reached by Tab, the others by arrows. */
  #rove(item) {
    for (const other of this.items) other.tabIndex = other === item ? 0 : -1;
  }

  /** What the user looks at is shown, and seen. */
  #look() {
    if (!this.#isShown || document.hidden) return;
    const fresh = [...this.#items.keys()].filter((id) => !this.#known.has(id));
    this.#known = new Set(this.#items.keys());
    if (fresh.length) this.#client.ack(fresh);
    if (this.#store.state().unseen && !this.#isSeeing) this.#see();
  }

  async #see() {
    this.#isSeeing = true;
    await this.#store.seen("all").catch(() => {});
    if (this.#store.state().unseen) await pause(LATER); // It failed, or there is more than the page has.
    this.#isSeeing = false;
    this.#look();
  }

  async #do(deed, which) {
    this.#refusal = null;
    await this.#store[deed](which).catch(({ message }) => (this.#refusal = message));
    this.#update();
  }
}

function itemOf(event) {
  return event.composedPath().find((node) => node.localName === "li" && node.part?.contains("item"));
}

/** What the page wants an item to be. */
function filled(template, message, say) {
  const values = { ...message, text: textOf(message), time: say.ago(message.created_at) };
  const at = (path) => path.split(".").reduce((value, key) => value?.[key], values);
  const made = template.content.cloneNode(true);
  for (const element of made.querySelectorAll("[data-field]")) {
    const value = at(element.dataset.field);
    element.textContent = typeof value === "number" ? say.number(value) : shortened(value);
    element.dir ||= "auto";
  }
  for (const element of made.querySelectorAll("a[data-href]")) {
    const href = safe(at(element.dataset.href));
    if (href) element.setAttribute("href", href);
  }
  return made;
}

class FanfareInbox extends FanfareElement {
  follow(client, signal) {
    this.show(new InboxView(this, client, signal).node);
  }
}

class FanfareBell extends FanfareElement {
  #button;
  #panel;
  #view;

  follow(client, signal) {
    const say = wordsFor(this);
    const store = inboxOf(client);
    const count = h("span", { part: "count", "aria-hidden": "true" });
    const live = h("span", { part: "live", role: "status" });
    const bell = button("bell", slot("icon", h("span", { part: "icon" })), () => this.#open(this.#panel.hidden));
    bell.append(count);
    bell.setAttribute("aria-haspopup", "dialog");
    this.#button = bell;
    this.#view = new InboxView(this, client, signal);
    this.#panel = h("div", { part: "panel", id: "panel", role: "dialog", "aria-labelledby": "title" }, this.#view.node);
    this.show(bell, this.#panel, live);
    this.#open(false);
    this.#listen(signal);

    let before = 0;
    const update = () => {
      const { unread, unseen, unreadMore } = store.state();
      const counts = `${say("new", { count: unseen })}, ${say("unread", { count: unread })}`;
      bell.setAttribute("aria-label", `${say("notifications")}: ${counts}${unreadMore ? "+" : ""}`);
      count.hidden = unseen === 0;
      write(count, unseen > COUNTED ? `${say.number(COUNTED)}+` : say.number(unseen));
      // Toasts say what it is.
      if (unseen > before && !document.querySelector(NAMES[2])) write(live, say("many", { count: unseen }));
      before = unseen;
    };
    signal.addEventListener("abort", store.subscribe(update));
    update();
  }

  #listen(signal) {
    const isInside = (node) => this.contains(node) || this.shadowRoot.contains(node);
    this.shadowRoot.addEventListener("keydown", (event) => event.key === "Escape" && this.#leave(event), { signal });
    this.#button.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown" || this.#panel.hidden) return;
      event.preventDefault();
      this.#view.focus();
    });
    const close = ({ relatedTarget: to }) => to && !isInside(to) && this.#open(false);
    for (const one of [this, this.shadowRoot]) one.addEventListener("focusout", close, { signal });
    const away = (event) => event.composedPath().includes(this) || this.#open(false);
    document.addEventListener("pointerdown", away, { signal });
  }

  #open(open) {
    this.#panel.hidden = !open;
    this.#button.setAttribute("aria-expanded", `${open}`);
    if (!open) return;
    const { left, right } = this.getBoundingClientRect();
    this.#panel.dataset.side = left + right < innerWidth ? "left" : "right";
    this.#view.focus();
  }

  #leave(event) {
    if (this.#panel.hidden) return;
    event.stopPropagation();
    this.#open(false);
    this.#button.focus();
  }
}

// --- Toasts ---------------------------------------------------------------------------------------

class FanfareToasts extends FanfareElement {
  #toasts = new Map(); // By id.
  #waiting = [];
  #region;

  follow(client, signal) {
    const say = wordsFor(this);
    this.#toasts.clear();
    this.#waiting = [];
    this.#region = h("div", { part: "toasts", role: "log", "aria-label": say("notifications") });
    this.show(this.#region);
    client.addEventListener("message", ({ detail }) => {
      if (!isForInbox(detail.topic)) return;
      if (this.#waiting.push(detail) === 1) setTimeout(() => signal.aborted || this.#tell(client, say), BURST);
    }, { signal });
    client.addEventListener("recalled", ({ detail }) => this.#drop(detail.id), { signal });
    client.addEventListener("receipt", ({ detail: { state, ids } }) => {
      if (state !== "seen" && Array.isArray(ids)) for (const id of ids) this.#drop(id);
    }, { signal });
  }

  #tell(client, say) {
    const messages = this.#waiting;
    this.#waiting = [];
    const count = messages.length;
    if (count > TOASTS) return this.#add("many", h("p", { part: "text" }, say("many", { count })), say);
    for (const message of messages) this.#add(message.id, textElement(message), say);
    if (!document.hidden) client.ack(messages.map(({ id }) => id));
  }

  #add(id, text, say) {
    this.#drop(id);
    const dismiss = button("dismiss", "×", () => this.#drop(id));
    dismiss.setAttribute("aria-label", say("dismiss"));
    const toast = h("div", { part: "toast" }, text, dismiss);
    toast.addEventListener("keydown", ({ key }) => key === "Escape" && this.#drop(id));
    this.#toasts.set(id, toast);
    this.#region.append(toast);
    for (const old of this.#toasts.keys()) if (this.#toasts.size > TOASTS) this.#drop(old);
    const expire = () => {
      if (this.#toasts.get(id) !== toast) return;
      if (document.hidden || toast.matches(":hover, :focus-within")) setTimeout(expire, TOAST / 4);
      else this.#drop(id);
    };
    setTimeout(expire, TOAST);
  }

  #drop(id) {
    this.#toasts.get(id)?.remove();
    this.#toasts.delete(id);
  }
}

// --- A task ---------------------------------------------------------------------------------------

class FanfareTask extends FanfareElement {
  static observedAttributes = ["task"];
  #state = "";
  #say;
  #label;
  #bar;
  #line;
  #cancel;
  #live;

  follow(client, signal) {
    const say = (this.#say = wordsFor(this));
    const id = this.getAttribute("task") ?? "";
    const path = `tasks/${encodeURIComponent(id)}`;
    this.#state = "";
    this.#label = h("span", { dir: "auto" }, say("task"));
    this.#bar = h("progress", { part: "bar", max: "1", value: "0", "aria-labelledby": "label" });
    this.#line = h("p", { part: "state", dir: "auto", tabindex: "-1" });
    const note = h("p", { part: "note", role: "status" });
    this.#live = h("p", { part: "live", role: "status" });
    this.#cancel = button("action", say("cancel"), async () => {
      const error = await client.request(path, { method: "DELETE" }).then(() => null, (refusal) => refusal);
      write(note, error ? say("notDone", { reason: error.message }) : "");
    });
    this.#cancel.setAttribute("aria-describedby", "label");
    this.#cancel.hidden = true;
    const head = h("p", { part: "label", id: "label" }, slot("label", this.#label));
    this.show(h("div", { part: "task" }, head, this.#cancel, this.#bar, this.#line, note, this.#live));
    if (!id) return;

    const load = async () => {
      try {
        const { payload, type, ...now } = await client.request(path);
        const text = [payload, payload?.data, type].find((one) => typeof one === "string");
        if (signal.aborted) return;
        write(note, "");
        this.#update(now, shortened(text));
      } catch (error) {
        write(note, say("notLoaded", { reason: error.message }));
      }
    };
    client.addEventListener("state", ({ detail }) => detail.state === "online" && load(), { signal });
    client.addEventListener("task", ({ detail }) => detail.task === id && this.#update(detail), { signal });
    if (client.state.state === "online") load();
  }

  #update({ state, progress, note, error }, text) {
    if (text) write(this.#label, text);
    if (ENDS.has(this.#state) && state === "running") return; // Late.
    const says = { running: shortened(note), queued: shortened(error) }[state];
    write(this.#line, says || (state === "failed" ? this.#say(state, { reason: error }) : this.#say(`${state}`)));
    this.#bar.value = Math.min(Math.max(Number(progress) || 0, 0), 1);
    this.#bar.parentElement.dataset.state = state;
    if (ENDS.has(state) && this.#cancel.matches(":focus")) this.#line.focus();
    this.#cancel.hidden = ENDS.has(state);
    if (ENDS.has(state) && this.#state && this.#state !== state) {
      write(this.#live, `${this.#label.textContent}: ${this.#line.textContent}`);
      this.dispatchEvent(new CustomEvent("end", { detail: { state } }));
    }
    this.#state = state;
  }
}

// --- Who is there ---------------------------------------------------------------------------------

const watching = new WeakMap(); // By client: who is shown, and by what.

/** Watches for all elements at once: a client has one list. */
function watch(client, user, tell, signal) {
  const users = watching.get(client) ?? new Map();
  watching.set(client, users);
  const tellers = users.get(user) ?? new Set();
  users.set(user, tellers.add(tell));
  ask(client, users);
  signal.addEventListener("abort", () => {
    tellers.delete(tell);
    if (!tellers.size && users.get(user) === tellers) users.delete(user);
    ask(client, users);
  });
}

async function ask(client, users) {
  if (users.isAsking) return;
  users.isAsking = true;
  await Promise.resolve();
  users.isAsking = false;
  const tell = (presence) => users.get(presence.user)?.forEach((one) => one(presence));
  const { refused } = await client.watch([...users.keys()].slice(0, WATCHED), tell).catch(() => ({}));
  for (const user of Array.isArray(refused) ? refused : []) tell({ user, status: "UNKNOWN" });
}

class FanfarePresence extends FanfareElement {
  static observedAttributes = ["user"];

  follow(client, signal) {
    const say = wordsFor(this);
    const user = this.getAttribute("user");
    const dot = h("span", { part: "dot", "aria-hidden": "true" });
    const name = h("span", { part: "name", dir: "auto" }, slot("", user ?? ""));
    const status = h("span", { part: "status live" });
    const text = h("span", { part: "text", dir: "auto" });
    this.show(dot, name, " ", status, text);
    if (!user) return;
    watch(client, user, (presence) => {
      const isHere = presence.status === "ONLINE";
      const now = `${isHere ? presence.availability : presence.status}`.toLowerCase();
      dot.part = `dot ${now}`;
      write(status, say(now));
      write(text, isHere ? shortened(presence.text) : "");
    }, signal);
  }
}

// --- A board --------------------------------------------------------------------------------------

class FanfareBoard extends FanfareElement {
  static observedAttributes = ["name", "me", "top"];
  #rows = new Map(); // By name.
  #drawing;
  #drawnAt = -Infinity;
  #leading;

  #store;
  #say;
  #body;
  #empty;
  #own;
  #total;
  #live;

  follow(client, signal) {
    const name = this.getAttribute("name");
    const say = (this.#say = wordsFor(this));
    this.#rows.clear();
    this.#body = h("tbody");
    this.#empty = h("p", { part: "empty" }, say("loading"));
    this.#own = h("p", { part: "me" });
    this.#total = h("p", { part: "total" });
    this.#live = h("p", { part: "live", role: "status" });
    const column = (key) => h("th", { scope: "col", part: "column" }, say(key));
    const caption = h("caption", { part: "caption", dir: "auto" }, slot("header", name ?? ""));
    const head = h("thead", {}, h("tr", {}, column("place"), column("name"), column("points")));
    const table = h("table", { part: "table" }, caption, head, this.#body);
    this.show(h("div", { part: "board" }, table, slot("empty", this.#empty), this.#own, this.#total, this.#live));
    if (!name) return;
    const top = Math.min(Math.max(Math.trunc(Number(this.getAttribute("top"))) || 10, 1), 100);
    this.#store = board(client, name, { me: this.hasAttribute("me"), top });
    this.#store.addEventListener("change", () => this.#plan());
    signal.addEventListener("abort", () => {
      this.#store.close();
      clearTimeout(this.#drawing);
      clearTimeout(this.#leading);
      this.#drawing = undefined;
    });
    this.#plan();
  }

  #plan() {
    this.#drawing ??= setTimeout(() => this.#draw(), this.#drawnAt + PACE - performance.now());
  }

  #draw() {
    this.#drawing = undefined;
    this.#drawnAt = performance.now();
    const { rows, me, total, loading, error } = this.#store.state();
    const arrange = () => this.#arrange(rows, me);
    const first = this.#body.querySelector("th")?.textContent;
    if (calm.matches) arrange();
    else this.#glide(arrange);
    if (this.#body.querySelector("th")?.textContent !== first) this.#announce(first !== undefined);
    write(this.#empty, this.#say(error ? "notLoaded" : loading ? "loading" : "nobody", { reason: error?.message }));
    this.#empty.parentElement.hidden = rows.length > 0 && !error;
    write(this.#total, rows.length ? this.#say("players", { count: total }) : "");
    write(this.#own, me ? this.#say("you", { place: me.position, total: me.total, points: me.score }) : "");
  }

  #arrange(rows, me) {
    const names = new Set(rows.map(({ name }) => name));
    for (const [name, row] of this.#rows) {
      if (names.has(name)) continue;
      row.remove();
      this.#rows.delete(name);
    }
    for (const { name, score, rank } of rows) {
      const row = this.#rows.get(name) ?? standing(name);
      this.#rows.set(name, row);
      row.part.toggle("own", me?.rank === rank && me.score === score);
      write(row.firstElementChild, this.#say.number(rank + 1));
      write(row.lastElementChild, this.#say.number(score));
      if (this.#body.children[rank] !== row) this.#body.insertBefore(row, this.#body.children[rank] ?? null);
    }
  }

  /** Lets rows glide from where they were to where `arrange` puts them. */
  #glide(arrange) {
    const before = [...this.#rows.values()].map((row) => [row, row.offsetTop]);
    arrange();
    for (const [row, top] of before) {
      const by = top - row.offsetTop;
      const from = { transform: `translateY(${by}px)` };
      if (by && row.isConnected) row.animate([from, {}], { duration: MOVES, easing: "ease" });
    }
  }

  /** Not each change: who is first, once that has stayed so for a while. */
  #announce(isNews) {
    clearTimeout(this.#leading);
    this.#leading = setTimeout(() => {
      const name = this.#body.querySelector("th")?.textContent;
      if (isNews && name) write(this.#live, this.#say("leads", { name }));
    }, LEADS);
  }
}

function standing(name) {
  const person = h("th", { scope: "row", part: "player", dir: "auto" }, shortened(name));
  return h("tr", { part: "row" }, h("td", { part: "place" }), person, h("td", { part: "points" }));
}

function pause(delay) {
  return new Promise((resolve) => setTimeout(resolve, delay));
}

// --- Styles ---------------------------------------------------------------------------------------

const sheet = new CSSStyleSheet();
sheet.replaceSync(`
:host {
  --surface: var(--fanfare-surface, light-dark(#fff, #1f2322));
  --ink: var(--fanfare-ink, light-dark(#1b1f1e, #eceeec));
  --muted: var(--fanfare-muted, light-dark(#5d6562, #a2aba7));
  --line: var(--fanfare-line, light-dark(#dfddd4, #3a403e));
  --accent: var(--fanfare-accent, light-dark(#0f6e64, #58c6b6));
  --wash: var(--fanfare-wash, light-dark(#e3f1ee, #17332f));
  --bad: var(--fanfare-bad, light-dark(#b3261e, #ff8f85));
  --radius: var(--fanfare-radius, 14px);
  display: block;
  color: var(--ink);
  font: var(--fanfare-font, 1rem/1.45 system-ui, sans-serif);
  overflow-wrap: anywhere;
  text-align: start;
}
:host([hidden]), [hidden] { display: none !important; }
:host(fanfare-bell), :host(fanfare-presence) { position: relative; display: inline-block; }
:host(fanfare-toasts) { position: fixed; z-index: 2147483646; inset-block-end: 1rem; inset-inline-end: 1rem; width: min(22rem, calc(100vw - 2rem)); }
*, ::before, ::after { box-sizing: border-box; }
h2, p, ol { margin: 0; padding: 0; list-style: none; }
button { padding: 0.2rem 0.5rem; border: 0; border-radius: 8px; background: none; color: var(--accent); font: inherit; font-size: 0.8125rem; font-weight: 600; min-height: 2rem; cursor: pointer; }
button:hover:enabled { background: var(--wash); }
button:disabled { color: var(--muted); cursor: default; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: -2px; border-radius: 6px; }
[part~=live] { position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

[part~=bell] { position: relative; display: grid; place-items: center; width: 2.75rem; height: 2.75rem; border-radius: 50%; color: inherit; }
[part~=icon] { width: 24px; height: 24px; background: currentcolor; clip-path: path("M4 18v-1l2-3V10a6 6 0 0 1 4.5-5.8a1.5 1.5 0 0 1 3 0A6 6 0 0 1 18 10v4l2 3v1ZM9.5 19.5h5a2.5 2.5 0 0 1-5 0Z"); }
[part~=count] { position: absolute; inset-block-start: 0; inset-inline-start: 50%; min-width: 1.25rem; padding: 0 0.3rem; border-radius: 1rem; background: var(--bad); color: light-dark(#fff, #2b0a07); font-size: 0.75rem; font-weight: 700; line-height: 1.25rem; text-align: center; }
[part~=panel], [part~=toast] { overflow: hidden; border: 1px solid var(--line); border-radius: var(--radius); background: var(--surface); box-shadow: 0 4px 24px rgb(0 0 0 / 25%); }
[part~=panel] { position: absolute; z-index: 2147483645; top: 100%; width: 24rem; max-width: calc(100vw - 1rem); }
[data-side="left"] { left: 0; }
[data-side="right"] { right: 0; }
@media (max-width: 30rem) {
  [part~=panel] { position: fixed; top: auto; left: 0.5rem; right: 0.5rem; width: auto; }
}

[part~=inbox] { display: flex; flex-direction: column; max-height: var(--fanfare-inbox-height, min(32rem, 75vh)); }
[part~=header] { display: flex; align-items: center; justify-content: space-between; padding: 0.4rem 0.5rem; padding-inline-start: 1rem; border-block-end: 1px solid var(--line); }
[part~=title] { font-size: 1rem; font-weight: 620; }
[part~=list] { min-height: 0; overflow-y: auto; overscroll-behavior: contain; }
[part~=item] { position: relative; padding: 0.7rem 1rem 0.3rem; border-block-end: 1px solid var(--line); color: var(--muted); }
[part~=unread] { color: var(--ink); }
[part~=mark] { position: absolute; inset-block-start: 1.1rem; inset-inline-start: 0.35rem; width: 0.45rem; height: 0.45rem; border-radius: 50%; background: var(--accent); }
[part~=meta] { display: flex; gap: 0.5rem; color: var(--muted); font-size: 0.8125rem; }
[part~=from] { overflow: hidden; font-weight: 600; text-overflow: ellipsis; white-space: nowrap; }
[part~=from]:empty { display: none; }
[part~=text] { white-space: pre-wrap; }
[part~=item] [part~=text], [part~=toast] [part~=text] { display: -webkit-box; overflow: hidden; -webkit-box-orient: vertical; -webkit-line-clamp: 3; }
[part~=link] { color: inherit; }
[part~=actions] { display: flex; gap: 0.25rem; margin-inline-start: -0.5rem; }
[part~=more] { flex: none; min-height: 2.5rem; }
[part~=empty] { padding: 1.5rem 1rem; color: var(--muted); text-align: center; }
[part~=note]:not(:empty) { padding: 0.5rem 1rem; color: var(--bad); font-size: 0.875rem; }

[part~=toasts] { display: grid; gap: 0.5rem; }
[part~=toast] { display: flex; align-items: start; padding: 0.5rem; padding-inline-start: 1rem; }
[part~=toast] > p { flex: 1; min-width: 0; margin-block: 0.2rem; }
[part~=dismiss] { flex: none; width: 2rem; font-size: 1.25rem; line-height: 1; }

[part~=task] { display: grid; grid-template-columns: 1fr auto; gap: 0.3rem 0.75rem; align-items: center; }
[part~=label] { overflow: hidden; min-height: 2rem; line-height: 2rem; text-overflow: ellipsis; white-space: nowrap; }
[part~=task] > :is(progress, [part~=state], [part~=note]) { grid-column: 1 / -1; }
[part~=state] { color: var(--muted); font-size: 0.8125rem; }
[data-state="failed"] [part~=state] { color: var(--bad); }
progress { width: 100%; height: 0.5rem; accent-color: var(--accent); }
[data-state="failed"] progress { accent-color: var(--bad); }

[part~=dot] { display: inline-block; width: 0.6rem; height: 0.6rem; margin-inline-end: 0.4rem; border: 2px solid var(--muted); border-radius: 50%; }
[part~=dot][part~=available] { border-color: var(--accent); background: var(--accent); }
[part~=dot][part~=busy] { border-color: var(--bad); background: var(--bad); }
:host(fanfare-presence) [part~=text]:not(:empty) { margin-inline-start: 0.4rem; color: var(--muted); font-size: 0.875em; }

[part~=board] { padding: 0.5rem 1rem; overflow: hidden; }
[part~=inbox], [part~=board] { border-radius: var(--radius); background: var(--surface); }
[dir="auto"] { text-align: match-parent; }
table { width: 100%; border-collapse: collapse; table-layout: fixed; }
caption { padding: 0.4rem 0.5rem; font-weight: 620; text-align: start; }
th, td { height: 2.4rem; padding: 0 0.5rem; font-weight: 400; text-align: start; font-variant-numeric: tabular-nums; }
thead th { color: var(--muted); font-size: 0.8125rem; }
:is(th, td):first-child { width: 3.75rem; }
:is(th, td):last-child { width: 7rem; text-align: end; }
tbody > tr { border-block-start: 1px solid var(--line); background: var(--surface); }
tbody > tr[part~=own] { background: var(--wash); }
[part~=player] { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
[part~=place], [part~=total] { color: var(--muted); }
:is([part~=me], [part~=total]):not(:empty) { padding: 0.4rem 0.5rem 0; font-size: 0.875rem; }

@media (pointer: coarse) { button { min-height: 2.75rem; } }
@media (prefers-reduced-motion: no-preference) {
  [part~=toast] { animation: rise 0.25s; }
}
@keyframes rise { from { opacity: 0; } }
@media (forced-colors: active) {
  [part~=icon] { background: ButtonText; }
  [part~=icon], [part~=dot], [part~=mark] { forced-color-adjust: none; }
}
`);

const elements = [FanfareBell, FanfareInbox, FanfareToasts, FanfareTask, FanfarePresence, FanfareBoard];
elements.forEach((element, place) => customElements.get(NAMES[place]) ?? customElements.define(NAMES[place], element));
