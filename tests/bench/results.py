"""Results: one JSON line each, written as soon as it is measured, and tables made of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Row = dict[str, Any]


class Results:
    """`resume`: continue with the lines that the file has, otherwise begin it anew."""

    def __init__(self, path: Path, resume: bool = False) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            path.unlink(missing_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def add(self, part: str, **values: Any) -> None:
        row = {"part": part} | {name: _short(value) for name, value in values.items()}
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print("  " + "  ".join(f"{name} {value}" for name, value in row.items()), flush=True)

    def of(self, part: str, **values: Any) -> list[Row]:
        """Return the rows of a part of the benchmark that have these values."""
        return [
            row
            for row in self.rows
            if row["part"] == part and all(row.get(name) == one for name, one in values.items())
        ]

    def values(self, part: str, name: str, **values: Any) -> list[float]:
        return [row[name] for row in self.of(part, **values) if row.get(name) is not None]

    def median(self, part: str, name: str, **values: Any) -> float | None:
        found = self.values(part, name, **values)
        return median(found) if found else None


def ratio(ours: Sequence[Row], theirs: Sequence[Row], name: str) -> float | None:
    """Return the median of the ratios within each round: other work on the machine slows a whole round down."""
    by_round = {row["round"]: row[name] for row in theirs}
    ratios = [row[name] / by_round[row["round"]] for row in ours if by_round.get(row["round"])]
    return median(ratios) if ratios else None


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown. The first column is text, all others are numbers."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, rule, *rows])


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Return the median, and the lowest and highest value."""
    if not values:
        return "-"
    middle = show(median(values))
    return middle if len(values) == 1 else f"{middle} ({show(min(values))}-{show(max(values))})"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
