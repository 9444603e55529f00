/** The demo page: one panel for each user, with a connection and a credential of its own. */

import { connect } from "./fanfare.js";

const REMEMBERED = 20; // Messages of each topic that a reload shows again.
const SHOWN = 60;
const NEWS = 5;
const COUNTED = 99;
const TOASTS = 2;
const SPOKEN = 3;
const TOAST_MS = 6000;
const TEXT_MAX = 2000;

const room = document.body.dataset.room;
const csrfToken = document.querySelector('meta[name="csrf-token"]').content;

class Panel {
  #messages = []; // Newest first: {message, item, at}.
  #recalled = []; // Ids.
  #unseen = []; // Since the bell was last opened,
  #inNews = []; // and what it has shown since.
  #client;
  #retry;
  #wasOffline = false;

  constructor(section) {
    this.user = section.dataset.user;
    this.name = title(this.user);
    this.section = section;
    this.bell = section.querySelector(".bell");
    this.news = section.querySelector(".news");
    this.list = section.querySelector(".messages");
    this.toasts = section.querySelector(".toasts");
    this.form = section.querySelector(".composer");
    this.note = section.querySelector(".note");
    this.bell.addEventListener("click", () => this.#openNews(this.news.hidden));
    section.addEventListener("keydown", ({ key }) => key === "Escape" && !this.news.hidden && this.#leaveNews());
    document.addEventListener("pointerdown", ({ target }) => this.#isNews(target) || this.#openNews(false));
    this.form.addEventListener("submit", (event) => this.#send(event));
  }

  /** Shows what was there before, then goes live from exactly that place. */
  async start() {
    const topics = {};
    for (const topic of [`user.${this.user}`, room, "all"]) {
      topics[topic] = await this.#load(topic).catch((error) => this.#notLoaded(error));
    }
    const client = connect({ topics, getToken: () => getToken(this.user) });
    client.addEventListener("state", ({ detail }) => this.#showState(detail));
    client.addEventListener("message", ({ detail }) => this.#receive(detail));
    client.addEventListener("recalled", ({ detail }) => this.#recall(detail.id));
    client.addEventListener("reset", ({ detail }) => this.#reload(detail.topic));
    client.addEventListener("error", ({ detail }) => this.#showError(detail));
    this.#client = client;
  }

  /** The last messages of a topic into the list; resolves with the position after them. */
  async #load(topic) {
    const headers = { Authorization: `Bearer ${await getToken(this.user)}` };
    const read = (query) => getJSON(`/api/topics/${encodeURIComponent(topic)}/messages?${query}`, { headers });
    const { head } = await read("limit=1");
    const { epoch, messages } = await read(`since=${Math.max(0, head - REMEMBERED)}&limit=${REMEMBERED}`);
    for (const message of messages) this.#add(message);
    return { epoch, offset: Math.max(head, ...messages.map(({ offset }) => offset)) };
  }

  async #reload(topic) {
    this.#remove(({ message }) => message.topic === topic);
    await this.#load(topic).catch((error) => this.#notLoaded(error));
  }

  #notLoaded(error) {
    this.#say(`What came before could not be loaded: ${error.message}`);
  }

  #receive(message) {
    const item = this.#add(message);
    if (!item || message.sender === this.user) return;
    item.classList.add("new");
    this.#toast(message);
    announce(`${this.name}: new from ${from(message)}: ${textOf(message)}`);
    if (!this.news.hidden) return this.#listNews([message, ...this.#inNews]); // Seen as it comes.
    this.#unseen = [message, ...this.#unseen].slice(0, COUNTED + 1);
    this.#countNews();
  }

  /** The new item, in its place by time; nothing when the message is there already, or too old to be shown. */
  #add(message) {
    if (this.#recalled.includes(message.id)) return undefined; // While it was being loaded.
    if (this.#messages.some((other) => other.message.id === message.id)) return undefined;
    const at = new Date(message.created_at);
    const item = document.getElementById("message").content.firstElementChild.cloneNode(true);
    item.querySelector(".from").textContent = message.sender === this.user ? "You" : from(message);
    item.querySelector(".route").textContent = this.#route(message);
    item.querySelector(".text").textContent = textOf(message);
    item.querySelector("time").textContent = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    item.querySelector("time").dateTime = message.created_at;
    item.classList.toggle("own", message.sender === this.user);
    const found = this.#messages.findIndex((other) => other.at <= at);
    const place = found < 0 ? this.#messages.length : found;
    this.list.insertBefore(item, this.list.children[place] ?? null);
    this.#messages.splice(place, 0, { message, item, at });
    for (const old of this.#messages.splice(SHOWN)) old.item.remove();
    return place < SHOWN ? item : undefined;
  }

  #recall(id) {
    this.#recalled = [id, ...this.#recalled].slice(0, SHOWN);
    this.#remove(({ message }) => message.id === id);
  }

  #route({ topic, type }) {
    const kind = type === "message" ? [] : [type];
    return [...kind, ...(topic === `user.${this.user}` ? [] : ["to everyone"])].join(" · ");
  }

  #remove(matches) {
    for (const entry of this.#messages.filter(matches)) entry.item.remove();
    this.#messages = this.#messages.filter((entry) => !matches(entry));
    this.#unseen = this.#unseen.filter((message) => !matches({ message }));
    this.#countNews();
  }

  #toast(message) {
    const toast = document.createElement("p");
    toast.className = "toast";
    toast.append(...inShort(message));
    this.toasts.append(toast);
    while (this.toasts.children.length > TOASTS) this.toasts.firstElementChild.remove();
    setTimeout(() => toast.remove(), TOAST_MS);
  }

  #countNews() {
    const count = this.#unseen.length;
    const badge = this.bell.querySelector(".count");
    badge.hidden = count === 0;
    badge.textContent = count > COUNTED ? `${COUNTED}+` : `${count}`;
    this.bell.querySelector(".bell-label").textContent = `Notifications of ${this.name}: ${count || "none"} new`;
  }

  /** Looking is seeing: opening the bell sets its count back. */
  #openNews(open) {
    if (open === !this.news.hidden) return;
    this.news.hidden = !open;
    this.bell.setAttribute("aria-expanded", `${open}`);
    if (open) this.#listNews(this.#unseen);
    this.toasts.replaceChildren();
    for (const { item } of this.#messages) item.classList.remove("new");
    this.#unseen = [];
    this.#countNews();
  }

  #listNews(messages) {
    this.#inNews = messages.slice(0, SHOWN);
    const items = this.#inNews.slice(0, NEWS).map((message) => {
      const item = document.createElement("li");
      const lines = item.appendChild(document.createElement("span"));
      lines.append(...inShort(message));
      return item;
    });
    this.news.querySelector("ul").replaceChildren(...items);
    const more = messages.length - items.length;
    this.news.querySelector(".empty").textContent = more ? `and ${more} more, in the list.` : "Nothing new.";
    this.news.querySelector(".empty").hidden = messages.length > 0 && more === 0;
  }

  #leaveNews() {
    this.#openNews(false);
    this.bell.focus();
  }

  #isNews(target) {
    return this.news.contains(target) || this.bell.contains(target);
  }

  async #send(event) {
    event.preventDefault();
    const input = this.form.elements.text;
    const text = input.value.trim();
    if (!text || !this.#client || this.form.ariaBusy === "true") return;
    this.form.ariaBusy = "true";
    if (this.#client.state.state === "offline") this.#say("This goes out as soon as the connection is back.");
    try {
      const { topic, offset } = await this.#client.publish(this.form.elements.to.value, { text });
      input.value = "";
      this.#say(`Stored in ${topic}, as number ${offset}.`);
    } catch (error) {
      this.#say(`Not sent: ${error.message}`);
    } finally {
      this.form.ariaBusy = "false";
      input.focus();
    }
  }

  #showState({ state, retryAt, reason }) {
    clearInterval(this.#retry);
    const show = (text) => {
      const line = this.section.querySelector(".state");
      line.dataset.state = state;
      line.textContent = text;
    };
    if (state === "connecting" && !this.#wasOffline) show("Connecting…");
    if (state === "connecting" && this.#wasOffline) show("Coming back…");
    if (state === "closed") show(`Closed: ${reason || "the server refused"}. Reload the page.`);
    if (state === "online") {
      show("Live");
      if (this.#wasOffline) announce(`${this.name} is live again.`);
      this.#wasOffline = false;
    }
    if (state === "offline") {
      const tick = () => show(`Offline, back in ${Math.max(1, Math.ceil((retryAt - Date.now()) / 1000))} s`);
      tick();
      this.#retry = setInterval(tick, 1000);
      if (!this.#wasOffline) announce(`${this.name} has lost the connection and will come back.`);
      this.#wasOffline = true;
    }
  }

  #showError({ code, message }) {
    if (code !== "no_connection") this.#say(message); // The state says that one, once.
  }

  /** A line under the box, also read aloud. */
  #say(text) {
    this.note.textContent = text;
    announce(`${this.name}: ${text}`);
  }
}

async function getToken(user) {
  const { token } = await getJSON("/demo/token", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRFToken": csrfToken },
    body: JSON.stringify({ user }),
  });
  return token;
}

/** The JSON of a reply; rejects with the reason that the server gave. */
async function getJSON(url, options) {
  const reply = await fetch(url, { ...options, signal: AbortSignal.timeout(10_000) });
  const body = await reply.json().catch(() => null);
  if (!reply.ok || !body) throw new Error(body?.error?.message ?? `The server answered ${reply.status}.`);
  return body;
}

function from({ sender }) {
  return sender ? title(sender) : "An application";
}

/** What a message says, as text: `data` may be any JSON, from anyone. */
function textOf({ data }) {
  const text = typeof data === "string" ? data : data?.text;
  return (typeof text === "string" ? text : JSON.stringify(data)).slice(0, TEXT_MAX);
}

/** Who and what, for one or two lines. */
function inShort(message) {
  const who = document.createElement("strong");
  who.textContent = from(message);
  return [who, ` ${textOf(message)}`];
}

function title(user) {
  return user.charAt(0).toUpperCase() + user.slice(1);
}

let announcements = [];

/** Into the page's one live region; what comes close together is read together. */
function announce(text) {
  if (announcements.push(text) > 1) return;
  setTimeout(() => {
    const more = announcements.length - SPOKEN;
    const texts = announcements.slice(0, SPOKEN);
    document.getElementById("live").textContent = [...texts, ...(more > 0 ? [`and ${more} more.`] : [])].join("\n");
    announcements = [];
  }, 300);
}

for (const section of document.querySelectorAll(".panel")) new Panel(section).start();
