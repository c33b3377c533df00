"""Check every row of an import before the first is recorded: each by its kind, by the other rows, and by the ledger."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

from worker.errors import BadPayload
from worker.ledger import Ledger
from worker.ledger.insert_operations import NewRow, row_of
from worker.ledger.record_operations import difference_of, known_among
from worker.operation import New, State
from worker.spooled_list import SpooledList

if TYPE_CHECKING:
    from worker.cli.lost_zeros import LostZeros
    from worker.cli.read_rows import Row

LISTED = 100  # unusable rows that are listed
CHUNK = 1_000  # keys that are looked up in one query
_PARTS = 16  # so that only a part of all keys is in memory and sorted at a time


@dataclass
class Checked:
    """The rows of a file: `total` of them, those that can be used, and what is wrong with the others.

    All are recorded in `lane` as the batch `batch`, requested by `by`.
    `known`, `new`: how many keys the ledger has already, by state, and how many it does not have. `repeated`: how many
    rows repeat the key of an earlier one, `repeated_on`: the line of the first of them.
    """

    lane: str
    batch: str
    by: str
    total: int = 0
    unusable: int = 0
    conflicting: int = 0
    repeated: int = 0
    repeated_on: int = 0
    new: int = 0
    known: Counter[State] = field(default_factory=Counter)
    problems: list[tuple[int, str]] = field(default_factory=list)
    doubled: set[int] = field(default_factory=set)  # digests of the keys that stand in the file more than once
    _usable: SpooledList = field(default_factory=SpooledList)

    def rows(self) -> Iterator[NewRow]:
        """Return the operations, in the order of the file."""
        return (row for _, row in self.with_lines())

    def with_lines(self) -> Iterator[tuple[int, NewRow]]:
        """Return the operations with the lines that they stand on."""
        return ((line, NewRow._make(values)) for line, values in self._usable.read())

    def add(self, line: int, new: New) -> NewRow:
        """Add a usable row. Raises `BadPayload` if no ledger can record it."""
        row = row_of(new, self.by, self.lane, self.batch)
        self._usable.append((line, tuple(row)))
        return row

    def refuse(self, line: int, problem: str, *, conflicts: bool = False) -> None:
        """Add an unusable row. Only the first are listed, all are counted."""
        self.unusable += 1
        self.conflicting += conflicts
        if len(self.problems) < LISTED:
            self.problems.append((line, problem))


def check_rows(
    checked: Checked,
    rows: Iterable["Row"],
    new_of: Callable[[dict[str, Any]], New],
    lost_zeros: "LostZeros | None",
    seen: Callable[[int], None],
) -> None:
    """Check each row by itself, then by the others. `seen` is called with the number of rows that have been read."""
    hashes = [array("Q") for _ in range(_PARTS)]
    for row in rows:
        checked.total += 1
        if checked.total % CHUNK == 0:
            seen(checked.total)
        try:
            if row.problem:
                raise BadPayload(row.problem)
            usable = checked.add(row.line, new_of(row.fields))
        except BadPayload as error:
            checked.refuse(row.line, str(error))
            continue
        if lost_zeros is not None:
            lost_zeros.look(row.line, row.fields)
        digest = _digest(usable.key)
        hashes[digest % _PARTS].append(digest)
    if lost_zeros is not None:
        count, reasons = lost_zeros.found()
        for line, reason in reasons:
            checked.refuse(line, reason)
        checked.unusable += count - len(reasons)
        if count:
            return  # such a row may conflict as well, and would count twice: the file must be read again anyway
    _check_repeated(checked, hashes)


def check_against_ledger(checked: Checked, ledger: Ledger, seen: Callable[[int], None]) -> None:
    """Find out which operations are known already, and which are known with other data. Each key counts once."""
    rows, done = checked.with_lines(), 0
    counted: set[str] = set()  # of the keys that stand in the file more than once
    while chunk := list(islice(rows, CHUNK)):
        first: dict[str, tuple[int, NewRow]] = {}
        for line, row in chunk:
            if row.key not in counted:
                first.setdefault(row.key, (line, row))
        counted.update(key for key in first if _digest(key) in checked.doubled)
        found = known_among(ledger, {key: row for key, (_, row) in first.items()})
        for key, known in found.items():
            if known.difference:
                problem = f"{key} is {known.state} in the ledger with another {known.difference}"
                checked.refuse(first[key][0], problem, conflicts=True)
            else:
                checked.known[known.state] += 1
        checked.new += len(first) - len(found)
        done += len(chunk)
        seen(done)


def _check_repeated(checked: Checked, hashes: "list[array[int]]") -> None:
    """Find rows with the same key: the same operation counts once, two different ones conflict."""
    for part in hashes:
        ordered = sorted(part)
        checked.doubled.update(one for one, other in pairwise(ordered) if one == other)
    if not checked.doubled:
        return
    first: dict[str, tuple[int, NewRow]] = {}
    for line, row in checked.with_lines():
        if _digest(row.key) not in checked.doubled:
            continue
        earlier, stored = first.setdefault(row.key, (line, row))
        if stored is row:
            continue
        if difference := difference_of(stored, row):
            checked.refuse(line, f"{row.key} stands on line {earlier} with another {difference}", conflicts=True)
        else:
            checked.repeated += 1
            checked.repeated_on = checked.repeated_on or line


def _digest(key: str) -> int:
    return hash(key) & 0xFFFF_FFFF_FFFF_FFFF
