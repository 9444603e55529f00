/** The bell and what it opens: a user's inbox as the server has it, the same on all of the user's devices. */

import { from, made, routeOf, showTime, textOf } from "./demo_page.js";
import { inbox } from "./fanfare-state.js";

const SHOWN = 20;
const COUNTED = 99; // In the badge.
const PAUSE = 5000; // Milliseconds after what did not work.

export class Inbox {
  #items = new Map(); // By id.
  #toAck = new Set(); // Ids, until somebody can see them.
  #acked = new Set();
  #isSeeing = false;

  #user;
  #name;
  #onOpen;
  #say;
  #store;
  #client;
  #bell;
  #box;
  #list;

  /** `onOpen()`: it was opened. `say(text)`: what did not work. */
  constructor(section, { name, client, onOpen, say }) {
    this.#user = section.dataset.user;
    this.#client = client;
    this.#name = name;
    this.#onOpen = onOpen;
    this.#say = say;
    this.#bell = section.querySelector(".bell");
    this.#box = section.querySelector(".news");
    this.#list = this.#box.querySelector("ol");
    this.#bell.addEventListener("click", () => this.#open(this.#box.hidden));
    this.#box.querySelector(".read-all").addEventListener("click", () => this.#do("read", "all"));
    section.addEventListener("keydown", ({ key }) => key === "Escape" && !this.#box.hidden && this.#leave());
    document.addEventListener("pointerdown", ({ target }) => this.#isInside(target) || this.#open(false));
    document.addEventListener("visibilitychange", () => this.#look());
    this.#store = inbox(client);
    this.#store.subscribe(() => this.#show());
  }

  /** What the user does here shows on all of their devices. */
  async #do(deed, which) {
    try {
      await this.#store[deed](which);
    } catch (error) {
      this.#say(`Not done: ${error.message}`);
      await pause(PAUSE);
    }
  }

  #count({ unread, unseen, unreadMore }) {
    const badge = this.#bell.querySelector(".count");
    badge.hidden = unseen === 0;
    badge.textContent = unseen > COUNTED ? `${COUNTED}+` : `${unseen}`;
    const all = `${unread || "none"}${unreadMore ? " or more" : ""} unread`;
    this.#bell.querySelector(".bell-label").textContent =
      `Notifications of ${this.#name}: ${unseen || "none"} new, ${all}`;
    this.#box.querySelector(".read-all").disabled = unread === 0;
  }

  /** Looking is seeing: also what comes while the list is open. */
  #look() {
    if (document.visibilityState === "hidden") return;
    if (this.#toAck.size) this.#client.ack(this.#toAck);
    this.#toAck.clear();
    if (!this.#box.hidden && this.#store.state().unseen && !this.#isSeeing) this.#see();
  }

  async #see() {
    this.#isSeeing = true;
    await this.#do("seen", "all");
    this.#isSeeing = false;
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
    const { messages, more, error, ...counts } = this.#store.state();
    const shown = messages.slice(0, SHOWN);
    const ids = new Set(shown.map(({ id }) => id));
    for (const [id, item] of this.#items) if (!ids.has(id)) this.#drop(id, item);
    shown.forEach((message, place) => {
      const item = this.#items.get(message.id) ?? this.#add(message);
      if (this.#list.children[place] !== item) this.#list.insertBefore(item, this.#list.children[place] ?? null);
      item.classList.toggle("unread", !message.read_at);
      item.querySelector(".mark").hidden = Boolean(message.read_at);
      item.querySelector(".toggle").textContent = message.read_at ? "Mark unread" : "Mark read";
      if (!message.seen_at && !this.#acked.has(message.id)) this.#toAck.add(message.id);
      this.#acked.add(message.id);
    });
    const about = this.#box.querySelector(".empty");
    about.hidden = ids.size > 0 && !more && messages.length <= SHOWN;
    about.textContent = ids.size ? `The newest ${ids.size} are shown.` : "Nothing here.";
    if (error) this.#say(`The inbox could not be loaded: ${error.message}`);
    this.#count(counts);
    this.#look();
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
    item.querySelector(".archive").addEventListener("click", () => this.#do("archive", id));
    item.querySelector(".toggle").addEventListener("click", () => {
      const isRead = this.#store.state().messages.find((other) => other.id === id)?.read_at;
      this.#do(isRead ? "unread" : "read", id);
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

function pause(delay) {
  return new Promise((resolve) => setTimeout(resolve, delay));
}
