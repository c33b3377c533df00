"""Print the overview of `worker.report.overview`."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from worker.cli import output

if TYPE_CHECKING:
    from worker.ledger.overview import LaneOverview
    from worker.report.overview import SystemOverview

REFRESH_S = 2.0


def show(found: "SystemOverview") -> None:
    """Print it once."""
    with output.writing():
        output.out().print(rendered(found))


def watch(look: "Callable[[], SystemOverview]") -> None:
    """Show it until Ctrl-C, renewed every two seconds. Where there is no terminal, print it again each time."""
    if not output.out().is_terminal:
        while True:
            show(look())
            time.sleep(REFRESH_S)
    with Live(rendered(look()), console=output.out(), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(REFRESH_S)
            live.update(rendered(look()), refresh=True)


def rendered(found: "SystemOverview") -> RenderableType:
    """Return the overview: what to look at first, then the lanes, then what waits and what failed."""
    from worker.operation import State
    from worker.report.format_values import clock, span
    from worker.report.overview import concerns, ended_per_minute, failed_by_reason, waiting_by_reason

    lanes = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("lane", "open", "oldest", "pending at B2COPY", "late", "succeeded/min", "failed/min"):
        lanes.add_column(heading, justify="left" if heading == "lane" else "right")
    for lane in found.ledger.lanes:
        lanes.add_row(
            output.safe(lane.lane, "bold"),
            f"{lane.open:,}{'+' if lane.capped else ''}",
            _age(lane.oldest_s),
            _age(lane.oldest_pending_s),
            output.safe(_age(lane.late_s), _urgency(lane)),
            f"{ended_per_minute(found.ledger, lane.lane, State.SUCCEEDED):.1f}",
            f"{ended_per_minute(found.ledger, lane.lane, State.FAILED):.1f}",
        )
    facts = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    facts.add_row("waiting", output.safe(_counts(waiting_by_reason(found.ledger))))
    facts.add_row("failed", output.safe(_counts(failed_by_reason(found.ledger))))
    facts.add_row("session", output.safe(_session(found)))
    dispatch_age_s = found.ledger.dispatch_age_s
    facts.add_row("dispatched", "never" if dispatch_age_s is None else f"{span(dispatch_age_s)} ago")
    facts.add_row("workers", output.safe(_versions(found)))
    parts: list[RenderableType] = [output.safe(f"b2copy-sync at {clock(found.ledger.at)} UTC", "dim"), ""]
    urgent = Table.grid()
    for text in concerns(found):
        urgent.add_row(output.safe("! ", "bold red"), output.safe(text, "bold red"))
    parts.append(urgent if urgent.row_count else output.safe("nothing to look at", "green"))
    return Group(*parts, "", lanes, "", facts)


def _age(seconds: float | None) -> str:
    from worker.report.format_values import span

    return "-" if seconds is None else span(seconds)


def _urgency(lane: "LaneOverview") -> str:
    from worker.report.thresholds import DUE_LATE_S

    return "bold red" if (lane.late_s or 0.0) > DUE_LATE_S else ""


def _session(found: "SystemOverview") -> str:
    from worker.report.format_values import span

    if found.session is None:
        return found.session_problem
    if not found.session.generation:
        return "none yet: the next call logs in"
    left_s = found.session.expires_in or 0.0
    expires = f"expires in {span(left_s)}" if left_s > 0 else "expired: the next call renews it"
    return f"generation {found.session.generation}, {expires}"


def _versions(found: "SystemOverview") -> str:
    from worker.ledger.running_workers import workers_by_version

    counts = workers_by_version(found.ledger.workers)
    return ", ".join(f"{count:,} of version {version}" for version, count in counts.items()) or "none seen"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items()) or "none"
