/** What the parts of the demo page share: requests as a user, words for messages, and the page's voice. */

const TOKEN_MS = 10 * 60_000; // A token lives longer than it is used.
const TEXT_MAX = 2000;
const SPOKEN = 3;

const csrfToken = document.querySelector('meta[name="csrf-token"]').content;

/** The API, as one user. Everything rejects with the reason that the server gave. */
export class Api {
  #user;
  #token;
  #until = 0;

  constructor(user) {
    this.#user = user;
  }

  get(path) {
    return this.ask("GET", path);
  }

  /** The JSON of the reply. */
  async ask(method, path, body) {
    const token = Date.now() < this.#until ? this.#token : await this.freshToken();
    return getJSON(path, {
      method,
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: body && JSON.stringify(body),
    });
  }

  async freshToken() {
    const { token } = await getJSON("/demo/token", sent("POST", { user: this.#user }));
    this.#token = token;
    this.#until = Date.now() + TOKEN_MS;
    return token;
  }
}

/** What `fetch` needs to send something to a page of the demo's own. */
export function sent(method, body) {
  const headers = { "Content-Type": "application/json", "X-CSRFToken": csrfToken };
  return { method, headers, body: JSON.stringify(body) };
}

/** The JSON of a reply. Rejects with the reason that the server gave. */
export async function getJSON(url, options) {
  const reply = await fetch(url, { ...options, signal: AbortSignal.timeout(10_000) });
  if (reply.status === 204) return null;
  const body = await reply.json().catch(() => null);
  if (!reply.ok || !body) throw new Error(body?.error?.message ?? `The server answered ${reply.status}.`);
  return body;
}

/** A new element from a template of the page. */
export function made(template) {
  return document.getElementById(template).content.firstElementChild.cloneNode(true);
}

export function from({ sender }) {
  return sender ? title(sender) : "An application";
}

/** What a message says, as text: `data` may be any JSON, from anyone. */
export function textOf({ data }) {
  const text = typeof data === "string" ? data : data?.text;
  return (typeof text === "string" ? text : JSON.stringify(data)).slice(0, TEXT_MAX);
}

/** What a message of a user's list is, besides its text. */
export function routeOf({ topic, type }, user) {
  const target = topic === `user.${user}` ? [] : ["to everyone"];
  return [...target, ...(type === "message" ? [] : [type])].join(" · ");
}

export function showTime(element, moment) {
  element.textContent = new Date(moment).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  element.dateTime = moment;
}

export function title(user) {
  return user.charAt(0).toUpperCase() + user.slice(1);
}

let announcements = [];

/** Into the page's one live region; what comes close together is read together. */
export function announce(text) {
  if (announcements.push(text) > 1) return;
  setTimeout(() => {
    const more = announcements.length - SPOKEN;
    const texts = announcements.slice(0, SPOKEN);
    document.getElementById("live").textContent = [...texts, ...(more > 0 ? [`and ${more} more.`] : [])].join("\n");
    announcements = [];
  }, 300);
}
