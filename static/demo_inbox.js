/** The bell and what it opens: a user's inbox as the server has it, the same on all of the user's devices. */

import { from, made, routeOf, showTime, textOf } from "./demo_page.js";

const SHOWN = 20;
const COUNTED = 99; // In the badge.
const NAMED = 1000; // Ids in one receipt: with so many, there may be others.
const PAUSE = 300; // Milliseconds from one page to the next.
const LATER = 5000;

export class Inbox {
  #messages = []; // Newest first, as the API shows them.
  #items = new Map(); // By id.
  #counts = { unread: 0, unseen: 0, unread_more: false };
  #hasMore = false;
  #isLoading = false;
  #isStale = false;
  #toAck = new Set(); // Ids, until somebody can see them.
  #acked = new Set();

  #isSeeing = false;

  #user;
  #name;
  #onOpen;
  #say;
  #api;
  #client;
  #bell;
  #box;
  #list;

  /** `onOpen()`: it was opened. `say(text)`: what did not work. */
  constructor(section, { name, api, client, onOpen, say }) {
    this.#user = section.dataset.user;
    this.#api = api;
    this.#client = client;
    this.#name = name;
    this.#onOpen = onOpen;
    this.#say = say;
    this.#bell = section.querySelector(".bell");
    this.#box = section.querySelector(".news");
    this.#list = this.#box.querySelector("ol");
    this.#bell.addEventListener("click", () => this.#open(this.#box.hidden));
    this.#box.querySelector(".read-all").addEventListener("click", () => this.#do("read", { all: true }));
    section.addEventListener("keydown", ({ key }) => key === "Escape" && !this.#box.hidden && this.#leave());
    document.addEventListener("pointerdown", ({ target }) => this.#isInside(target) || this.#open(false));
    document.addEventListener("visibilitychange", () => this.#look());
    client.addEventListener("state", ({ detail }) => detail.state === "online" && this.load());
    client.addEventListener("message", ({ detail }) => this.#receive(detail));
    client.addEventListener("recalled", ({ detail }) => this.#recall(detail));
    client.addEventListener("reset", () => this.load());
    client.addEventListener("receipt", ({ detail }) => this.#change(detail.state, detail.ids));
    client.addEventListener("unread", ({ detail }) => this.#count(detail));
  }

  /** The first page as it is now; and once more for what comes meanwhile, as that may be in it or not. */
  async load() {
    this.#isStale = true;
    if (this.#isLoading) return;
    this.#isLoading = true;
    try {
      while (this.#isStale) {
        this.#isStale = false;
        const { messages, next, ...counts } = await this.#api.get(`/api/inbox?limit=${SHOWN}`);
        this.#messages = messages;
        this.#hasMore = next !== null;
        this.#show();
        this.#count(counts);
        this.#ack(messages.filter(({ seen_at }) => !seen_at));
        await pause(PAUSE);
      }
    } catch (error) {
      if (!this.#isOnline()) return; // It will be loaded then.
      this.#say(`The inbox could not be loaded: ${error.message}`);
      setTimeout(() => this.#isOnline() && this.load(), LATER);
    } finally {
      this.#isLoading = false;
    }
  }

  #receive(message) {
    if (!isForInbox(message.topic) || message.offset === null) return;
    this.#ack([message]);
    if (this.#isLoading) return (this.#isStale = true);
    if (this.#messages.some(({ id }) => id === message.id)) return;
    this.#messages.unshift({ ...message, seen_at: null, read_at: null });
    this.#hasMore ||= this.#messages.length > SHOWN;
    this.#messages.splice(SHOWN);
    this.#show();
    const { unread, unseen, unread_more } = this.#counts;
    this.#count({ unread: unread + 1, unseen: unseen + 1, unread_more });
  }

  #recall({ topic, id }) {
    if (!isForInbox(topic)) return;
    this.#toAck.delete(id);
    this.#messages = this.#messages.filter((message) => message.id !== id);
    this.#show();
    this.load(); // Only the server knows whether it had counted.
  }

  /** Some of the user's devices did this. */
  #change(deed, ids) {
    const now = new Date().toISOString();
    for (const message of this.#messages.filter(({ id }) => ids.includes(id))) {
      message.seen_at ??= now;
      if (deed === "read") message.read_at ??= now;
      if (deed === "unread") message.read_at = null;
      if (deed === "archive") message.archived_at = now;
    }
    this.#messages = this.#messages.filter(({ archived_at }) => !archived_at);
    this.#show();
    const isShort = this.#hasMore && this.#messages.length < SHOWN;
    if (this.#isLoading || isShort || ids.length >= NAMED) this.load();
  }

  /** What the user does here comes back as events, to all of the user's devices. */
  async #do(deed, which) {
    try {
      const { receipted, ...counts } = await this.#client.receipt(deed, which);
      this.#change(deed, receipted);
      this.#count(counts);
      return true;
    } catch (error) {
      this.#say(`Not done: ${error.message}`);
      return false;
    }
  }

  #count({ unread, unseen, unread_more }) {
    this.#counts = { unread, unseen, unread_more };
    const badge = this.#bell.querySelector(".count");
    badge.hidden = unseen === 0;
    badge.textContent = unseen > COUNTED ? `${COUNTED}+` : `${unseen}`;
    const all = `${unread || "none"}${unread_more ? " or more" : ""} unread`;
    this.#bell.querySelector(".bell-label").textContent =
      `Notifications of ${this.#name}: ${unseen || "none"} new, ${all}`;
    this.#box.querySelector(".read-all").disabled = unread === 0;
    this.#look();
  }

  /** Looking is seeing: also what comes while the list is open. */
  #look() {
    if (document.visibilityState === "hidden") return;
    if (this.#toAck.size) this.#client.ack(this.#toAck);
    this.#toAck.clear();
    if (!this.#box.hidden && this.#counts.unseen && !this.#isSeeing) this.#see();
  }

  async #see() {
    this.#isSeeing = true;
    const isDone = await this.#do("seen", { all: true });
    await pause(PAUSE);
    this.#isSeeing = false;
    if (isDone) this.#look();
  }

  #isOnline() {
    return this.#client.state.state === "online";
  }

  #ack(messages) {
    for (const { id } of messages) {
      if (!this.#acked.has(id)) this.#toAck.add(id);
      this.#acked.add(id);
    }
    this.#look();
  }

  #open(open) {
    if (open === !this.#box.hidden) return;
    this.#box.hidden = !open;
    this.#bell.setAttribute("aria-expanded", `${open}`);
    if (!open) return;
    this.#onOpen();
    this.#look();
  }

  #leave() {
    this.#open(false);
    this.#bell.focus();
  }

  #isInside(target) {
    return this.#box.contains(target) || this.#bell.contains(target);
  }

  /** Items stay where they are, so that nobody who is about to press a button loses it. */
  #show() {
    const ids = new Set(this.#messages.map(({ id }) => id));
    for (const [id, item] of this.#items) if (!ids.has(id)) this.#drop(id, item);
    this.#messages.forEach((message, place) => {
      const item = this.#items.get(message.id) ?? this.#add(message);
      if (this.#list.children[place] !== item) this.#list.insertBefore(item, this.#list.children[place] ?? null);
      item.classList.toggle("unread", !message.read_at);
      item.querySelector(".mark").hidden = Boolean(message.read_at);
      item.querySelector(".toggle").textContent = message.read_at ? "Mark unread" : "Mark read";
    });
    const about = this.#box.querySelector(".empty");
    about.hidden = ids.size > 0 && !this.#hasMore;
    about.textContent = ids.size ? `The newest ${ids.size} are shown.` : "Nothing here.";
  }

  #add(message) {
    const { id } = message;
    const item = made("entry");
    const text = item.querySelector(".text");
    item.querySelector(".from").textContent = from(message);
    item.querySelector(".route").textContent = routeOf(message, this.#user);
    showTime(item.querySelector("time"), message.created_at);
    text.textContent = textOf(message);
    text.id = `${this.#user}-${id}`;
    for (const button of item.querySelectorAll("button")) button.setAttribute("aria-describedby", text.id);
    item.querySelector(".archive").addEventListener("click", () => this.#do("archive", { ids: [id] }));
    item.querySelector(".toggle").addEventListener("click", () => {
      const isRead = this.#messages.find((other) => other.id === id)?.read_at;
      this.#do(isRead ? "unread" : "read", { ids: [id] });
    });
    this.#items.set(id, item);
    return item;
  }

  /** The focus goes on to the next one. */
  #drop(id, item) {
    if (item.contains(document.activeElement)) {
      const next = item.nextElementSibling ?? item.previousElementSibling;
      (next?.querySelector(".archive") ?? this.#bell).focus();
    }
    item.remove();
    this.#items.delete(id);
  }
}

/** A room has no part in it. */
function isForInbox(topic) {
  return !topic.startsWith("topic.");
}

function pause(delay) {
  return new Promise((resolve) => setTimeout(resolve, delay));
}
