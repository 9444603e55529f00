/** A user's inbox, and the top of a board, as plain objects that follow the server. */

import type { Client, Message, Row, Standing } from "./fanfare.js";

/** What both stores are. Dispatches `change`. */
export interface Store<State> extends EventTarget {
  /** How it is now: the same object until something changes, and never changed itself. Needs no `this`. */
  state(): Readonly<State>;
  /** Calls the listener after each change, until what is returned is called. Needs no `this`. */
  subscribe(listener: () => void): () => void;
  /** Follows the server no longer. The client stays. */
  close(): void;
}

/** A message as the inbox has it; its times are ISO 8601 or null. */
export interface InboxMessage extends Message {
  seen_at: string | null;
  read_at: string | null;
  archived_at: string | null;
}

export interface InboxState {
  /** Newest first, without what is archived. */
  messages: readonly InboxMessage[];
  /** Of the whole inbox; exact up to 1000. */
  unread: number;
  unseen: number;
  /** More than 1000 are unread. */
  unreadMore: boolean;
  /** There are older ones: `more()` adds a page of them. */
  more: boolean;
  loading: boolean;
  /** Why it could not be loaded; it is tried again. */
  error: Error | null;
}

/**
 * Each deed shows at once. It is taken back when the server refuses it: then the promise is rejected. "all" is up to
 * the newest message of `state()`, and not what comes before the server hears of it.
 */
export interface InboxStore extends Store<InboxState> {
  more(): Promise<void>;
  seen(which: string | string[] | "all"): Promise<void>;
  read(which: string | string[] | "all"): Promise<void>;
  unread(which: string | string[]): Promise<void>;
  archive(which: string | string[] | "all"): Promise<void>;
}

export interface BoardState {
  name: string;
  /** The label of the window; null before the board is there. */
  window: string | null;
  /** How many are ranked in all. */
  total: number;
  version: number;
  /** The best, in their order. */
  rows: readonly Row[];
  /** With `me`, over a WebSocket: how the client's user stands, wherever that is. */
  me: Standing | null;
  loading: boolean;
  /** Why there is no board for this client. */
  error: Error | null;
}

export type BoardStore = Store<BoardState>;

export interface BoardOptions {
  /** Also how the client's user stands. */
  me?: boolean;
  /** How many rows; 10 unless given, 100 at most. */
  top?: number;
}

export function inbox(client: Client): InboxStore;

export function board(client: Client, name: string, options?: BoardOptions): BoardStore;

/** The rows of a board after a change that the event `board` tells. */
export function changed(before: readonly Row[], change: { set: Row[]; removed: string[] }): Row[];

/** Whether messages of this topic are in the inbox. */
export function isForInbox(topic: string): boolean;
