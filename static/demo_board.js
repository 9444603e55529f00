/** A live leaderboard: its snapshot, and then what changes, as the server tells it. */

import { announce, made, title } from "./demo_page.js";

const SHOWN = 10;
const PACE = 400; // Milliseconds from one picture to the next: what moves is to arrive,
const MOVES = 350; // as it does in these.
const LEADS = 3000; // So long somebody is first before it is said aloud.
const POINTS = 100;

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const number = new Intl.NumberFormat("en");

/** The top with a change carried out; each row is `{name, score, subscore, rank}`. */
export function changed(top, { set, removed }) {
  const gone = new Set([...removed, ...set.map(({ name }) => name)]);
  const rows = top.filter(({ name }) => !gone.has(name));
  for (const row of set) rows.splice(row.rank, 0, row);
  return rows.map((row, rank) => ({ ...row, rank }));
}

export class Board {
  #top = [];
  #total = 0;
  #version = 0;
  #drawing;
  #drawnAt = -Infinity;
  #rows = new Map(); // The shown ones, by name.
  #leading;

  #section;
  #body;
  #apis;
  #name;

  /** `apis`: of the users who may score here. */
  constructor(section, apis) {
    this.#section = section;
    this.#body = section.querySelector("tbody");
    this.#apis = apis;
    this.#name = section.dataset.board;
    section.addEventListener("click", ({ target }) => target.dataset.player && this.#score(target));
  }

  follow(client) {
    const topic = `board.${this.#name}`;
    client.addEventListener("snapshot", ({ detail }) => detail.topic === topic && this.#begin(detail.snapshot));
    client.addEventListener("board", ({ detail }) => detail.topic === topic && this.#receive(detail));
    client.subscribe(topic).catch((error) => this.#say(`No board: ${error.message}`));
  }

  #begin({ leaderboard, version, total }) {
    this.#version = version;
    this.#show(leaderboard, total);
  }

  #receive({ snapshot, version, total, ...change }) {
    if (snapshot) this.#begin(snapshot);
    if (!change.set || version !== this.#version + 1) return;
    this.#version = version;
    this.#show(changed(this.#top, change), total);
  }

  #show(top, total) {
    if (top[0]?.name !== this.#top[0]?.name) this.#announce();
    this.#top = top;
    this.#total = total;
    this.#drawing ??= setTimeout(() => this.#draw(), this.#drawnAt + PACE - performance.now());
  }

  #draw() {
    this.#drawing = undefined;
    this.#drawnAt = performance.now();
    if (calm.matches) this.#arrange();
    else this.#glide(() => this.#arrange());
    const line = this.#section.querySelector(".board-total");
    line.hidden = !this.#top.length;
    write(line, this.#total === 1 ? "One player" : `${number.format(this.#total)} players`);
  }

  #arrange() {
    const shown = this.#top.slice(0, SHOWN);
    const names = new Set(shown.map(({ name }) => name));
    for (const [name, row] of this.#rows) {
      if (names.has(name)) continue;
      row.remove();
      this.#rows.delete(name);
    }
    for (const { name, score, rank } of shown) {
      const row = this.#rows.get(name) ?? made("standing");
      this.#rows.set(name, row);
      row.classList.toggle("own", this.#apis.has(name));
      write(row.querySelector(".place"), `${rank + 1}`);
      write(row.querySelector(".name"), title(name));
      write(row.querySelector(".points"), number.format(score));
      if (this.#body.children[rank] !== row) this.#body.insertBefore(row, this.#body.children[rank] ?? null);
    }
  }

  /** Lets rows glide from where they were to where `arrange` puts them. */
  #glide(arrange) {
    const place = (row) => row.offsetTop;
    const before = new Map([...this.#rows.values()].map((row) => [row, place(row)]));
    arrange();
    for (const row of this.#rows.values()) {
      const by = before.has(row) ? before.get(row) - place(row) : 0;
      if (!by && before.has(row)) continue;
      const from = { transform: `translateY(${by}px)`, opacity: before.has(row) ? 1 : 0 };
      row.animate([from, { transform: "none", opacity: 1 }], { duration: MOVES, easing: "ease-in-out" });
    }
  }

  /** Not each change: who is first, once that has stayed so for a while. */
  #announce() {
    clearTimeout(this.#leading);
    this.#leading = setTimeout(() => this.#top[0] && announce(`${title(this.#top[0].name)} leads the board.`), LEADS);
  }

  async #score(button) {
    const { player } = button.dataset;
    const score = 1 + Math.floor(Math.random() * POINTS);
    try {
      const path = `/api/leaderboards/${this.#name}/${encodeURIComponent(player)}`;
      const { position } = await this.#apis.get(player).ask("POST", path, { score });
      const place = position ? `, now at place ${position}` : "";
      this.#say(`${title(player)}: ${score} points${place}.`);
    } catch (error) {
      this.#say(`No points: ${error.message}`);
    }
  }

  #say(text) {
    this.#section.querySelector(".board-note").textContent = text;
    announce(text);
  }
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
