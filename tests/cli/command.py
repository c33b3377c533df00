"""Run `b2copy-sync` in a process of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from tests import forked
from tests.forked import Ran
from worker.celery_commands import NAMES, celery_command
from worker.cli import app

__all__ = ["Ran", "refusal", "run"]


def run(folder: Path, environment: Mapping[str, str], *arguments: str, within: float = 60.0) -> Ran:
    """Run the command to its end. `folder` is where its output goes."""
    return forked.run(_command, folder, environment, ["b2copy-sync", *arguments], within)


def _command() -> None:
    from worker.cli import main

    main()


def refusal(words: Sequence[str]) -> str:
    """Return why the command would refuse these arguments; empty if it takes them. Nothing is run."""
    command: Any = typer.main.get_command(app)  # typer brings its own click, so its classes are not click's
    path: list[str] = []
    left = list(words)
    while commands := getattr(command, "commands", None):
        if hasattr(command, "default") and (not left or left[0] not in commands):
            left.insert(0, command.default)  # `import FILE` is `import file FILE`
        if not left:  # a group alone is only mentioned
            return "" if path else "no command is named"
        command = commands.get(left[0])
        if command is None:
            return f"there is no {' '.join([*path, left[0]])}"
        path.append(left.pop(0))
    try:
        if command.name in NAMES:
            command = celery_command(command.name)
        if command.name in NAMES or "--help" in left:  # only parsed: more would read settings, or print the help
            command.make_parser(command.context_class(command)).parse_args(left)
        elif left:  # a command alone is only mentioned
            command.make_context(" ".join(path), left)
    except Exception as error:  # whatever the parser raises
        return str(error) or repr(error)
    return ""
