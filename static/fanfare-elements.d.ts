/**
 * Elements for any page. They are defined when the module is loaded.
 *
 * All have the attributes `token-url` (answers a token, as text or as JSON `{token, expires_at}`) and `url` (of the
 * socket); one element of the page that has them is enough. Without `token-url`, the page's session is the credential.
 */

import type { Client } from "./fanfare.js";
import type { InboxMessage } from "./fanfare-state.js";

/** A text, or one for each plural category of the language: `{one: "{count} player", other: "{count} players"}`. */
export type Words = string | ({ other: string } & Partial<Record<Intl.LDMLPluralRule, string>>);

export const Fanfare: {
  /** The client of all elements that have none of their own. Set it in the module that imports this one. */
  client: Client | null;
  /** What elements say, by language (`pt-BR`, then `pt`, then `en`), for each key of `en`. */
  messages: Record<string, Record<string, Words>>;
};

export interface FanfareElement extends HTMLElement {
  /** The element's own client; may be set at any time. */
  client: Client | null;
}

type Listening = boolean | AddEventListenerOptions;

/**
 * Dispatches `select` when somebody chooses a message; `preventDefault()` keeps its link from being followed.
 * Slots: `header`, `empty`, and `<template slot="item">`, in which `data-field="data.text"` becomes a text of the
 * message, and `<a data-href="data.url">` an address. `text` and `time` are there, too.
 */
export interface FanfareInbox extends FanfareElement {
  addEventListener(name: "select", listen: (event: CustomEvent<InboxMessage>) => void, options?: Listening): void;
  addEventListener(name: string, listen: EventListenerOrEventListenerObject, options?: Listening): void;
}

/** Besides those of the inbox, the slot `icon`. */
export type FanfareBell = FanfareInbox;

export type FanfareToasts = FanfareElement;

/** Attribute `task`: its id. Slot `label`. Dispatches `end` with `detail.state`. */
export type FanfareTask = FanfareElement;

/** Attribute `user`; its content is the name that is shown. */
export type FanfarePresence = FanfareElement;

/** Attributes `name`, `me`, `top`. Slots `header` and `empty`. */
export type FanfareBoard = FanfareElement;

declare global {
  interface HTMLElementTagNameMap {
    "fanfare-bell": FanfareBell;
    "fanfare-inbox": FanfareInbox;
    "fanfare-toasts": FanfareToasts;
    "fanfare-task": FanfareTask;
    "fanfare-presence": FanfarePresence;
    "fanfare-board": FanfareBoard;
  }
}
