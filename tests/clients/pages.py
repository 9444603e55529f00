"""A page with nothing but the client in it, whose events are kept as notes."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Page

STATIC = Path(__file__).parents[2] / "static"
CLIENT = STATIC / "fanfare.js"
ALICE = "user.alice"
NOTES = """
async ([script, options]) => {
  const { connect } = await import(script);
  const notes = (window.notes = []);
  let calls = 0;
  window.failures = 0;
  const { tokens } = options; // One for each attempt, the last one for all that follow; null: none can be had.
  const getToken = async () => {
    const token = tokens ? tokens[Math.min(calls++, tokens.length - 1)] : `token-${++calls}`;
    if (token === null) throw new Error(`no session ${++failures}`);
    return token;
  };
  const client = (window.client = connect({ url: "/ws/", getToken, ...options }));
  for (const name of ["message", "recalled", "reset", "receipt", "unread", "board", "snapshot", "state", "error"]) {
    const plain = (detail) => (detail instanceof Error ? { code: detail.code, message: detail.message } : detail);
    client.addEventListener(name, ({ detail }) => notes.push([name, plain(detail)]));
  }
  // What a request came to: ["ok", answer] or ["failed", code].
  window.ask = (verb, ...rest) => client[verb](...rest).then((a) => ["ok", a], (e) => ["failed", e.code]);
}
"""


def start_client(page: Page, options: dict[str, Any] | None = None, script: str = "/fanfare.js") -> None:
    page.evaluate(NOTES, [script, options or {}])


def notes(page: Page, name: str) -> list[Any]:
    return [detail for noted, detail in page.evaluate("notes") if noted == name]


def await_note(page: Page, name: str, count: int = 1) -> list[Any]:
    """The details of the events of one name, as soon as there are so many."""
    wanted = {"name": name, "count": count}
    page.wait_for_function("({name, count}) => notes.filter(([noted]) => noted === name).length >= count", arg=wanted)
    return notes(page, name)


def await_state(page: Page, state: str, transport: str | None = None, seconds: float = 10) -> dict[str, Any]:
    """The client's state, as soon as it is this one."""
    page.wait_for_function(
        "([state, way]) => client.state.state === state && (!way || client.state.transport === way)",
        arg=[state, transport],
        timeout=seconds * 1000,
    )
    return dict(page.evaluate("client.state"))


def at(offset: int, epoch: str | None = "e1") -> dict[str, Any]:
    return {"epoch": epoch, "offset": offset}
