"""`python -m worker.sandbox`: the local B2COPY alone. Prints its base URL when it is ready."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from worker.sandbox.run import serve
from worker.sandbox.switches import Switches, describe


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when stopped, 2 when the arguments are unusable."""
    parser = argparse.ArgumentParser(prog="python -m worker.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (see --anywhere)")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--anywhere", action="store_true", help="allow --host to be no loopback address")
    parser.add_argument("--key", action="append", default=[], metavar="ID=FILE", help="a public key, PEM")
    parser.add_argument("--switches", type=Path, metavar="FILE", help="switches as JSON")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="one switch")
    parser.add_argument("--list", action="store_true", help="list the switches with their defaults, and end")
    given = parser.parse_args(arguments)
    if given.list:
        _print(describe())
        return 0
    try:
        switches = json.loads(given.switches.read_text()) if given.switches else {}
        for name, value in map(_pair, given.set):
            switches[name] = _json_or_text(value)
        keys = {key_id: Path(file).read_text() for key_id, file in map(_pair, given.key)}
        serve(Switches().changed(switches), keys, given.host, given.port, given.anywhere, _print)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    return 0


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


if __name__ == "__main__":
    sys.exit(main())
