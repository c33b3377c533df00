"""Scenarios, and the table of their figures."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scenario:
    """A name, a run that returns the figures of its row, and `holds`, which returns what is wrong with them."""

    name: str
    run: Callable[[], Mapping[str, Any]]
    holds: Callable[[Mapping[str, Any]], Sequence[str]]


@dataclass
class Table:
    """Rows of figures under one title. The first row's figures are the columns."""

    title: str
    rows: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def run(self, scenario: Scenario) -> None:
        """Run a scenario and add its row. If it raises, that is noted and the next scenario can run."""
        with self._errors_noted(scenario.name):
            figures = scenario.run()
            self.rows.append((scenario.name, figures))
            self.broken += [f"{scenario.name}: {problem}" for problem in scenario.holds(figures)]

    @contextlib.contextmanager
    def _errors_noted(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.broken.append(f"{name}: {type(error).__name__}: {error}")

    def __str__(self) -> str:
        columns = list(self.rows[0][1]) if self.rows else []
        lines = [["scenario", *columns]]
        lines += [[name, *(_cell(figures.get(column)) for column in columns)] for name, figures in self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
        text = [
            " | ".join(
                cell.ljust(width) if not at else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        text.insert(1, "-|-".join("-" * width for width in widths))
        return "\n".join([self.title, "", *text, *(f"BROKEN {problem}" for problem in self.broken)])


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return str(len(value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)
