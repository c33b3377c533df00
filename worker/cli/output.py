"""What is printed: lines and tables for people, one JSON document for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.report.text import clock as clock
from worker.report.text import count as count
from worker.report.text import iso as iso
from worker.report.text import span as span

_PIPED = 10_000  # characters: piped, a line is never broken or cut, as it may be somebody's input


@cache
def out() -> Console:
    """Standard output: what was asked for."""
    return _console(stderr=False)


@cache
def err() -> Console:
    """Standard error: what went wrong, and progress."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPED
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def line(text: str, style: str = "") -> None:
    """Print a line to standard output."""
    out().print(Text(printable(text), style), soft_wrap=True)


def note(text: str) -> None:
    """Print a line to standard error: beside the answer, not part of it."""
    err().print(Text(printable(text)), soft_wrap=True)


def document(value: Any) -> None:
    """Print one JSON document to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()  # a reader who has gone is noticed here, not at the interpreter's end


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print aligned columns. A column without any content is left out, long texts are folded, never cut."""
    _print(headings, rows, show_header=True)


def facts(rows: Iterable[tuple[str, str | Text | None]]) -> None:
    """Print names and values, those that there are."""
    _print(("", ""), [(f"  {name}", value) for name, value in rows if value], show_header=False)


def _print(headings: Sequence[str], rows: Iterable[Sequence[str | Text]], show_header: bool) -> None:
    cells = [[printable(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    shown = [number for number in range(len(headings)) if any(str(row[number]) for row in cells)]
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=show_header)
    for number in shown:
        grid.add_column(headings[number], overflow="fold")
    for row in cells:
        grid.add_row(*(row[number] for number in shown))
    out().print(grid)


def printable(text: str) -> str:
    """Return `text` without control characters: what others wrote must not steer our terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
