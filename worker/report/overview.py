"""The whole system at a glance: lanes, ages, rates, session, pauses, what waits and what failed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from worker.ledger import Ledger, active_flags
from worker.ledger.overview import RECENT_S, Group, LaneOverview, Overview, overview
from worker.ledger.running_workers import RunningWorker
from worker.operation import AuditEntry, State
from worker.report.format_values import iso
from worker.report.health import find_notes, find_problems
from worker.report.operation_report import pause_document
from worker.report.sentences import pause_text
from worker.session import State as SessionState


@dataclass(frozen=True)
class SystemOverview:
    """`session` is None if it could not be read, for instance without usable keys; `session_problem` says why."""

    ledger: Overview
    pauses: list[AuditEntry]
    session: SessionState | None
    session_problem: str


def system_overview(ledger: Ledger, session: Callable[[], SessionState]) -> SystemOverview:
    """Read the ledger and the session. An error of `session` is reported, and the rest is shown."""
    found = overview(ledger)
    pauses = [flag for name, flag in active_flags(ledger).items() if name.startswith("pause:")]
    try:
        return SystemOverview(found, pauses, session(), "")
    except Exception as error:  # any error of the session: the ledger is still shown
        return SystemOverview(found, pauses, None, str(error).splitlines()[0])


def waiting_by_reason(found: Overview, lane: str | None = None) -> dict[str, int]:
    """Return how many operations wait for each reason, most first."""
    groups = [one for one in found.open if one.state == State.WAITING and lane in (None, one.lane)]
    return _by_reason(groups)


def failed_by_reason(found: Overview) -> dict[str, int]:
    """Return how many operations have failed for each reason, most first."""
    return _by_reason(found.failed)


def ended_per_minute(found: Overview, lane: str, state: State) -> float:
    """Return how many operations of a lane reached `state` a minute, over the last five minutes."""
    ended = sum(one.count for one in found.ended if one.lane == lane and one.state == state)
    return ended / (RECENT_S / 60)


def concerns(found: SystemOverview) -> list[str]:
    """Return what a person should look at now, the most urgent first; empty if nothing is wrong."""
    texts = find_problems(found.ledger)
    if found.session_problem:
        texts.append(f"the session cannot be read: {found.session_problem}")
    texts.extend(map(pause_text, found.pauses))
    return texts + find_notes(found.ledger)


def document(found: SystemOverview) -> dict[str, Any]:
    """Return the overview as a JSON document. Ages are in seconds, rates per minute over the last five minutes."""
    return {
        "at": iso(found.ledger.at),
        "concerns": concerns(found),
        "lanes": [_lane(found.ledger, lane) for lane in found.ledger.lanes],
        "waiting": waiting_by_reason(found.ledger),
        "failed": failed_by_reason(found.ledger),
        "paused": [pause_document(pause) for pause in found.pauses],
        "dispatch_age_s": found.ledger.dispatch_age_s,
        "requests_age_s": found.ledger.requests_age_s,
        "workers": [worker_document(worker) for worker in found.ledger.workers],
        "session": found.session and {
            "generation": found.session.generation or None, "expires_in_s": found.session.expires_in,
        },
        "session_problem": found.session_problem or None,
    }  # fmt: skip


def worker_document(worker: RunningWorker) -> dict[str, Any]:
    """Return a running worker as JSON."""
    return {
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "schema_revision": worker.schema_revision,
        "rate_limit": worker.rate_limit or None,
        "started_at": iso(worker.started_at),
        "seen_age_s": max(0, worker.seen_ms_ago) / 1000,
    }


def _lane(found: Overview, lane: LaneOverview) -> dict[str, Any]:
    rates = {state: ended_per_minute(found, lane.lane, state) for state in (State.SUCCEEDED, State.FAILED)}
    return {
        **asdict(lane),
        "waiting": waiting_by_reason(found, lane.lane),
        "succeeded_per_minute": rates[State.SUCCEEDED],
        "failed_per_minute": rates[State.FAILED],
    }


def _by_reason(groups: list[Group]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.reason] = counts.get(group.reason, 0) + group.count
    return dict(sorted(counts.items(), key=lambda one: -one[1]))
