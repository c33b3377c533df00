"""What a person says about the ids of a table, and what is refused unless a person says it.

A spreadsheet that opened a table and saved it has changed ids. Some of what it makes can be a right id, so such a cell
is refused until a person confirms its column. What it makes of a number with zeros at the front looks like any other
number. Only the number of digits tells that, if a person says how many there must be.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from worker.cli.exit_codes import Exit, Stop
from worker.doubtful_ids import doubt_about
from worker.errors import BadPayload

LONGEST = 128  # digits of an id


class IdColumns(NamedTuple):
    """The columns that hold ids as texts, those whose ids are right as they are, and the digits that ids must have."""

    ids: Collection[str]
    as_they_are: Collection[str] = ()
    digits: Mapping[str, int] = {}

    def check(self, fields: Mapping[str, Any]) -> None:
        """Check the ids of a row. Raises `BadPayload` naming the column and the remedy."""
        for name, value in fields.items():
            is_id = isinstance(value, str) and name in self.ids
            if not is_id and (not isinstance(value, int) or isinstance(value, bool)):
                continue
            text = str(value)
            if (width := self.digits.get(name)) is not None and not (is_digits(text) and len(text) == width):
                raise BadPayload(
                    f"{name}: {text[:80]!r} does not have the {width} digits of --digits {name}={width}: a spreadsheet"
                    " has changed it? Export the column as text"
                )
            if name not in self.as_they_are and (doubt := doubt_about(text)):
                raise BadPayload(
                    f"{name}: {text[:80]!r} {doubt}: export the column as text; if its ids are right: --as-is {name}"
                )


def is_digits(text: str) -> bool:
    """Return whether a text is ASCII digits and nothing else."""
    return text.isascii() and text.isdigit()


def id_columns(known: Collection[str], ids: Collection[str], as_is: Sequence[str], digits: Sequence[str]) -> IdColumns:
    """Read the options `--as-is COLUMN` and `--digits COLUMN=N`. Raises `Stop` for a column that there is not."""
    widths = {}
    for option in digits:
        name, _, width = option.partition("=")
        if name in ids and not (is_digits(width) and 1 <= int(width[:9]) <= LONGEST):
            raise Stop(Exit.USAGE, f"--digits {option}: give COLUMN=N, N from 1 to {LONGEST}: --digits {name}=8")
        if name not in ids:
            raise Stop(Exit.USAGE, f"--digits {option}: the columns that hold ids are {', '.join(sorted(ids))}")
        widths[name] = int(width)
    for name in as_is:
        if name not in known:
            raise Stop(Exit.USAGE, f"--as-is {name}: there are {', '.join(known)}")
    return IdColumns(ids, as_is, widths)
