/** A live leaderboard, as its store has it. */

import { announce, made, title } from "./demo_page.js";
import { board } from "./fanfare-state.js";

const SHOWN = 10;
const PACE = 400; // Milliseconds from one picture to the next: what moves is to arrive,
const MOVES = 350; // as it does in these.
const LEADS = 3000; // So long somebody is first before it is said aloud.
const POINTS = 100;

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const number = new Intl.NumberFormat("en");

export class Board {
  #store;
  #first; // Who is.
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
    this.#store = board(client, this.#name, { top: SHOWN });
    this.#store.subscribe(() => this.#show());
  }

  #show() {
    const { rows, error } = this.#store.state();
    if (error) this.#say(`No board: ${error.message}`);
    if (rows[0]?.name !== this.#first) this.#announce();
    this.#first = rows[0]?.name;
    this.#drawing ??= setTimeout(() => this.#draw(), this.#drawnAt + PACE - performance.now());
  }

  #draw() {
    this.#drawing = undefined;
    this.#drawnAt = performance.now();
    const { rows, total } = this.#store.state();
    if (calm.matches) this.#arrange(rows);
    else this.#glide(() => this.#arrange(rows));
    const line = this.#section.querySelector(".board-total");
    line.hidden = !rows.length;
    write(line, total === 1 ? "One player" : `${number.format(total)} players`);
  }

  #arrange(rows) {
    const names = new Set(rows.map(({ name }) => name));
    for (const [name, row] of this.#rows) {
      if (names.has(name)) continue;
      row.remove();
      this.#rows.delete(name);
    }
    for (const { name, score, rank } of rows) {
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
    this.#leading = setTimeout(() => this.#first && announce(`${title(this.#first)} leads the board.`), LEADS);
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
