/** What is wrong between a page and its server, in words, and which setting to change. `client.diagnose()` loads it. */

const PATIENCE = 5000; // Milliseconds.
const MAX_TEXT = 65_536; // Characters of an answer.
const REFUSED = new Set([401, 403]); // By a server that was reached.

/**
 * Looks from this page at the server of a socket. Never rejects; takes some ten seconds where nothing answers.
 * @param {URL} socket
 * @param {() => Promise<string>} getToken
 */
export async function diagnose(socket, getToken) {
  const api = new URL("../api/", socket);
  api.protocol = api.protocol.replace("ws", "http");
  const barred = new Set();
  const note = ({ blockedURI }) => barred.add(blockedURI);
  document.addEventListener("securitypolicyviolation", note);
  try {
    const server = await findServer(api, barred);
    const given = await findToken(getToken);
    const findings = server.ok ? await findWays(socket, api, given) : [given.error ?? unasked(given.token)];
    return report([server, ...findings]);
  } finally {
    document.removeEventListener("securitypolicyviolation", note);
  }
}

function report(findings) {
  return { ok: findings.every(({ ok }) => ok), findings };
}

function finding(check, ok, text) {
  return { check, ok, text };
}

async function findServer(api, barred) {
  const { origin } = api;
  const options = { mode: "no-cors", cache: "no-store", signal: AbortSignal.timeout(PATIENCE) };
  const reply = await fetch(new URL("../livez", api), options).catch(() => null);
  if (reply && reply.status < 500) return finding("server", true, `${origin} answers.`);
  if (reply) return finding("server", false, `${origin} answers ${reply.status}: is Fanfare running behind its proxy?`);
  await new Promise((resolve) => setTimeout(resolve, 100)); // A broken policy is told a little later.
  return finding("server", false, whyNobodyAnswers(origin, barred));
}

function whyNobodyAnswers(origin, barred) {
  if (barred.size) return `The page's CSP bars ${origin}: add it to connect-src, as wss: or ws:, too.`;
  if (!navigator.onLine) return "This device is offline.";
  if (location.protocol === "https:" && origin.startsWith("http:")) {
    return `A page on https may not use ${origin}: give Fanfare TLS, and connect() an address with wss: or https:.`;
  }
  return `Nobody answers at ${origin}: is the server running, and is the url of connect() right?`;
}

async function findToken(getToken) {
  try {
    return { token: await getToken() };
  } catch (error) {
    return { error: finding("token", false, `getToken has failed: ${error?.message}`) };
  }
}

function unasked(token) {
  const past = isPast(claimsOf(token));
  return finding("token", !past, past ? expired(token) : "The server could not be asked about the token.");
}

async function findWays(socket, api, { token = "", error }) {
  const dialed = dial(socket, token).catch(({ message }) => ({ message })); // As a token may not be what it can say.
  const [poll, stream, link] = await Promise.all([ask(api, "poll", token), ask(api, "stream", token), dialed]);
  return [
    findOrigin(api, poll),
    error ?? judged(token, verdict(poll, link)),
    findWebSocket(socket, link, poll),
    way("stream", stream, poll),
    way("poll", poll, poll),
  ];
}

function findOrigin({ origin }, poll) {
  const page = location.origin;
  if (origin === page) return finding("origin", true, "The page is of the server's own origin.");
  if (poll.reached) return finding("origin", true, `Pages of ${page} may use the API.`);
  const text = `Pages of ${page} may not use this server's API: add it to ALLOWED_ORIGINS.`;
  return finding("origin", false, `${text} Until then they have a WebSocket only, with a token, and no requests.`);
}

/** What the server thinks of the credential: a code, or "" if it is good, or null. */
function verdict(poll, link) {
  if (poll.status === 200 || link.welcomed) return "";
  if (REFUSED.has(poll.status) && poll.code) return poll.code;
  return { 4401: "token_expired", 4501: "unauthenticated", 4502: "revoked" }[link.code] ?? null;
}

function judged(token, code) {
  const claims = claimsOf(token);
  if (code === "") return finding("token", true, token ? "The token is good." : "The page's session is good.");
  if (code === null) return unasked(token);
  if (code === "token_expired") return finding("token", false, expired(token));
  if (code !== "unauthenticated") return finding("token", false, `The server refuses the token: ${code}.`);
  return finding("token", false, whyUnknown(token, claims));
}

function whyUnknown(token, claims) {
  if (!token) return "No token was given, and this page has no operator's session: give connect() getToken.";
  if (!claims) return "The token is no JWT, nor an API key that is known, and not expired or revoked.";
  const { iss, aud } = claims;
  if (iss === "fanfare") {
    return "Not this server's token: signed with another TOKEN_SIGNING_KEY, revoked, or without sub or exp.";
  }
  const audience = aud === undefined ? "" : `, with the audience ${JSON.stringify(aud)}`;
  return `The issuer ${JSON.stringify(iss)} is not accepted: it has to be in JWT_ISSUERS${audience}.`;
}

function expired(token) {
  const { exp } = claimsOf(token) ?? {};
  const ago = Math.round(Date.now() / 1000 - exp);
  const since = ago > 0 ? `The token has expired ${ago} s ago` : "The token has expired, by the server's clock";
  return `${since}: getToken has to get a fresh one each time.`;
}

function findWebSocket(socket, { welcomed, code, message }, poll) {
  if (welcomed) return finding("websocket", true, "A WebSocket gets through.");
  if (message) return finding("websocket", false, `The browser opens no WebSocket with this url and token: ${message}`);
  if (code >= 4000) return finding("websocket", true, `A WebSocket gets through; it was closed with ${code}.`);
  if (poll.status === 429 || poll.status === 503) return finding("websocket", false, busy(poll));
  const nginx = 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"';
  const text = `No WebSocket gets through to ${socket.host}${socket.pathname}.`;
  return finding("websocket", false, `${text} The proxy in between has to pass Upgrade on (nginx: ${nginx}).`);
}

function way(name, answer, poll) {
  const { reached, status, code, timeout } = answer;
  if (!reached && !poll.reached) return finding(name, false, "The browser lets this page read no answer: see origin.");
  if (!reached) return finding(name, false, `The answer to /api/${name} does not arrive.`);
  if (status === 429 || status === 503) return finding(name, false, busy(answer));
  if (status === 200 && !timeout && code !== null) return finding(name, true, `A ${name} gets through.`);
  if (REFUSED.has(status) && code) return finding(name, true, `A ${name} gets through; it was refused: ${code}.`);
  if (status === 200 && timeout) {
    return finding(name, false, `A proxy holds the ${name} back: it must not buffer (nginx: proxy_buffering off).`);
  }
  return finding(name, false, `Not Fanfare answers at /api/${name}, with ${status}: is the url of connect() right?`);
}

function busy({ status, message }) {
  return `The server has no room just now, it answers ${status}: ${message}`;
}

/** How a way answers: its status, the error's code, "" if it is none, null where the answer is not Fanfare's. */
async function ask(api, name, token) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), PATIENCE);
  let status;
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const options = { headers, cache: "no-store", signal: abort.signal };
    const reply = await fetch(new URL(`${name}?topics=&wait=0`, api), options);
    status = reply.status;
    return { reached: true, status, ...understood(name, status, await opening(reply, name === "stream" && reply.ok)) };
  } catch {
    return status ? { reached: true, status, timeout: abort.signal.aborted, code: null } : { reached: false };
  } finally {
    clearTimeout(timer);
    abort.abort();
  }
}

/** The beginning of an answer: of a stream, what comes first. */
async function opening(reply, first) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part; text.length < MAX_TEXT && !(part = await reader.read()).done; ) {
    text += part.value;
    if (first && text.includes("\n\n")) break;
  }
  return text;
}

function understood(name, status, text) {
  if (status === 200 && name === "stream") return { code: text.startsWith("data: {") ? "" : null };
  const { events, error } = parsed(text) ?? {};
  if (status === 200) return { code: Array.isArray(events) ? "" : null };
  return { code: typeof error?.code === "string" ? error.code : null, message: `${error?.message}` };
}

/** A socket's end: whether it was welcomed, or its close code. */
function dial(socket, token) {
  return new Promise((resolve) => {
    const url = new URL(socket);
    url.protocol = url.protocol.replace("http", "ws");
    url.searchParams.set("topics", "");
    const link = new WebSocket(url, ["fanfare.v1", ...(token ? [`bearer.${token}`] : [])]);
    const end = (found) => {
      clearTimeout(timer);
      link.close();
      resolve(found);
    };
    const timer = setTimeout(() => end({ code: 0 }), PATIENCE);
    link.onmessage = ({ data }) => parsed(data)?.event === "welcome" && end({ welcomed: true });
    link.onclose = ({ code }) => end({ code });
  });
}

function isPast(claims) {
  return claims?.exp * 1000 < Date.now();
}

function claimsOf(token) {
  try {
    return parsed(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))) ?? null;
  } catch {
    return null;
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
