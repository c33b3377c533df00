"""What is printed: lines and tables for people, one JSON document for programs.

Whatever is printed may hold text from outside. It is never markup, a control character or a second line, and what
looks like a secret is blanked.
"""

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from worker.cli.exit_codes import Exit, Stop
from worker.watch.printable import many_lines, one_line
from worker.watch.redact import redacted, redacted_value

_PIPED_WIDTH = 10_000  # characters: a line that goes to a pipe is never broken or cut, as a program may read it


@cache
def out() -> Console:
    """Standard output: what was asked for."""
    return _console(stderr=False)


@cache
def err() -> Console:
    """Standard error: what went wrong, and progress bars."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def safe(text: str, style: str = "") -> Text:
    """Return text as it may be printed."""
    return Text(one_line(redacted(text)), style)


class NotWritten(Stop):
    """Standard output cannot be written, for instance because the disk that it goes to is full."""


@contextmanager
def writing() -> Iterator[None]:
    """Raise `NotWritten` if this block cannot write to standard output. A reader that has gone is no such fault."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # else the interpreter tries to write the rest at its end
        raise NotWritten(Exit.FAILED, f"the output cannot be written: {error.strerror}") from None


def line(text: str = "", style: str = "") -> None:
    """Print one line to standard output."""
    with writing():
        out().print(safe(text, style), soft_wrap=True)


def note(text: str) -> None:
    """Print one line to standard error: beside the answer, not part of it."""
    err().print(safe(text), soft_wrap=True)


def mute_session() -> None:
    """Let the session log nothing, for a command that prints what the session would log."""
    logging.getLogger("worker.session").setLevel(logging.CRITICAL)


def document(value: Any) -> None:
    """Print one JSON document to standard output."""
    shown = redacted_value(value)
    text = json.dumps(shown, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # else `?` would stand for what this encoding lacks
        text = json.dumps(shown, indent=2)
    with writing():
        sys.stdout.write(many_lines(text) + "\n")
        sys.stdout.flush()  # if the reader has closed the pipe, the error comes here and not at the interpreter's end


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print aligned columns. A column without any content is left out; long texts are folded, never cut.

    On a terminal that is too narrow for a row, the last columns stand below the others, so that no key is broken.
    """
    _print(headings, rows, show_header=True)


def facts(rows: Iterable[tuple[str, str | Text | None]]) -> None:
    """Print names and values, those that are not empty."""
    _print(("", ""), [(f"  {name}", value) for name, value in rows if value], show_header=False)


def _print(headings: Sequence[str], rows: Iterable[Sequence[str | Text]], show_header: bool) -> None:
    cells = [[safe(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    shown = [number for number in range(len(headings)) if any(row[number].plain for row in cells)]
    # The columns that fit beside each other are aligned, the others stand below them.
    beside = next((n for n in range(len(shown), 0, -1) if _fits(headings, cells, shown[:n])), 0) if show_header else 0
    aligned, below = (shown[:beside], shown[beside:]) if beside else (shown, [])
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=show_header)
    for number in aligned:
        grid.add_column(headings[number], overflow="fold", no_wrap=bool(below) or headings[number].endswith("(UTC)"))
    for row in cells:
        grid.add_row(*(row[number] for number in aligned))
    with writing():
        if not below:
            out().print(grid)
            return
        lines = [[Text(heading, "bold") for heading in headings], *cells]
        for segments, texts in zip(out().render_lines(grid, pad=False), lines, strict=True):
            out().print(Text.assemble(*((segment.text, segment.style or "") for segment in segments)))
            out().print(Padding(Text("  ").join(texts[number] for number in below if texts[number]), (0, 0, 0, 2)))


def _fits(headings: Sequence[str], cells: Sequence[Sequence[Text]], columns: Sequence[int]) -> bool:
    """Return whether these columns fit beside each other into the width of the output."""
    widths = (max(len(headings[number]), *(row[number].cell_len for row in cells)) + 2 for number in columns)
    return not cells or sum(widths) - 2 <= out().width
