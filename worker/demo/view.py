"""What the demo prints: a live bar on a terminal, plain lines elsewhere, and the report at the end."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worker.demo.endings import Ending, Report

BAR_COLUMNS = 60
ROWS_SHOWN = 20  # unexpected endings that are listed
NOT_FINAL = ("waiting", "running", "queued")


@dataclass(frozen=True)
class Progress:
    """The ledger and the sandbox `seconds` after the withdrawals were enqueued."""

    seconds: float
    states: Counter[str]
    logins: int
    refreshes: int
    unauthorized: int
    calls: int

    @property
    def session(self) -> str:
        """The shared session and its use."""
        tokens = f"{_count(self.logins, 'login')}, {_count(self.refreshes, 'refresh', 'es')}"
        return f"{tokens}, {self.unauthorized} refused with 401, {_count(self.calls, 'call')}"


class View:
    """Prints the demo's progress and report to a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._live: Live | None = None
        self._last_line = -1

    def print(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, soft_wrap=True)

    def opening(self, count: int) -> None:
        """Print what the demo does."""
        self._console.print(Text("b2copy-sync demo", "bold"))
        self.print(f"B2COPY must charge the fees of {_count(count, 'withdrawal')} before the money leaves.\n")

    def started(self, name: str, description: str) -> None:
        """Print that one part is running."""
        self._console.print(Text.assemble(("✓ ", "green"), (f"{name:<8}", "bold"), description), soft_wrap=True)

    @contextmanager
    def progress(self, transient: bool = False) -> Iterator[None]:
        """Inside this context `show` and `update` change the live display. `transient`: it is removed at the end."""
        self.print("")
        if not self._is_live:
            yield
        else:
            with Live(console=self._console, refresh_per_second=8, transient=transient) as self._live:
                yield
        self.print("")

    def update(self, shown: RenderableType) -> bool:
        """Show this in place of what the live display has; False where there is no terminal."""
        if self._live is None:
            return False
        self._live.update(shown)
        return True

    def print_table(self, table: Table) -> None:
        """Print a table."""
        self._console.print(table)

    def success(self, text: str) -> None:
        """Print that something is as it must be."""
        self._console.print(Text.assemble(("✓ ", "green"), text), soft_wrap=True)

    def show(self, progress: Progress) -> None:
        """Update the live bar; without a terminal, print a line about once a second."""
        if self._live is not None:
            self._live.update(_bar(progress))
        elif int(progress.seconds) > self._last_line:
            self._last_line = int(progress.seconds)
            states = progress.states
            not_final = sum(states[state] for state in NOT_FINAL)
            self.print(
                f"{progress.seconds:4.0f} s {states['succeeded']:5} succeeded {states['failed']:5} failed"
                f" {not_final:5} not final   ({progress.session})"
            )

    def report(self, report: Report) -> None:
        """Print how the demo ended."""
        self._console.print(_endings(report), Text(), _figures(report), Text(), sep="\n")
        for ending in report.unexpected[:ROWS_SHOWN]:
            expected, actual = _end(ending.row.must_end, ending.row.message), _end(ending.end, ending.message)
            self.failure(f"{ending.row.request_id} must end as {expected}, but is {actual}")
        if len(report.unexpected) > ROWS_SHOWN:
            self.failure(f"and {len(report.unexpected) - ROWS_SHOWN} more")
        for check in report.checks:
            if not check.holds:
                self.failure(f"{check.name}: {check.value}, must be {check.required}")
        if report.passed:
            self.success("Every withdrawal ended as its row expects, those that must fail included.")

    def failure(self, text: str) -> None:
        """Print that something is not as it must be."""
        self._console.print(Text.assemble(("✗ ", "red"), text), soft_wrap=True)


def _bar(progress: Progress) -> Group:
    total = progress.states.total() or 1
    bar, legend = Text(), Text()
    total_so_far = filled = 0
    for state, label, colour in (
        ("succeeded", "succeeded", "green"),
        ("failed", "failed", "red"),
        ("waiting", "pending at B2COPY", "yellow"),
        ("running", "running", "cyan"),
        ("queued", "queued", "bright_black"),
    ):
        if count := progress.states[state]:
            total_so_far += count
            end_column = round(BAR_COLUMNS * total_so_far / total)
            bar.append("█" * (end_column - filled), colour)
            filled = end_column
            legend.append("■ ", colour).append(f"{count} {label}  ")
    return Group(bar, legend, Text(f"{progress.seconds:.0f} s   {progress.session}", "dim"))


def _endings(report: Report) -> Table:
    groups: dict[tuple[str, str], list[Ending]] = {}
    for ending in report.endings:
        groups.setdefault(_group(ending), []).append(ending)
    table = _table("withdrawals", "ended", "reason")
    for (ended, reason), members in sorted(groups.items(), key=_successes_first):
        as_expected = all(member.is_expected for member in members)
        table.add_row(str(len(members)), Text(ended, "green" if as_expected else "red"), reason)
    return table


def _successes_first(group: tuple[tuple[str, str], list[Ending]]) -> tuple[bool, str, int]:
    (ended, _), members = group
    return ended != "succeeded", ended, -len(members)


def _group(ending: Ending) -> tuple[str, str]:
    """Return end and reason; rows that differ only in the login form one group."""
    if ending.end == "succeeded":
        return "succeeded", "the fees are charged, or none were due"  # B2COPY does not say which
    if ending.end in {"fee_error", "rejected"}:
        return f"failed: {ending.end}", f"B2COPY: {ending.message.replace(ending.row.account_login, '…')}"
    return ending.end, "not final at the demo's time limit"


def _figures(report: Report) -> Table:
    table = _table("value", "figure", "must be")
    for check in report.checks:
        table.add_row(Text(str(check.value), "green" if check.holds else "red"), check.name, check.required)
    table.add_row(str(report.calls), f"calls about fees, {report.polls} of them polls of pending fee runs", "")
    table.add_row(f"{report.seconds:.1f}", "seconds from the first request to the last end", "")
    return table


def _table(number: str, *texts: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(number, justify="right")
    for text in texts:
        table.add_column(text, overflow="fold")
    return table


def _count(count: int, one: str, plural: str = "s") -> str:
    return f"{count} {one}{'' if count == 1 else plural}"


def _end(end: str, message: str) -> str:
    return f'{end} "{message}"' if message else end
