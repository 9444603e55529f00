/** A user's tasks: what is asked for here or elsewhere, how far it is, and how it ended. */

import { announce, made } from "./demo_page.js";

const SHOWN = 3;
const ENDS = new Set(["done", "failed", "cancelled"]);

export class Tasks {
  #tasks = new Map(); // By id, oldest first: {item, state, text}.
  #api;
  #form;
  #list;
  #say;
  #name;

  constructor(section, { name, api, client, say }) {
    this.#api = api;
    this.#name = name;
    this.#say = say;
    this.#form = section.querySelector(".runner");
    this.#list = section.querySelector(".task-list");
    this.#form.addEventListener("submit", (event) => this.#run(event));
    client.addEventListener("task", ({ detail }) => this.#receive(detail));
    client.addEventListener("state", ({ detail }) => detail.state === "online" && this.#load());
  }

  /** Events are for who listens at that moment: after a gap, what was under way is looked at again. */
  async #load() {
    try {
      const { tasks } = await this.#api.get(`/api/tasks?limit=${SHOWN}`);
      const listed = tasks.filter(({ state }) => !ENDS.has(state)).map(({ id }) => id);
      const known = [...this.#tasks.keys()].filter((id) => !ENDS.has(this.#tasks.get(id).state));
      for (const id of listed.reverse()) this.#find(id);
      await Promise.all([...new Set([...listed, ...known])].map((id) => this.#fetch(id)));
    } catch (error) {
      this.#say(`Tasks could not be loaded: ${error.message}`);
    }
  }

  async #fetch(id) {
    const { payload, type, ...now } = await this.#api.get(`/api/tasks/${id}`);
    const text = typeof payload?.data === "string" ? payload.data : type;
    this.#update(this.#find(id, text), now);
  }

  async #run(event) {
    event.preventDefault();
    const input = this.#form.elements.data;
    const text = input.value.trim();
    if (!text || this.#form.ariaBusy === "true") return;
    this.#form.ariaBusy = "true";
    try {
      const { id } = await this.#api.ask("POST", "/api/tasks", { data: text });
      this.#find(id, text);
      input.value = "";
    } catch (error) {
      this.#say(`Not started: ${error.message}`);
    } finally {
      this.#form.ariaBusy = "false";
      input.focus();
    }
  }

  #receive({ task: id, ...now }) {
    const isNew = !this.#tasks.has(id);
    this.#update(this.#find(id, isNew ? now.type : ""), now);
    if (isNew) this.#fetch(id).catch(() => {}); // Its text; without, its type has to do.
  }

  /** The task, with a line made for it if it has none. */
  #find(id, text = "") {
    const task = this.#tasks.get(id) ?? this.#add(id);
    task.text = text || task.text;
    task.item.querySelector(".task-text").textContent = task.text;
    return task;
  }

  #add(id) {
    const item = made("task");
    const label = item.querySelector(".task-text");
    label.id = `task-${id}`;
    item.querySelector("progress").setAttribute("aria-labelledby", label.id);
    item.querySelector("button").setAttribute("aria-describedby", label.id);
    item.querySelector("button").addEventListener("click", () => this.#cancel(id));
    const task = { item, state: "", text: "" };
    this.#list.prepend(item);
    this.#tasks.set(id, task);
    this.#update(task, { state: "queued", progress: 0 });
    for (const [old, { item: its, state }] of this.#tasks) {
      if (this.#tasks.size <= SHOWN) break;
      if (!ENDS.has(state)) continue;
      its.remove();
      this.#tasks.delete(old);
    }
    return task;
  }

  #update(task, { state, progress, note, error }) {
    const { item, text } = task;
    if (ENDS.has(task.state) && state === "running") return; // Late.
    const words = {
      queued: error ? `Waits to be tried again: ${error}` : "Queued",
      running: note || "Running",
      done: "Done",
      failed: `Failed: ${error}`,
      cancelled: "Cancelled",
    };
    item.dataset.state = state;
    item.querySelector("progress").value = progress;
    item.querySelector(".task-state").textContent = words[state] ?? state;
    const button = item.querySelector("button");
    if (ENDS.has(state) && button === document.activeElement) item.focus();
    button.hidden = ENDS.has(state);
    if (ENDS.has(state) && task.state !== state) announce(`${this.#name}: task ${text}: ${words[state]}`);
    task.state = state;
  }

  async #cancel(id) {
    try {
      await this.#api.ask("DELETE", `/api/tasks/${id}`);
    } catch (error) {
      this.#say(`Not cancelled: ${error.message}`);
    }
  }
}
