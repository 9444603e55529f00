"""A day of a connection that comes and goes, and of what a page does meanwhile: nothing is lost, nothing piles up."""

import pytest
from playwright.sync_api import CDPSession, Page

from tests.clients.conftest import Start
from tests.clients.fake_server import Fake

pytestmark = pytest.mark.any_database
HOURS = 24
SLACK = 100_000  # Bytes that the heap may have grown from the ninth hour on: a leak of 60 bytes a connection is more.

# In the page, by the page's clock: a server whose every socket ends within two minutes, one in five at once.
FLAPPING = """
(seed) => {
  Math.random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  let head = 0;
  const open = new Set();
  const ends = [1006, 1012, 4401, 4408, 4409, 4410];
  const counts = (window.counts = { made: 0, open: () => open.size, head: () => head, refreshed: 0 });
  setInterval(() => {
    head++;
    for (const one of open) one.live && one.message(head);
  }, 15_000);

  window.WebSocket = class {
    live = false;
    constructor(url) {
      counts.made++;
      open.add(this);
      setTimeout(() => this.begin(new URL(url).searchParams.get("topics")), Math.random() * 500);
    }
    begin(topics) {
      if (!open.has(this)) return;
      if (Math.random() < 0.2) return this.end(1006);
      this.live = topics !== "";
      const places = { "user.alice": { epoch: "e", offset: head } };
      this.say({ event: "welcome", user: "alice", topics: this.live ? places : {} });
      setTimeout(() => this.end(ends[Math.floor(Math.random() * ends.length)]), Math.random() * 120_000);
    }
    send(text) {
      const { action, ref, since, ids } = JSON.parse(text);
      if (action === "subscribe" && since) {
        for (let offset = since.offset + 1; offset <= head; offset++) this.message(offset);
        this.live = true;
        this.say({ event: "subscribed", topic: "user.alice", epoch: "e", offset: head, recovered: true, ref });
      } else if (action === "ping") this.say({ event: "pong" });
      else if (action === "refresh") counts.refreshed++;
      if (Math.random() < 0.1 && action !== "ping") return; // An answer that never comes.
      if (action !== "subscribe") setTimeout(() => this.say({ event: "ok", ref, receipted: ids }), Math.random() * 300);
    }
    message(offset) {
      this.say({ event: "message", topic: "user.alice", offset, id: `id-${offset}`, type: "note", data: offset });
    }
    say(event) {
      if (open.has(this)) this.onmessage?.({ data: JSON.stringify(event) });
    }
    close() {
      this.end(1000);
    }
    end(code) {
      if (open.delete(this)) this.onclose?.({ code, reason: "" });
    }
  };
}
"""

# What pages do: they show, acknowledge, mark as read and publish, and their tokens live for a quarter of an hour.
PAGE = """
async () => {
  const { connect } = await import("/fanfare.js");
  let last = 0;
  const base64 = (value) => btoa(JSON.stringify(value));
  const now = () => Math.floor(Date.now() / 1000);
  const getToken = async () => `e30.${base64({ iss: "us", sub: "alice", iat: now(), exp: now() + 100 })}.x`;
  const client = (window.client = connect({ url: "/ws/", getToken, transports: ["websocket"] }));
  Object.assign(counts, { shown: 0, wrong: 0, receipts: 0, granted: 0, published: 0, answered: 0, last: () => last });
  client.addEventListener("message", ({ detail: { offset, id } }) => {
    if (last && offset !== last + 1) counts.wrong++;
    last = offset;
    counts.shown++;
    client.ack([id]);
    counts.receipts++;
    client.receipt("read", { ids: [id] }).then(() => counts.granted++);
  });
  setInterval(() => {
    counts.published++;
    client.publish("user.bob", 1).catch(() => {}).finally(() => counts.answered++);
  }, 45_000);
}
"""


def heap(session: CDPSession) -> int:
    """Bytes in use, after the garbage is gone."""
    session.send("HeapProfiler.collectGarbage")
    return int(session.send("Runtime.getHeapUsage")["usedSize"])


def count(page: Page, name: str) -> int:
    return int(page.evaluate("(name) => { const c = counts[name]; return typeof c === 'function' ? c() : c; }", name))


@pytest.mark.timeout(300)
def test_a_day_of_flapping_loses_nothing_and_keeps_nothing(start: Start, server: Fake) -> None:
    page = start({"transports": ["websocket"]})
    page.evaluate("client.close(); notes.length = 0")
    page.evaluate(FLAPPING, 42)
    page.evaluate(PAGE)
    session = page.context.new_cdp_session(page)
    heaps = []
    for _ in range(HOURS):
        page.clock.run_for(3_600_000)
        assert count(page, "open") <= 1
        heaps.append(heap(session))
    page.evaluate("Math.random = () => 0.5")  # Calm at last.
    page.clock.run_for(60_000)
    assert page.evaluate("client.state.state") == "online"
    assert count(page, "made") > HOURS * 30
    assert count(page, "refreshed") > HOURS
    assert (count(page, "wrong"), count(page, "last")) == (0, count(page, "head"))
    assert count(page, "receipts") - count(page, "granted") <= 1
    assert count(page, "published") - count(page, "answered") <= 1
    assert page.evaluate("Object.keys(localStorage).length") <= 1
    assert max(heaps[-3:]) - min(heaps[8:11]) < SLACK, heaps
