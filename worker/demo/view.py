"""What the demo shows: a picture that moves on a terminal, plain lines elsewhere, and a report at the end."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worker.demo.report import Ending, Report

BAR = 60  # columns
SHOWN = 20  # rows that differ
UNDER_WAY = ("waiting", "running", "queued")


@dataclass(frozen=True)
class Glance:
    """The ledger and the sandbox at one moment, `seconds` after the withdrawals were enqueued."""

    seconds: float
    states: Counter[str]
    logins: int
    refreshes: int
    unauthorized: int
    calls: int

    @property
    def session(self) -> str:
        """The shared session and its use, in words."""
        made = f"{_count(self.logins, 'login')}, {_count(self.refreshes, 'refresh', 'es')}"
        return f"{made}, {self.unauthorized} times 401; {_count(self.calls, 'call')}"


class View:
    """Shows the demo on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._moving = console.is_terminal and not console.is_dumb_terminal
        self._live: Live | None = None
        self._last_line = -1

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, soft_wrap=True)

    def opening(self, count: int) -> None:
        """Say what will be seen."""
        self._console.print(Text("b2copy-sync demo", "bold"))
        self.say(f"B2COPY must charge the fees of {_count(count, 'withdrawal')} before the money leaves.\n")

    def started(self, name: str, about: str) -> None:
        """Say that one part is there."""
        self._console.print(Text.assemble(("✓ ", "green"), (f"{name:<8}", "bold"), about), soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Between its ends, `show` moves the picture."""
        self.say("")
        if not self._moving:
            yield
        else:
            with Live(console=self._console, refresh_per_second=8) as self._live:
                yield
        self.say("")

    def show(self, glance: Glance) -> None:
        """Draw the picture; without a terminal, a line about once a second."""
        if self._live is not None:
            self._live.update(_picture(glance))
        elif int(glance.seconds) > self._last_line:
            self._last_line = int(glance.seconds)
            states = glance.states
            under_way = sum(states[state] for state in UNDER_WAY)
            self.say(
                f"{glance.seconds:4.0f} s {states['succeeded']:5} succeeded {states['failed']:5} failed"
                f" {under_way:5} under way   ({glance.session})"
            )

    def report(self, report: Report) -> None:
        """Tell how it ended."""
        self._console.print(_endings(report), Text(), _figures(report), Text(), sep="\n")
        for one in report.differing[:SHOWN]:
            must, did = _told(one.row.must_end, one.row.words), _told(one.how, one.words)
            self._fault(f"{one.row.request_id} must end as {must}, but is {did}")
        if len(report.differing) > SHOWN:
            self._fault(f"and {len(report.differing) - SHOWN} more")
        for check in report.checks:
            if not check.holds:
                self._fault(f"{check.what}: {check.value}, must be {check.wanted}")
        if report.passed:
            self._console.print(
                Text.assemble(("✓ ", "green"), "Every withdrawal ended as its row says it must, failed ones included.")
            )

    def _fault(self, text: str) -> None:
        self._console.print(Text.assemble(("✗ ", "red"), text), soft_wrap=True)


def _picture(glance: Glance) -> Group:
    total = glance.states.total() or 1
    bar, legend = Text(), Text()
    done = filled = 0
    for state, word, colour in (
        ("succeeded", "succeeded", "green"),
        ("failed", "failed", "red"),
        ("waiting", "pending at B2COPY", "yellow"),
        ("running", "asking", "cyan"),
        ("queued", "queued", "bright_black"),
    ):
        if count := glance.states[state]:
            done += count
            upto = round(BAR * done / total)
            bar.append("█" * (upto - filled), colour)
            filled = upto
            legend.append("■ ", colour).append(f"{count} {word}  ")
    return Group(bar, legend, Text(f"{glance.seconds:.0f} s   {glance.session}", "dim"))


def _endings(report: Report) -> Table:
    groups: dict[tuple[str, str], list[Ending]] = {}
    for ending in report.endings:
        groups.setdefault(_group(ending), []).append(ending)
    table = _table("withdrawals", "ended", "because")
    for (ended, because), members in sorted(groups.items(), key=_successes_first):
        as_told = all(member.as_told for member in members)
        table.add_row(str(len(members)), Text(ended, "green" if as_told else "red"), because)
    return table


def _successes_first(group: tuple[tuple[str, str], list[Ending]]) -> tuple[bool, str, int]:
    (ended, _), members = group
    return ended != "succeeded", ended, -len(members)


def _group(ending: Ending) -> tuple[str, str]:
    """Rows that differ in nothing but the login are told together."""
    if ending.how == "succeeded":
        return "succeeded", "the fees are charged" if ending.polls else "no fees were due"
    if ending.how in {"fee_error", "rejected"}:
        return f"failed: {ending.how}", f"B2COPY: {ending.words.replace(ending.row.account_login, '…')}"
    return ending.how, "not final when the demo's time was up"


def _figures(report: Report) -> Table:
    table = _table("seen", "what", "must be")
    for check in report.checks:
        table.add_row(Text(str(check.value), "green" if check.holds else "red"), check.what, check.wanted)
    table.add_row(str(report.calls), f"calls about fees, {report.polls} of them polls of pending runs", "")
    table.add_row(f"{report.seconds:.1f}", "seconds from the enqueueing to the last end", "")
    return table


def _table(number: str, *texts: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(number, justify="right")
    for text in texts:
        table.add_column(text, overflow="fold")
    return table


def _count(count: int, one: str, plural: str = "s") -> str:
    return f"{count} {one}{'' if count == 1 else plural}"


def _told(how: str, words: str) -> str:
    return f'{how} "{words}"' if words else how
