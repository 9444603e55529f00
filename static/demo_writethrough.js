/** The table, and what follows it: the cache is looked at when the topic tells of a change. */

import { connect } from "./fanfare.js";
import { Api, announce, getJSON, made, sent, showTime } from "./demo_page.js";

const REMEMBERED = 20; // Messages that a reload shows again.
const SHOWN = 60;
const LOOK_MS = 150; // What comes close together is looked at once.
const OWED_MS = 1000;
const AGAIN_MS = 3000; // When it could not be looked at.

const { topic } = document.body.dataset;
const api = new Api("alice");
const [rows, cached, log] = [".rows", ".cached", ".log"].map((list) => document.querySelector(list));
const form = document.querySelector(".weather");
const note = form.querySelector(".note");
const known = new Set(); // Locations: the cache may have some that the table has not any more.

let items = []; // What is cached: {location, value, until}.
let looking;

// --- The table and the cache ----------------------------------------------------------------------

function look(delay = LOOK_MS) {
  looking ??= setTimeout(async () => {
    looking = undefined;
    try {
      show(await getJSON(`weather?${new URLSearchParams([...known].map((one) => ["location", one]))}`));
    } catch (error) {
      say(`The table cannot be read: ${error.message}`);
      look(AGAIN_MS);
    }
  }, delay);
}

function show(state) {
  for (const { location } of state.rows) known.add(location);
  arrange(rows, "row", state.rows, (item, row) => {
    write(item.querySelector(".figures"), figures(row.maxTemp, row.minTemp, row.rain));
    for (const name of ["edit", "remove"]) {
      item.querySelector(`.${name}`).setAttribute("aria-label", `${name === "edit" ? "Edit" : "Remove"} ${row.location}`);
    }
    item.row = row;
  });
  if (state.cached) {
    items = state.cached.map((item) => ({ ...item, until: performance.now() + item.ttl * 1000 }));
    showItems();
  } else {
    say("The cache does not answer; the table goes on without it.");
  }
  const waiting = state.owed || !state.cached;
  write(document.querySelector(".owed"), state.owed ? `${state.owed} events on their way` : "");
  if (waiting) look(OWED_MS);
}

function showItems() {
  items = items.filter(({ until }) => until > performance.now());
  arrange(cached, "cached", items, (item, { value, until }) => {
    write(item.querySelector(".left"), `${Math.ceil((until - performance.now()) / 1000)} s left`);
    write(item.querySelector(".value"), value);
  });
}

/** One list item for each entry, by its location, in their order; those that stay are kept. */
function arrange(list, template, entries, fill) {
  const there = new Map([...list.children].map((item) => [item.dataset.location, item]));
  for (const [place, entry] of entries.entries()) {
    const item = there.get(entry.location) ?? made(template);
    there.delete(entry.location);
    item.dataset.location = entry.location;
    write(item.querySelector(".place"), entry.location);
    fill(item, entry);
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
  }
  for (const item of there.values()) item.remove();
}

async function change(method, body, done) {
  try {
    show(await getJSON("weather", sent(method, body)));
    say(done);
    return true;
  } catch (error) {
    say(`Not changed: ${error.message}`);
    return false;
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { location, ...numbers } = Object.fromEntries(new FormData(form));
  const row = { location, ...Object.fromEntries(Object.entries(numbers).map(([name, text]) => [name, Number(text)])) };
  if (!(await change("POST", row, `${location} is saved.`))) return;
  form.elements.location.value = "";
  form.elements.location.focus();
});

rows.addEventListener("click", async ({ target }) => {
  const item = target.closest(".row");
  if (target.matches(".edit")) {
    for (const [name, value] of Object.entries(item.row)) form.elements[name].value = value;
    form.elements.maxTemp.focus();
  } else if (target.matches(".remove")) {
    const next = item.nextElementSibling ?? item.previousElementSibling;
    const { location } = item.row;
    if (!(await change("DELETE", { location }, `${location} is removed.`))) return;
    (next?.isConnected ? next.querySelector(".remove") : form.elements.location).focus();
  }
});

// --- The topic ------------------------------------------------------------------------------------

const seen = new Set(); // Ids.

function add(message, isNew) {
  if (seen.has(message.id)) return;
  seen.add(message.id);
  const { Location, MaxTemp, MinTemp, ChancesOfPrecipitation, EventType } = message.data ?? {};
  const item = made("change");
  item.dataset.kind = item.querySelector(".kind").textContent = `${EventType}`;
  item.querySelector(".place").textContent = `${Location}`;
  item.querySelector(".figures").textContent = figures(MaxTemp, MinTemp, ChancesOfPrecipitation);
  showTime(item.querySelector("time"), message.created_at);
  item.classList.toggle("new", isNew);
  log.prepend(item);
  while (log.children.length > SHOWN) log.lastElementChild.remove();
  if (typeof Location === "string") known.add(Location);
}

/** The last messages; resolves with the position after them. */
async function load() {
  const read = (query) => api.get(`/api/topics/${encodeURIComponent(topic)}/messages?${query}`);
  const { head } = await read("limit=1");
  const { epoch, messages } = await read(`since=${Math.max(0, head - REMEMBERED)}&limit=${REMEMBERED}`);
  for (const message of messages) add(message, false);
  return { epoch, offset: Math.max(head, ...messages.map(({ offset }) => offset)) };
}

async function follow() {
  const place = await load().catch((error) => void say(`What came before could not be loaded: ${error.message}`));
  const client = connect({ topics: { [topic]: place }, getToken: () => api.freshToken() });
  client.addEventListener("state", ({ detail }) => showState(detail));
  client.addEventListener("message", ({ detail }) => {
    add(detail, true);
    look();
  });
  client.addEventListener("reset", () => load().catch(() => undefined).then(() => look()));
  client.addEventListener("error", ({ detail }) => detail.code !== "no_connection" && say(detail.message));
}

function showState({ state }) {
  const line = document.querySelector(".state");
  line.dataset.state = state;
  const texts = { online: "Live", connecting: "Connecting…", offline: "Offline, coming back" };
  write(line, texts[state] ?? "Ended: reload the page");
  if (state === "online") look(); // What was missed is coming, too.
}

// --- What they share ------------------------------------------------------------------------------

function figures(max, min, rain) {
  return `${min} to ${max} °C, rain ${rain} %`;
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function say(text) {
  note.textContent = text;
  announce(text);
}

setInterval(showItems, 1000);
look(0);
follow();
