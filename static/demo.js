/** The demo page: one panel for each user, with a connection and a credential of its own. */

import { connect } from "./fanfare.js";
import { Board } from "./demo_board.js";
import { Inbox } from "./demo_inbox.js";
import { Api, announce, from, made, routeOf, showTime, textOf, title } from "./demo_page.js";
import { Tasks } from "./demo_tasks.js";

const REMEMBERED = 20; // Messages of each topic that a reload shows again.
const SHOWN = 60;
const TOASTS = 2;
const TOAST_MS = 6000;

const room = document.body.dataset.room;

class Panel {
  #messages = []; // Newest first: {message, item, at}.
  #recalled = []; // Ids.
  #client;
  #retry;
  #wasOffline = false;

  constructor(section) {
    this.user = section.dataset.user;
    this.name = title(this.user);
    this.section = section;
    this.api = new Api(this.user);
    this.list = section.querySelector(".messages");
    this.toasts = section.querySelector(".toasts");
    this.form = section.querySelector(".composer");
    this.note = section.querySelector(".note");
    this.form.addEventListener("submit", (event) => this.#send(event));
  }

  /** Shows what was there before, then goes live from exactly that place. Resolves with the client. */
  async start() {
    const topics = {};
    for (const topic of [`user.${this.user}`, room, "all"]) {
      topics[topic] = await this.#load(topic).catch((error) => this.#notLoaded(error));
    }
    const client = connect({ topics, getToken: () => this.api.freshToken() });
    client.addEventListener("state", ({ detail }) => this.#showState(detail));
    client.addEventListener("message", ({ detail }) => this.#receive(detail));
    client.addEventListener("recalled", ({ detail }) => this.#recall(detail.id));
    client.addEventListener("reset", ({ detail }) => this.#reload(detail.topic));
    client.addEventListener("error", ({ detail }) => this.#showError(detail));
    const say = (text) => this.#say(text);
    const onOpen = () => this.toasts.replaceChildren();
    this.inbox = new Inbox(this.section, { name: this.name, client, onOpen, say });
    this.tasks = new Tasks(this.section, { name: this.name, api: this.api, client, say });
    this.#client = client;
    const dots = this.section.querySelectorAll("[data-presence]");
    const others = [...dots].map(({ dataset }) => dataset.presence);
    client.watch(others, (presence) => this.#showPresence(presence)).catch((error) => this.#showError(error));
    return client;
  }

  #showPresence({ user, status }) {
    const dot = this.section.querySelector(`[data-presence="${user}"]`);
    dot.dataset.status = status;
    dot.querySelector("span").textContent = status === "ONLINE" ? "is here" : "is away";
  }

  /** The last messages of a topic into the list; resolves with the position after them. */
  async #load(topic) {
    const read = (query) => this.api.get(`/api/topics/${encodeURIComponent(topic)}/messages?${query}`);
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
  }

  /** The new item, in its place by time; nothing when the message is there already, or too old to be shown. */
  #add(message) {
    if (this.#recalled.includes(message.id)) return undefined; // While it was being loaded.
    if (this.#messages.some((other) => other.message.id === message.id)) return undefined;
    const at = new Date(message.created_at);
    const item = made("message");
    item.querySelector(".from").textContent = message.sender === this.user ? "You" : from(message);
    item.querySelector(".route").textContent = routeOf(message, this.user);
    item.querySelector(".text").textContent = textOf(message);
    showTime(item.querySelector("time"), message.created_at);
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

  #remove(matches) {
    for (const entry of this.#messages.filter(matches)) entry.item.remove();
    this.#messages = this.#messages.filter((entry) => !matches(entry));
  }

  #toast(message) {
    const toast = document.createElement("p");
    toast.className = "toast";
    toast.append(strong(from(message)), ` ${textOf(message)}`);
    this.toasts.append(toast);
    while (this.toasts.children.length > TOASTS) this.toasts.firstElementChild.remove();
    setTimeout(() => toast.remove(), TOAST_MS);
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

function strong(text) {
  const element = document.createElement("strong");
  element.textContent = text;
  return element;
}

const panels = [...document.querySelectorAll(".panel")].map((section) => new Panel(section));
const board = new Board(document.querySelector(".board"), new Map(panels.map(({ user, api }) => [user, api])));
for (const panel of panels) panel.start().then((client) => panel === panels[0] && board.follow(client));
