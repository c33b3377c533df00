"""What was measured, beside what it ought to be."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One line: what, ours, and, where there is an aim, the aim and whether it is met."""

    what: str
    ours: str
    aim: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        return "" if self.met is None else "met" if self.met else "NOT MET"


@dataclass
class Report:
    """Figures under headings, printed as they come."""

    missed: list[str] = field(default_factory=list)

    def section(self, title: str, figures: Sequence[Figure]) -> None:
        self.missed += [f"{title}: {figure.what} {figure.ours}" for figure in figures if figure.met is False]
        lines = [(figure.what, figure.ours, figure.aim, figure.verdict) for figure in figures]
        wide = [max(len(line[at]) for line in lines) for at in range(4)]
        print(f"\n{title}")
        for what, ours, aim, verdict in lines:
            line = f"  {what:<{max(44, wide[0])}}  {ours:>{max(26, wide[1])}}  {aim:<{max(10, wide[2])}}  {verdict}"
            print(line.rstrip(), flush=True)


def at_least(what: str, value: float, aim: float, unit: str = "x", digits: int = 2, more: str = "") -> Figure:
    return Figure(what, f"{value:,.{digits}f}{unit}{more}", f">= {aim:,g}{unit}", value >= aim)


def at_most(what: str, value: float, aim: float, unit: str = "x", digits: int = 2, more: str = "") -> Figure:
    return Figure(what, f"{value:,.{digits}f}{unit}{more}", f"<= {aim:,.3g}{unit}", value <= aim)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
