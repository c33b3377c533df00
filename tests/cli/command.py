"""Run `b2copy-sync` in a process of its own."""

from collections.abc import Mapping
from pathlib import Path

from tests import forked
from tests.forked import Ran

__all__ = ["Ran", "run"]


def run(folder: Path, environment: Mapping[str, str], *arguments: str, within: float = 60.0) -> Ran:
    """Run the command to its end. `folder` is where its output goes."""
    return forked.run(_command, folder, environment, ["b2copy-sync", *arguments], within)


def _command() -> None:
    from worker.cli import main

    main()
