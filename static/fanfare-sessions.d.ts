/** Types of fanfare-sessions.js. docs/sessions.md says what each transport promises. */

import type { ExpiringToken, Message } from "./fanfare.js";

/** What is no message: `recalled`, `receipt`, `unread`, `task`; `reset` of a topic, or of all if it names none. */
export interface SessionEvent {
  event: string;
  topic?: string;
  [field: string]: unknown;
}

export interface SessionOptions {
  /** Where the API is: `/api/` on this host unless given. */
  url?: string | URL;
  /** A credential for good; or */
  token?: string;
  /** gets one, and a fresh one when the one in use has ended. */
  getToken?: () => string | ExpiringToken | Promise<string | ExpiringToken>;
  /** An id that survives what the session is to survive; the server makes one up unless given. */
  session?: string;
  /** Services say whose it is. */
  user?: string;
  account?: string;
  /** "poll" unless given. */
  transport?: "poll" | "sqs";
  /** Seconds for which a message waits: 60 to 1209600, 3600 unless given. */
  retention?: number;
  /** Seconds after which a message comes again that the page has not done with: 5 to 43200, 30 unless given. */
  visibility?: number;
  /** Each message once. It is acknowledged when this has returned or its promise resolved; if not, it comes again. */
  onMessage: (message: Message) => unknown;
  /** Likewise, for what is no message. */
  onEvent?: (event: SessionEvent) => unknown;
}

export interface SessionState {
  /** After `closed` nothing more comes. */
  state: "connecting" | "online" | "offline" | "closed";
  /** offline: when it tries again, in milliseconds since 1970. */
  retryAt?: number;
  /** offline, closed: why; the server's code, or `no_connection`, `timeout`, `queue`, `closed`. */
  code?: string;
  reason?: string;
}

export interface SessionEvents {
  state: SessionState;
  /** What a handler threw, or why a message was refused; then its `code` is `undecipherable`, or the server's. */
  error: unknown;
}

export interface Session extends EventTarget {
  /** Undefined until the server has made one up. */
  readonly id: string | undefined;
  readonly state: SessionState;
  /** Ends the session on the server, too: what waits for it is gone. */
  close(): Promise<void>;
  addEventListener<Name extends keyof SessionEvents>(
    name: Name,
    listener: (event: CustomEvent<SessionEvents[Name]>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    name: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

export function openSession(options: SessionOptions): Session;
