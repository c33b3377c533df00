"""Figures beside their aims."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One line. `aim` and `met` are empty if there is no aim."""

    what: str
    value: str
    aim: str = ""
    met: bool | None = None

    @property
    def result(self) -> str:
        return "" if self.met is None else "met" if self.met else "NOT MET"


@dataclass
class Report:
    """Figures under headings, printed as soon as they are measured."""

    missed: list[str] = field(default_factory=list)

    def section(self, title: str, figures: Sequence[Figure]) -> None:
        self.missed += [f"{title}: {figure.what} {figure.value}" for figure in figures if figure.met is False]
        lines = [(figure.what, figure.value, figure.aim, figure.result) for figure in figures]
        widths = [max(len(line[at]) for line in lines) for at in range(4)]
        print(f"\n{title}")
        for what, value, aim, result in lines:
            line = (
                f"  {what:<{max(44, widths[0])}}  {value:>{max(26, widths[1])}}  {aim:<{max(10, widths[2])}}  {result}"
            )
            print(line.rstrip(), flush=True)


def at_least(what: str, value: float, aim: float, unit: str = "x", digits: int = 2, more: str = "") -> Figure:
    return Figure(what, f"{value:,.{digits}f}{unit}{more}", f">= {aim:,g}{unit}", value >= aim)


def at_most(what: str, value: float, aim: float, unit: str = "x", digits: int = 2, more: str = "") -> Figure:
    return Figure(what, f"{value:,.{digits}f}{unit}{more}", f"<= {aim:,.3g}{unit}", value <= aim)
