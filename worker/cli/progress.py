"""How far a long command is: a bar with rate and time left on a terminal, else a line every ten seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S = 10.0  # seconds between two lines


@contextmanager
def progress(doing: str, total: int | None = None) -> Iterator["Callable[[int], None]"]:
    """Show how far `doing` is. Call the returned function with the number of rows that are done. `total`: if known."""
    if sys.stderr.isatty():
        with _bar(doing, total) as seen:
            yield seen
    else:
        yield _lines(doing, total)


@contextmanager
def _bar(doing: str, total: int | None) -> Iterator["Callable[[int], None]"]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} rows/s" if task.speed else "")

    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=output.err(), transient=True) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda done: bar.update(task, completed=done)


def _lines(doing: str, total: int | None) -> "Callable[[int], None]":
    began = last = time.monotonic()

    def seen(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < EVERY_S:
            return
        last = now
        rate = done / (now - began)
        left = f" of {total:,}" if total is not None else ""
        eta = f", {(total - done) / rate:,.0f} s left" if total is not None and rate else ""
        output.note(f"{doing}: {done:,}{left} rows, {rate:,.0f} rows/s{eta}")

    return seen
