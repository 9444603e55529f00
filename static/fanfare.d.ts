/** Types of fanfare.js. docs/clients.md says what each does. Times are milliseconds unless they say otherwise. */

/** A place in a topic; epoch null: nothing there yet. */
export interface Position {
  epoch: string | null;
  offset: number;
}

export type Way = "websocket" | "stream" | "poll";

/** A credential that says when it ends: in seconds since 1970, or as ISO 8601. A JWT says so itself. */
export interface ExpiringToken {
  token: string;
  expires_at?: number | string;
}

export interface Options {
  /** Where the socket is: `/ws/` on this host unless given. `../api/` is beside it. */
  url?: string | URL;
  /** A credential for every attempt; or */
  token?: string;
  /** gets a fresh one before each, and before the one in use ends. Without either: the page's session. */
  getToken?: () => string | ExpiringToken | Promise<string | ExpiringToken>;
  /** Instead of the server's default topics; with a position, what came after it is sent first. */
  topics?: string[] | Record<string, Position | null>;
  /** The ways to try, best first. */
  transports?: Way[];
}

export interface State {
  /** After `closed` nothing more comes. */
  state: "connecting" | "online" | "offline" | "closed";
  transport: Way;
  /** offline: when it tries again, in milliseconds since 1970. */
  retryAt?: number;
  /** The close code, or 0. */
  code?: number;
  reason?: string;
}

/** What others wrote is in `data`: show it as text, never as HTML. */
export interface Message {
  topic: string;
  /** null: it was sent without being stored. */
  offset: number | null;
  id: string;
  type: string;
  data: unknown;
  created_at: string;
  expires_at?: string;
  sender?: string;
}

export interface Counts {
  unread: number;
  unseen: number;
  unread_more: boolean;
}

export interface Task {
  topic: string;
  task: string;
  type: string;
  state: "queued" | "running" | "done" | "failed" | "cancelled";
  progress: number;
  note?: string;
  error?: string;
}

export interface Member {
  user: string;
  info?: unknown;
}

export interface RoomChange {
  topic: string;
  version: number;
  epoch?: string;
  joined?: Member[];
  left?: string[];
  count?: number;
  snapshot?: { count: number; version: number; members?: Member[] };
}

export interface Row {
  name: string;
  score: number;
  subscore: number;
  rank: number;
}

export interface BoardSnapshot {
  window: string | null;
  total: number;
  version: number;
  leaderboard: Row[];
}

export interface Standing {
  score: number;
  subscore: number;
  rank: number;
  position: number;
  total: number;
}

/** `set` and `removed`, or a `snapshot`, or `me`: null where the user is not ranked. */
export interface BoardChange {
  topic: string;
  epoch?: string;
  version?: number;
  window?: string | null;
  total?: number;
  set?: Row[];
  removed?: string[];
  snapshot?: BoardSnapshot;
  me?: Standing | null;
}

export interface Presence {
  user: string;
  status: "ONLINE" | "OFFLINE";
  availability: string;
  text: string;
  since?: string | null;
  last_seen?: string | null;
}

/** What each event has as its `detail`. */
export interface Events {
  message: Message;
  recalled: { topic: string; offset: number | null; id: string };
  /** Something is lost: load the topic again. */
  reset: Position & { topic: string };
  receipt: { state: Deed; ids: string[] };
  unread: Counts;
  task: Task;
  room: RoomChange;
  board: BoardChange;
  /** Of a room or board: what it is at this position. */
  snapshot: Position & { topic: string; snapshot: unknown };
  state: State;
  error: FanfareError;
}

export type Deed = "seen" | "read" | "unread" | "archive";
export type Which = { ids: string[] } | { as_of: string } | { all: true };

export interface Published extends Position {
  id: string;
  topic: string;
}

export interface Subscribed extends Position {
  topic: string;
  recovered: boolean;
}

export interface Finding {
  check: "server" | "origin" | "token" | "websocket" | "stream" | "poll";
  ok: boolean;
  text: string;
}

export interface Diagnosis {
  ok: boolean;
  findings: Finding[];
}

export interface Client extends EventTarget {
  readonly state: State;
  publish(topic: string, data: unknown, type?: string): Promise<Published>;
  subscribe(topic: string, since?: Position | null, options?: { me?: boolean }): Promise<Subscribed>;
  unsubscribe(topic: string): Promise<{ topic: string }>;
  receipt(deed: Deed, which: Which): Promise<Counts & { receipted: string[] }>;
  watch(users: string[], tell: (presence: Presence) => void): Promise<unknown>;
  setStatus(availability?: "available" | "away" | "busy" | "invisible", text?: string): Promise<unknown>;
  ack(ids: Iterable<string>): void;
  request<Answer = unknown>(path: string, options?: { method?: string; body?: unknown }): Promise<Answer>;
  diagnose(): Promise<Diagnosis>;
  close(): void;

  addEventListener<Name extends keyof Events>(
    type: Name,
    listener: (this: Client, event: CustomEvent<Events[Name]>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Name extends keyof Events>(
    type: Name,
    listener: (this: Client, event: CustomEvent<Events[Name]>) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** What a request is rejected with. `code` is the server's, or the client's: timeout, busy, closed … */
export class FanfareError extends Error {
  readonly code: string;
  constructor(code: string, message: string);
}

/** Connects, and stays connected until `close()` or until the server says not to come back. */
export function connect(options?: Options): Client;
