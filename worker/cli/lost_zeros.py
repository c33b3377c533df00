"""Zeros at the front of an id that a spreadsheet has dropped, as far as the other rows tell it.

If the ids of a column that begin with a zero all have the same number of digits, and none has more, the column has a
fixed width: `000123`, `004567`. An id of digits that is shorter and does not begin with a zero has lost its own then.

If a spreadsheet has saved the whole file, no id begins with a zero any more, and nothing is found. Then only a person
knows how many digits the ids must have: `--digits` (worker/cli/id_columns.py).
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

ENOUGH = 3  # ids that begin with a zero: fewer may have it by chance
REMEMBERED = 100  # lines of each column and length


class LostZeros:
    """Looks at all ids of the columns that hold texts, but for those that are left out."""

    def __init__(self, left_out: Collection[str]) -> None:
        self._left_out = left_out
        self._with_zero: dict[str, Counter[int]] = {}
        self._longest: Counter[str] = Counter()
        self._short: dict[tuple[str, int], list[tuple[int, str]]] = {}
        self._rows: Counter[tuple[tuple[str, int], ...]] = Counter()  # by column and length of their ids in `_short`

    def look(self, line: int, fields: Mapping[str, Any]) -> None:
        """Look at the cells of a row, by column."""
        short = []
        for column, cell in fields.items():
            if column in self._left_out or not (isinstance(cell, str) and cell.isascii() and cell.isdigit()):
                continue
            size = len(cell)
            if size > self._longest[column]:
                self._longest[column] = size
            if cell[0] == "0":
                self._with_zero.setdefault(column, Counter())[size] += 1
                continue
            short.append((column, size))
            lines = self._short.setdefault((column, size), [])
            if len(lines) < REMEMBERED:
                lines.append((line, cell))
        if short:
            self._rows[tuple(short)] += 1

    def found(self) -> tuple[int, list[tuple[int, str]]]:
        """Return how many rows hold ids that have lost zeros, and their lines with the reasons, as far as remembered.

        A line stands once, with the reasons of all its ids. The lines are in order.
        """
        lost = set()
        reasons: dict[int, list[str]] = {}
        for column, sizes in self._with_zero.items():
            if len(sizes) != 1 or sizes.total() < ENOUGH:
                continue
            [width] = sizes
            if self._longest[column] > width:
                continue
            for (name, size), lines in self._short.items():
                if name == column and size < width:
                    lost.add((name, size))
                    for line, cell in lines:
                        reasons.setdefault(line, []).append(_reason(column, cell, width, sizes[width]))
        count = sum(rows for short, rows in self._rows.items() if not lost.isdisjoint(short))
        return count, [(line, "; ".join(texts)) for line, texts in sorted(reasons.items())]


def _reason(column: str, cell: str, width: int, others: int) -> str:
    return (
        f"{column}: {cell!r} has {len(cell)} digits, and {others} others that begin with 0 have {width}: a spreadsheet"
        f" has dropped the zeros at its front? Export the column as text; if its ids are right: --as-is {column}"
    )
