"""Rows of CSV and JSON Lines files, one at a time. What a spreadsheet has damaged is refused, never repaired."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.cli.exit_codes import Exit, Stop
from worker.cli.options import json_or_text

Row = tuple[int, dict[str, Any]]
"""The line of the file that a row ends on, and its fields."""

# Further damage is refused by the kinds' own fields, also where no file is involved (worker/id_fields.py).
_DAMAGE = (
    (re.compile(r'="?.*', re.DOTALL), "is a formula"),
    (re.compile(r"'.*", re.DOTALL), "begins with the apostrophe that marks a text in a spreadsheet"),
    (re.compile(r"#(?:N/A|REF!|VALUE!|NAME\?|NUM!|DIV/0!|NULL!|#+)"), "is an error of a spreadsheet"),
    (re.compile(r"\d{1,3}(?:,\d{3})+"), "is a number with separators"),
    (re.compile(r"\s.*|.*\s", re.DOTALL), "has blanks around it"),
)


def csv_rows(file: Path, known: list[str], texts: set[str]) -> Iterator[Row]:
    """Read CSV with a heading line, separated by comma, semicolon or tab. Raises `Stop` naming line and column.

    Of the columns in `known`, those in `texts` are taken as they stand, and the others are JSON. An empty cell is left
    out, so that a field that is needed is then missing.
    """
    reader = None
    with file.open(encoding="utf-8-sig", newline="") as stream:  # -sig: spreadsheets begin a file with a mark
        try:
            # Spreadsheets separate by what the machine's region has.
            separator = max(",;\t", key=stream.readline().count)
            stream.seek(0)
            reader = csv.reader(stream, delimiter=separator, strict=True)
            columns = _columns(file, next(reader, []), known)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(columns):
                    raise _stop(file, reader.line_num, f"{len(columns)} columns are needed, there are {len(cells)}")
                named = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
                for name in texts & named.keys():
                    _refuse_damage(file, reader.line_num, name, named[name])
                yield (
                    reader.line_num,
                    {
                        name: cell if name in texts or name not in known else json_or_text(cell)
                        for name, cell in named.items()
                    },
                )
        except (csv.Error, UnicodeDecodeError) as error:
            line = reader.line_num if reader else 1
            raise Stop(Exit.USAGE, f"{file}, after line {line}: not CSV in UTF-8: {error}") from None


def json_rows(file: Path) -> Iterator[Row]:
    """Read JSON Lines, one object a line. Raises `Stop` naming the line."""
    number = 0
    with file.open(encoding="utf-8-sig") as stream:
        try:
            for number, text in enumerate(stream, start=1):
                if not text.strip():
                    continue
                fields = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
                if not isinstance(fields, dict):
                    raise _stop(file, number, "must be a JSON object")
                yield number, fields
        except UnicodeDecodeError as error:
            raise _stop(file, number + 1, f"not UTF-8: {error}") from None
        except (ValueError, RecursionError) as error:
            raise _stop(file, number, f"not JSON: {error}") from None


def _columns(file: Path, heading: list[str], known: list[str]) -> list[str]:
    columns = [name.strip() for name in heading]
    if doubled := [name for name, count in Counter(columns).items() if count > 1]:
        raise _stop(file, 1, f"the heading names {', '.join(map(repr, doubled))} twice: which one counts?")
    if not set(columns) & set(known):
        raise Stop(Exit.USAGE, f"{file}: the first line must name the columns: {', '.join(known)}")
    return columns


def _refuse_damage(file: Path, line: int, column: str, cell: str) -> None:
    for pattern, what in _DAMAGE:
        if pattern.fullmatch(cell):
            remedy = "export the column as text"
            raise _stop(file, line, f"{column}: {cell[:80]!r} {what}: {remedy}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if doubled := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise ValueError(f"{', '.join(map(repr, doubled))} is given twice")
    return dict(pairs)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _stop(file: Path, line: int, message: str) -> Stop:
    return Stop(Exit.USAGE, f"{file}, line {line}: {message}")
