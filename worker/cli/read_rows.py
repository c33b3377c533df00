"""Rows of CSV and JSON Lines files, one at a time. What a spreadsheet has damaged is refused, never repaired."""

import csv
import re
from collections import Counter
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

from worker import exact_json
from worker.cli.exit_codes import Exit, Stop
from worker.cli.options import json_or_text
from worker.cli.text_encoding import Source
from worker.errors import BadPayload

SEPARATORS = ",;\t|"
_NEVER_CLOSED = "unexpected end of data"  # what the csv module says then, of the last line


class Row(NamedTuple):
    """The line of the file that a row begins on, its fields, and what is wrong with it, if something is."""

    line: int
    fields: dict[str, Any]
    problem: str = ""


# Further damage is refused by the kinds' own fields, also where no file is involved (worker/id_fields.py), or unless a
# person confirms it (worker/cli/id_columns.py).
_DAMAGE = {
    "is a formula": r'="?.*',
    "begins with the apostrophe that marks a text in a spreadsheet": r"'.*",
    "is an error of a spreadsheet": r"#(?:N/A|REF!|VALUE!|NAME\?|NUM!|DIV/0!|NULL!|#+)",
    "is a number with separators": r"\d{1,3}(?:,\d{3})+",
    "is a rounded number, whose last digits are lost": r"[+-]?\d(?:[.,]\d+)?e[+-]\d+|[+-]?\d[.,]\d+e\d+",
    "has blanks around it": r"\s.*|.*\s",
}
_DAMAGED = re.compile("|".join(f"({pattern})" for pattern in _DAMAGE.values()), re.DOTALL | re.IGNORECASE)


def csv_rows(source: Source, known: list[str], texts: set[str], is_whole: bool = False) -> Iterator[Row]:
    """Read CSV with a heading line. Raises `Stop` if it is no CSV, or if the heading names none of `known`.

    The names of the heading are compared without blanks around them and without regard to case. Of the columns in
    `known`, those in `texts` are taken as they stand, and the others are JSON. An empty cell is left out, so that a
    field that is needed is then missing.

    `is_whole` is a person's word that a file whose last line has no line end was not cut off there: the last id would
    be a shorter one. A quotation mark ends a cell, too.
    """
    if not is_whole and source.end and source.end[-1] not in '\r\n"':
        last = re.split(r"[\r\n]", source.end)[-1]
        raise Stop(
            Exit.USAGE,
            f"{source.name}: the last line has no line end, as if the file was cut off: it ends with {last!r}. Compare"
            " it with what was exported, and copy it again if something is missing; if it is whole: --whole",
        )
    reader = None
    begins = 1  # the line that the present row begins on
    heading = next(source.lines(), "")
    try:
        separator = _separator(heading, known)
        reader = csv.reader(source.lines(), delimiter=separator, strict=True)
        columns = _columns(source, next(reader, []), known)
        heading_names = {name.casefold() for name in columns}
        begins = reader.line_num + 1
        for cells in reader:
            line, begins = begins, reader.line_num + 1
            if not cells:
                continue
            if {cell.strip().casefold() for cell in cells} == heading_names:
                yield Row(line, {}, "is the heading again, as if files were joined: remove it")
                continue
            if len(cells) != len(columns):
                yield Row(line, {}, f"{len(columns)} columns are needed, there are {len(cells)}")
                continue
            fields, damages = {}, []
            for name, cell in zip(columns, cells, strict=True):
                if not cell:
                    continue
                is_text = name in texts
                try:
                    fields[name] = cell if is_text or name not in known else json_or_text(name, cell)
                except BadPayload as error:
                    damages.append(str(error))
                if is_text and (damage := _damage(name, cell)):
                    damages.append(damage)
            yield Row(line, fields, "; ".join(damages))
    except csv.Error as error:
        if str(error) == _NEVER_CLOSED:
            problem = "a quotation mark that opens here is never closed"
            raise Stop(Exit.USAGE, f"{source.name}, line {begins}: not CSV: {problem}") from None
        line = reader.line_num if reader else 1
        raise Stop(Exit.USAGE, f"{source.name}, after line {line}: not CSV: {error}") from None


def json_rows(source: Source) -> Iterator[Row]:
    """Read JSON Lines, one object a line."""
    for number, text in enumerate(source.lines(), start=1):
        if not text.strip():
            continue
        try:
            fields = exact_json.loads(text)
        except ValueError as error:
            yield Row(number, {}, f"not JSON: {error}")
            continue
        if isinstance(fields, dict):
            yield Row(number, fields)
        else:
            yield Row(number, {}, "must be a JSON object")


def known_fields(rows: Iterator[Row], known: Container[str], left_out: dict[str, None]) -> Iterator[Row]:
    """Leave out the fields that are not known, and add their names to `left_out`, in their order."""
    for row in rows:
        if unknown := [name for name in row.fields if name not in known]:
            left_out.update(dict.fromkeys(unknown))
            yield row._replace(fields={name: row.fields[name] for name in row.fields if name in known})
        else:
            yield row


def is_json(source: Source) -> bool:
    """Return whether the file's first character begins a JSON object."""
    with source.text() as stream:
        while text := stream.readline(4096):
            if text.strip():
                return text.lstrip().startswith("{")
    return False


def _separator(heading: str, known: list[str]) -> str:
    """Return what separates the most names that are known, or else the most names."""

    def names(separator: str) -> tuple[int, int]:
        columns = next(csv.reader([heading], delimiter=separator), [])
        return len({name.strip().casefold() for name in columns} & set(known)), len(columns)

    return max(SEPARATORS, key=names)


def _columns(source: Source, heading: list[str], known: list[str]) -> list[str]:
    by_name = {name.casefold(): name for name in known}
    columns = [by_name.get(name.strip().casefold(), name.strip()) for name in heading]
    if doubled := [name for name, count in Counter(columns).items() if count > 1]:
        names = ", ".join(map(repr, doubled))
        raise Stop(Exit.USAGE, f"{source.name}, line 1: the heading names {names} twice: which one counts?")
    if not set(columns) & set(known):
        raise Stop(Exit.USAGE, f"{source.name}: the first line must name the columns: {', '.join(known)}")
    return columns


def _damage(column: str, cell: str) -> str:
    found = _DAMAGED.fullmatch(cell)
    if found is None or found.lastindex is None:
        return ""
    what = list(_DAMAGE)[found.lastindex - 1]
    return f"{column}: {cell[:80]!r} {what}: export the column as text"
