import type { Diagnosis } from "./fanfare.js";

/** Looks from this page at the server of a socket. Never rejects. */
export function diagnose(socket: URL, getToken: () => Promise<string>): Promise<Diagnosis>;
