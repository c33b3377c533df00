"""What the story of a book prints: one table that fills itself on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.table import Table
from rich.text import Text

from worker.demo.book import BookReport, Line
from worker.demo.view import View

_HEADINGS = ("client", "MT login", "client id", "account", "sort", "withdrawal", "fees", "pay out?")  # 80 columns


class BookView:
    """Prints the story's progress and report, on the console of the demo's view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._said = ""

    def opening(self) -> None:
        """Print what the story is about."""
        self.view.print("b2copy-sync demo --story book")
        self.view.print(
            "Ten clients of a broker: registered at B2COPY, their accounts opened, their withdrawals' fees charged.\n"
        )

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Inside this context `show` updates the table."""
        with self.view.progress(transient=True):
            yield

    def show(self, seconds: float, lines: Sequence[Line]) -> None:
        """Update the table; without a terminal, print a line when a number has changed."""
        if self.view.update(_table(lines)):
            return
        registered = sum(bool(line.client_id) for line in lines)
        opened = sum(bool(line.account) for line in lines)
        ended = sum(bool(line.withdrawal and line.payout) for line in lines)
        text = f"{registered:3} registered {opened:3} accounts opened {ended:3} withdrawals decided"
        if text != self._said:
            self._said = text
            self.view.print(f"{seconds:4.0f} s {text}")

    def report(self, report: BookReport) -> None:
        """Print the table as it is at the end, and what it says."""
        self.view.print_table(_table(report.lines))
        self.view.print("")
        for line in report.lines:
            if line.message:
                self.view.print(f"{line.client}, B2COPY says: {line.message} (`b2copy-sync failed list` has it)")
            if not line.is_as_expected:
                self.view.failure(f"{line.client} did not end as the story says")
        at_b2copy = f"{report.registered} clients and {report.opened} accounts, {report.twice} made twice"
        logins = f"{report.logins} login{'' if report.logins == 1 else 's'}"
        self.view.print(f"B2COPY has {at_b2copy}. It took {logins} and {report.seconds:.1f} s.")
        if report.passed:
            self.view.success(
                "Every client ended as the story says. Money is paid out only after B2COPY has charged the fees."
            )


def _table(lines: Sequence[Line]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, overflow="fold")
    for line in lines:
        payout = Text(line.payout, {"yes": "green", "no": "red"}.get(line.payout, ""))
        table.add_row(
            line.client, line.login, line.client_id, line.account, line.sort, line.withdrawal, line.fees, payout
        )
    return table
