"""static/ is a package: its types name what is there, and its package.json the files."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.pages import CLIENT, STATIC

pytestmark = pytest.mark.any_database
MODULES = sorted(path.with_name(path.name.replace(".d.ts", ".js")) for path in STATIC.glob("*.d.ts"))
INHERITED = {"addEventListener", "removeEventListener"}

USE = """
import { connect, FanfareError, type Client, type Position } from "fanfare-client";
import { openSession, type SessionState } from "fanfare-client/sessions";

const client: Client = connect({ getToken: async () => ({ token: "x", expires_at: 7 }), topics: { all: null } });
client.addEventListener("message", ({ detail }) => detail.offset?.toFixed());
client.addEventListener("error", ({ detail }) => detail.code.length);
client.addEventListener("board", ({ detail }) => detail.me?.rank.toFixed());
export async function use(since: Position): Promise<number> {
  const { messages } = await client.request<{ messages: string[] }>("inbox");
  const { unread } = await client.receipt("read", { ids: messages });
  // @ts-expect-error
  await client.receipt("lick", { all: true });
  // @ts-expect-error
  await client.subscribe("board.x", "now");
  const { recovered } = await client.subscribe("board.x", since, { me: true });
  const { findings } = await client.diagnose();
  return recovered ? unread : findings.length;
}
new FanfareError("a", "b");
const session = openSession({ transport: "sqs", getToken: () => "x", onMessage: async ({ offset }) => offset });
session.addEventListener("state", ({ detail }: { detail: SessionState }) => detail.retryAt?.toFixed());
export const ended: Promise<void> = session.close();
// @ts-expect-error
openSession({ transport: "fax", onMessage: () => {} });
"""


def types_of(module: Path) -> str:
    return module.with_suffix(".d.ts").read_text()


def body(text: str, start: str) -> str:
    """What stands between the braces that follow."""
    return text.partition(start)[2].partition("\n}\n")[0]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_what_a_module_exports_its_types_name_and_nothing_else(module: Path) -> None:
    exported = r"^export (?:declare )?(?:async )?(?:function|class|const|let) (\w+)"
    there = set(re.findall(exported, module.read_text(), re.MULTILINE))
    assert there
    assert set(re.findall(exported, types_of(module), re.MULTILINE)) == there


def test_what_a_client_can_do_its_types_name_and_nothing_else() -> None:
    code, types = CLIENT.read_text(), types_of(CLIENT)
    methods = set(re.findall(r"^  (?:async |get )?(\w+)\(", body(code, "class Client extends"), re.MULTILINE))
    named = set(re.findall(r"^  (?:readonly )?(\w+)[<(:]", body(types, "interface Client extends"), re.MULTILINE))
    assert named - INHERITED == methods - {"constructor"}


def test_what_a_session_can_do_its_types_name_and_nothing_else() -> None:
    module = STATIC / "fanfare-sessions.js"
    code, types = module.read_text(), types_of(module)
    methods = set(re.findall(r"^  (?:async |get )?(\w+)\(", body(code, "class Session extends"), re.MULTILINE))
    named = set(re.findall(r"^  (?:readonly )?(\w+)[<(:]", body(types, "interface Session extends"), re.MULTILINE))
    assert named - INHERITED == methods - {"constructor"}
    options = set(re.findall(r"^  (\w+)\??:", body(types, "interface SessionOptions"), re.MULTILINE))
    used = re.findall(r"const \{([\w\s,:=\"/.-]+)\} = this\.#options", code)
    assert options >= {name for found in used for name in re.findall(r"(?:^|,)\s*(\w+)", found)}


def test_what_a_client_dispatches_its_types_name_and_nothing_else() -> None:
    code, types = CLIENT.read_text(), types_of(CLIENT)
    emitted = set(re.findall(r'#emit\("(\w+)"', code))
    passed_on = re.findall(r"\w+", code.partition("const PASSED_ON = new Set([")[2].partition("]")[0])
    named = set(re.findall(r"^  (\w+): ", body(types, "interface Events"), re.MULTILINE))
    assert named == emitted | set(passed_on)


def test_the_package_names_files_that_are_there() -> None:
    package = json.loads((STATIC / "package.json").read_text())
    named = {*package["files"], *package["sideEffects"], package["types"]}
    named |= {path for entry in package["exports"].values() for path in entry.values()}
    assert {name for name in named if not (STATIC / name).is_file()} == set()
    assert {path.name for path in STATIC.glob("fanfare*")} == set(package["files"])


def test_typescript_understands_the_types(tmp_path: Path) -> None:
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/fanfare-client").symlink_to(STATIC)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "use.ts").write_text(USE)
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"]
    done = subprocess.run(["tsc", *options, "use.ts"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
