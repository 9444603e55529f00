"""The command `fanfare`: what the client does, from a shell. FANFARE_URL and FANFARE_KEY say where and as whom."""

import os
import sys
from collections.abc import Sequence

from fanfare_client.client import Client
from fanfare_client.command import actions
from fanfare_client.command.arguments import parser
from fanfare_client.command.output import Output, printable
from fanfare_client.credentials import from_environment
from fanfare_client.errors import FanfareError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command -> its exit status: 0, 1 for what went wrong, 2 for what it was not asked rightly."""
    options = parser().parse_args(arguments)
    try:
        url, key = from_environment()
        with Client(url, key) as client:
            return actions.ACTIONS[options.action](client, options, Output(options.output == "json"))
    except FanfareError as error:
        return _fail(str(error), 1)
    except (ValueError, TypeError, ImportError) as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Whoever read it has enough.
        return 0


def _fail(why: str, status: int) -> int:
    print(f"fanfare: {printable(why)}", file=sys.stderr)
    return status
