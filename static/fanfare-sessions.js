/**
 * Browser sessions: what is for this browser, its user, their account or everybody, handed to the page one by one until
 * it is done with each; by long polls, or from a queue of the session's own at SQS.
 *
 *     import { openSession } from "/static/fanfare-sessions.js";
 *
 *     const session = openSession({
 *       getToken: () => fetch("/my/token").then((reply) => reply.text()),
 *       session: (sessionStorage.tab ??= crypto.randomUUID()),
 *       onMessage: ({ topic, data }) => show(topic, data),
 *     });
 *
 * `data` is what someone else wrote: show it as text, never as HTML. Types are in fanfare-sessions.d.ts, what each
 * transport promises in docs/sessions.md.
 */

const BACKOFF_BASE = 500; // Milliseconds, like all times here.
const BACKOFF_CAP = 30_000;
const PATIENCE = 15_000;
const WAIT = 20; // Seconds that a receive waits.
const AT_ONCE = 10;
const MAX_IDS = 1000; // Of messages that are known when they come again.
const MAX_KEYS = 100;
const RARELY = 60_000;
const PACE = 100; // Between two receives that brought nothing.
const RENEWED = 0.8; // Of the life of what gives access to a queue.
const JSON_TYPE = "application/json";
const SQS_TYPE = "application/x-amz-json-1.0";

const encode = (text) => new TextEncoder().encode(text);

/** Opens a session, or goes on with it, until `close()` or until the server refuses it for good. */
export function openSession(options) {
  return new Session(options);
}

/** Dispatches `state` and `error`: each a CustomEvent. */
class Session extends EventTarget {
  #options;
  #state = { state: "connecting" };
  #given; // The session as the server has told it,
  #openedAt; // when,
  #renewAt = 0; // and when to ask for it again.
  #skew = 0; // What the server's clock is ahead of this one.
  #keys = new Map(); // All that there were: what waits in the queue may be older than the newest one.
  #ids = new Set(); // The last messages that the page is done with.
  #token;
  #stop = new AbortController();
  #hurry;

  constructor(options) {
    super();
    this.#options = { transport: "poll", visibility: 30, ...options };
    const needsSecrets = this.#options.transport === "sqs";
    if (needsSecrets && !crypto.subtle) throw new TypeError("transport sqs: only with https, or on localhost.");
    const { signal } = this.#stop;
    addEventListener("online", () => this.#hurry?.(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry?.(), { signal });
    queueMicrotask(() => this.#run()); // Not before the page could add its listeners.
  }

  get id() {
    return this.#given?.sessionId ?? this.#options.session;
  }

  get state() {
    return this.#state;
  }

  /** Ends the session on the server, too: what waits for it is gone. */
  async close() {
    if (this.#stop.signal.aborted) return;
    this.#end("closed", "Closed by the page.");
    if (this.id) await this.#ask("DELETE", this.#path(), undefined, { keepalive: true }).catch(() => {});
  }

  async #run() {
    for (let failures = 0; !this.#stop.signal.aborted; ) {
      try {
        if (Date.now() >= this.#renewAt) await this.#open();
        const messages = await this.#receive(this.#state.state === "online" ? WAIT : 0);
        this.#become({ state: "online" });
        await this.#take(messages);
        failures = 0;
        if (!messages.length) await pause(PACE);
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        const { code, message, final, wait = 0 } = error instanceof Failure ? error : new Failure("", error?.message);
        if (final) return this.#end(code, message);
        const delay = wait + Math.random() * Math.min(BACKOFF_CAP, BACKOFF_BASE * 2 ** failures++);
        this.#become({ state: "offline", retryAt: Date.now() + delay, code, reason: message });
        await new Promise((resolve) => setTimeout((this.#hurry = resolve), delay));
      }
    }
  }

  /** Makes the session, or renews it: the server knows which. */
  async #open() {
    const { user, account, transport, retention } = this.#options;
    const wanted = { session: this.id, user, account, transport, retention };
    const before = this.#given;
    const { session, created } = await this.#ask("POST", "sessions", wanted);
    const { key, credentials, expires_at, last_seen_at } = session;
    const now = Date.parse(last_seen_at);
    this.#given = session;
    this.#openedAt = Date.now();
    this.#skew = now - this.#openedAt;
    this.#renewAt = Infinity; // Whoever polls, renews.
    if (key) {
      this.#keys.set(key.id, await crypto.subtle.importKey("raw", unpacked(key.value), "AES-GCM", false, ["decrypt"]));
      trim(this.#keys, MAX_KEYS);
      const end = Math.min(Date.parse(expires_at), Date.parse(credentials.expiration));
      this.#renewAt = this.#openedAt + RENEWED * (end - now);
    }
    if (created && before) await this.#take([{ body: { event: "reset" } }]); // What waited has ended with it.
  }

  async #receive(wait) {
    const { visibility } = this.#options;
    if (!this.#given.sqsUrl) {
      const wanted = { wait, max: AT_ONCE, visibility };
      return (await this.#ask("POST", this.#path("/receive"), wanted)).messages;
    }
    const wanted = { WaitTimeSeconds: wait, MaxNumberOfMessages: AT_ONCE, VisibilityTimeout: visibility };
    const { Messages = [] } = await this.#askQueue("ReceiveMessage", wanted);
    return Messages.map(({ ReceiptHandle, Body }) => ({ receipt: ReceiptHandle, sealed: Body }));
  }

  /** One after the other. What the page has not done with comes again. */
  async #take(messages) {
    const done = [];
    for (const { receipt, sealed, ...open } of messages) {
      if (this.#stop.signal.aborted) return;
      try {
        const { messageId, body } = sealed ? await this.#unseal(sealed) : open;
        const isKnown = body?.event === "message" && this.#ids.has(messageId);
        if (body && !isKnown) await this.#hand(body);
        trim(this.#ids.add(messageId), MAX_IDS);
        if (receipt) done.push(receipt);
      } catch (error) {
        this.dispatchEvent(new CustomEvent("error", { detail: error }));
        if (error?.useless) done.push(receipt);
      }
    }
    if (!done.length) return;
    const entries = done.map((ReceiptHandle, index) => ({ Id: `${index}`, ReceiptHandle }));
    if (this.#given.sqsUrl) await this.#askQueue("DeleteMessageBatch", { Entries: entries });
    else await this.#ask("POST", this.#path("/ack"), { receipts: done });
  }

  #hand(body) {
    const { onMessage, onEvent } = this.#options;
    return (body.event === "message" ? onMessage : onEvent)?.(body);
  }

  /** What was sealed with a key of before a reload, or was too large, is in the log. */
  async #unseal(sealed) {
    const refuse = () => {
      throw new Failure("undecipherable", "This was not sealed for this session.", { useless: true });
    };
    const { envelope, body } = await this.#decipher(sealed).catch(refuse);
    const isHere = body && body.event !== "pointer";
    return { messageId: envelope.messageId, body: isHere ? body : await this.#fromLog(envelope) };
  }

  async #decipher(sealed) {
    const envelope = JSON.parse(sealed);
    const { topic, offset, key: id, messageId, nonce, data } = envelope;
    const key = this.#keys.get(id);
    if (!key) return { envelope };
    const additionalData = encode([topic, offset, this.id, id, messageId].join("\n"));
    const how = { name: "AES-GCM", iv: unpacked(nonce), additionalData };
    const plain = await crypto.subtle.decrypt(how, key, unpacked(data));
    return { envelope, body: JSON.parse(new TextDecoder().decode(plain)) };
  }

  async #fromLog({ topic, offset, messageId }) {
    if (!offset) return undefined; // It was not stored.
    const query = `since=${offset - 1}&limit=1`;
    try {
      const { messages } = await this.#ask("GET", `topics/${encodeURIComponent(topic)}/messages?${query}`);
      const message = messages.find(({ id }) => id === messageId);
      return message && { event: "message", ...message };
    } catch (error) {
      throw Object.assign(error, { useless: error.final });
    }
  }

  #path(rest = "") {
    return `sessions/${encodeURIComponent(this.id)}${rest}`;
  }

  /** The API's answer. Rejects with a Failure. */
  async #ask(method, path, body, more) {
    const { url: from = "/api/", token, getToken } = this.#options;
    const given = (this.#token ??= (getToken ? await inTime(getToken()) : token) ?? "");
    const url = new URL(`../api/${path}`, new URL(from, location.href));
    url.protocol = url.protocol.replace("ws", "http");
    const bearer = given.token ?? given;
    const headers = { "Content-Type": JSON_TYPE, ...(bearer && { Authorization: `Bearer ${bearer}` }) };
    const reply = await this.#fetch(url, { method, headers, body: JSON.stringify(body), ...more });
    const { ok, status } = reply;
    if (status === 204) return null;
    const answer = await reply.json().catch(() => null);
    if (ok && answer) return { ...answer, created: status === 201 };
    const { code, message } = answer?.error ?? {};
    if (status === 401) this.#token = undefined;
    const isOld = code === "token_expired" && getToken;
    if (isOld && !more?.again) return this.#ask(method, path, body, { ...more, again: true });
    if (code === "unknown_session") this.#renewAt = 0;
    const passing = code === "unknown_session" || status === 429 || isOld;
    const wait = Math.min(Number(reply.headers.get("Retry-After")) || 0, 300) * 1000;
    const final = Boolean(code) && status < 500 && !passing;
    throw new Failure(code, message ?? `Somebody answered ${status}.`, { final, wait });
  }

  async #askQueue(action, wanted) {
    const { sqsUrl, credentials } = this.#given;
    const url = new URL("/", sqsUrl);
    const body = JSON.stringify({ QueueUrl: sqsUrl, ...wanted });
    const now = new Date(Date.now() + this.#skew);
    const headers = await signed(url, credentials, `AmazonSQS.${action}`, body, now);
    const renewIn = (delay) => (this.#renewAt = Math.min(this.#renewAt, this.#openedAt + delay));
    const reply = await this.#fetch(url, { method: "POST", headers, body, credentials: "omit" }).catch((error) => {
      renewIn(RARELY); // Not every refusal may be read by pages of other origins.
      throw error;
    });
    const answer = await reply.json().catch(() => null);
    if (reply.ok && answer) return answer;
    if (reply.status < 500) renewIn(0); // Perhaps credentials or queue are not there any more.
    throw new Failure("queue", `SQS answered ${reply.status} ${answer?.__type ?? ""}`);
  }

  #fetch(url, options) {
    const late = AbortSignal.timeout(WAIT * 1000 + PATIENCE);
    const signal = options.keepalive ? late : AbortSignal.any([this.#stop.signal, late]);
    return fetch(url, { cache: "no-store", redirect: "error", signal, ...options });
  }

  #end(code, reason) {
    this.#become({ state: "closed", code, reason });
    this.#stop.abort();
    this.#hurry?.();
  }

  #become(state) {
    const isNews = state.state !== this.#state.state || state.retryAt;
    this.#state = state;
    if (isNews) this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }
}

/** `final`: to ask again is no use; `useless`: the message is. */
class Failure extends Error {
  constructor(code, message, more) {
    super(message);
    Object.assign(this, { code: code || "no_connection", ...more });
  }
}

/** The headers of a request to SQS: AWS Signature Version 4. */
async function signed(url, { accessKeyId, secretAccessKey, sessionToken, region }, target, body, now) {
  const date = now.toISOString().replace(/[-:]|\.\d+/g, "");
  const amazon = { "x-amz-date": date, "x-amz-security-token": sessionToken, "x-amz-target": target };
  const headers = { "content-type": SQS_TYPE, ...amazon };
  const all = Object.entries({ ...headers, host: url.host }).sort();
  const names = all.map(([name]) => name).join(";");
  const lines = all.map(([name, value]) => `${name}:${value}`);
  const scope = `${date.slice(0, 8)}/${region}/sqs/aws4_request`;
  const request = ["POST", "/", "", ...lines, "", names, await hash(body)].join("\n");
  const steps = [...scope.split("/"), `AWS4-HMAC-SHA256\n${date}\n${scope}\n${await hash(request)}`];
  let key = encode(`AWS4${secretAccessKey}`);
  for (const step of steps) key = await mac(key, step);
  const credential = `Credential=${accessKeyId}/${scope}, SignedHeaders=${names}, Signature=${hex(key)}`;
  return { ...headers, authorization: `AWS4-HMAC-SHA256 ${credential}` };
}

async function hash(text) {
  return hex(await crypto.subtle.digest("SHA-256", encode(text)));
}

async function mac(secret, text) {
  const key = await crypto.subtle.importKey("raw", secret, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return crypto.subtle.sign("HMAC", key, encode(text));
}

function hex(buffer) {
  return [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function unpacked(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function pause(delay) {
  return new Promise((resolve) => setTimeout(resolve, delay));
}

/** The oldest go. */
function trim(known, most) {
  for (const one of known.keys()) if (known.size > most) known.delete(one);
}

function inTime(answer) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Failure("timeout", "getToken took too long.")), PATIENCE);
    Promise.resolve(answer).then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
