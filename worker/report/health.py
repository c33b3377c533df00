"""Whether the ledger as a whole is healthy, that is, whether due operations are being sent."""

from dataclasses import dataclass
from typing import Any

from worker.ledger import Ledger, active_flags
from worker.ledger.due import COUNT_LIMIT
from worker.ledger.overview import Overview, overview
from worker.ledger.running_workers import RunningWorker, workers_by_rate_limit
from worker.ledger.statistics import Statistics, statistics_of
from worker.operation import AuditEntry, FailureReason, WaitReason
from worker.queues import CRM, NOTIFY, destination_of
from worker.report.format_values import count, our_address, span
from worker.report.operation_report import pause_document
from worker.report.thresholds import DISPATCH_LATE_S, DUE_LATE_S, HELD_LONG_S, MONEY_LATE_S, NOTICES_LATE_S


@dataclass(frozen=True)
class Health:
    """`problems` are sentences; without a problem the ledger is healthy. `notes`: what else a person should look at.

    `oldest_s`: the age of the oldest open operation of each lane, without the time that it was pending at B2COPY or
    paused; what is pending there now is left out. `requests_age_s`: the age of the oldest row of `b2copy_requests` that
    no worker has taken; None if there is none.
    """

    statistics: Statistics
    pauses: list[AuditEntry]
    problems: list[str]
    notes: list[str]
    oldest_s: dict[str, float]
    requests_age_s: float | None


def health_of(
    ledger: Ledger, late_s: float, max_failed: int | None = None, money_late_s: float = MONEY_LATE_S
) -> Health:
    """Examine the ledger.

    Unhealthy: for more than `late_s`, something is due and no worker works on its lane, or a row of `b2copy_requests`
    waits; no worker has looked at the ledger for `DISPATCH_LATE_S`; an operation of the lane money is older than
    `money_late_s`; or more than `max_failed` failed.
    """
    seen = overview(ledger)
    found, lanes = statistics_of(seen), seen.lanes
    pauses = [flag for name, flag in active_flags(ledger).items() if name.startswith("pause:")]
    problems = find_problems(seen, late_s, money_late_s)
    failed = sum(found.failed.values())
    if max_failed is not None and failed > max_failed:
        problems.append(f"{count(failed)} failed, more than {max_failed}: b2copy-sync failed list")
    notes = find_notes(seen)
    capped = [lane.lane for lane in lanes if lane.capped]
    notes += [f"lane {lane} holds more: counting stopped at {COUNT_LIMIT} operations" for lane in capped]
    oldest_s = {lane.lane: lane.oldest_s for lane in lanes if lane.oldest_s is not None}
    return Health(found, pauses, problems, notes, oldest_s, seen.requests_age_s)


def find_problems(seen: Overview, late_s: float = DUE_LATE_S, money_late_s: float = MONEY_LATE_S) -> list[str]:
    """Return what is not being done in time. `status`, `health` and the console's page Now show it."""
    return late_lanes(seen, late_s) + late_requests(seen, late_s) + late_dispatch(seen) + late_money(seen, money_late_s)


def find_notes(seen: Overview) -> list[str]:
    """Return what else a person should look at, also while nothing is late. Shown with `find_problems`."""
    notes = access_notes(statistics_of(seen)) + hold_notes(seen) + outage_notes(seen) + rate_limit_notes(seen.workers)
    notes += late_notice_notes(seen)
    if unresolved := sum(group.count for group in seen.failed if group.reason == FailureReason.UNRESOLVED):
        command = "`b2copy-sync failed list --reason unresolved`; `b2copy-sync failed show KEY` names the command"
        notes.append(f"{count(unresolved)} unresolved: {command}")
    if (failed := sum(group.count for group in seen.failed)) > unresolved:
        notes.append(f"{count(failed)} failed: `b2copy-sync failed list` shows why")
    if seen.left_request is not None:
        row, reason = seen.left_request
        notes.append(
            f"b2copy_requests: row {row} waits, because another worker may take it: {reason}; refused after 5 min"
        )
    if seen.dispatch_age_s is None:
        notes.append("no worker and no beat has ever looked at this ledger: `b2copy-sync worker` starts one")
    return notes


def outage_notes(seen: Overview) -> list[str]:
    """Return a sentence for each destination that is unavailable, as far as operations wait for it."""
    waiting: dict[str, int] = {}
    for group in seen.open:
        if group.reason == WaitReason.CIRCUIT_OPEN:
            destination = destination_of(group.lane)
            waiting[destination] = waiting.get(destination, 0) + group.count
    names = {CRM: "a way of notices to the CRM"}
    return [
        f"{names.get(destination, f'destination {destination}')} is unavailable, {count(number)} waiting: nothing is"
        " lost, and they continue by themselves"
        for destination, number in sorted(waiting.items())
    ]


def rate_limit_notes(workers: list[RunningWorker]) -> list[str]:
    """Return a sentence if running workers have different rate limits, because the fleet shares only an equal one."""
    limits = workers_by_rate_limit(workers)
    if len(limits) < 2:
        return []
    listed = ", ".join(f"{limit} ({number})" for limit, number in limits.items())
    return [
        f"workers have different B2COPY_RATE_LIMIT: {listed}. The limits add up: set the same for all, and restart them"
    ]


def late_money(seen: Overview, late_s: float) -> list[str]:
    """Return a sentence if an operation of the lane money is older than `late_s` by our clock."""
    money = seen.lanes[0]
    if money.oldest_s is None or money.oldest_s <= late_s:
        return []
    text = (
        f"lane {money.lane}: the oldest operation is {money.oldest_s:.0f} s old by our clock, more than {late_s:.0f} s:"
        f" `b2copy-sync list --lane {money.lane} --age {late_s:.0f}s` shows what it waits for"
    )
    return [text]


def late_requests(seen: Overview, late_s: float) -> list[str]:
    """Return a sentence if a row of `b2copy_requests` waits for more than `late_s`."""
    if seen.requests_age_s is None or seen.requests_age_s <= late_s:
        return []
    text = (
        f"b2copy_requests: no worker has taken a row for {span(seen.requests_age_s)}: is a worker running?"
        " (b2copy-sync doctor) If one is, its log says why the row waits"
    )
    return [text]


def late_dispatch(seen: Overview) -> list[str]:
    """Return a sentence if workers have run, and none has looked at the ledger for more than `DISPATCH_LATE_S`.

    What a CRM asks for by a Celery message is in no ledger until a worker takes the message. So nothing need be due.
    """
    if seen.dispatch_age_s is None or seen.dispatch_age_s <= DISPATCH_LATE_S:
        return []
    return [
        f"no worker has looked at the ledger for {span(seen.dispatch_age_s)}: is a worker running? (b2copy-sync doctor)"
    ]


def late_lanes(seen: Overview, late_s: float) -> list[str]:
    """Return a sentence for each lane with something due on which no worker has worked for more than `late_s`."""
    return [
        f"lane {lane.lane}: something is due, and no worker has worked on the lane for {span(lane.late_s)}: is a worker"
        " running? (b2copy-sync doctor)"
        for lane in seen.lanes
        if lane.late_s is not None and lane.late_s > late_s
    ]


def access_notes(found: Statistics) -> list[str]:
    """Return what hinders many operations together and needs a person: no access, no session, no shared secret."""
    notes = []
    if refused := found.waiting.get(WaitReason.NO_ACCESS):
        notes.append(f"B2COPY refuses our access to {count(refused)}; our requests come from {our_address()}")
    if without := found.waiting.get(WaitReason.NO_SESSION):
        notes.append(f"{count(without)} without an access token: b2copy-sync session show")
    if without := found.waiting.get(WaitReason.NO_OTHER_LOGIN):
        notes.append(f"{count(without)} without a token of another login: b2copy-sync doctor")
    if without := found.waiting.get(WaitReason.NO_SEAMLESS_URL):
        notes.append(
            f"{count(without)} without a usable secret of seamless logins: is B2COPY_SEAMLESS_SECRET_FILE set on the"
            " workers? Compare it with the Back Office"
        )
    return notes


def hold_notes(seen: Overview) -> list[str]:
    """Return a sentence if B2COPY has asked us to send nothing for more than `HELD_LONG_S`: no lane is late then."""
    if seen.held_s <= HELD_LONG_S:
        return []
    return [f"B2COPY answered 429 and has asked us to wait for another {span(seen.held_s)}: nothing is sent to it"]


def late_notice_notes(seen: Overview) -> list[str]:
    """Return a sentence if a notice has waited for more than `NOTICES_LATE_S`: the CRM does not know of an end."""
    [notices] = [lane for lane in seen.lanes if lane.lane == NOTIFY]
    if notices.oldest_s is None or notices.oldest_s <= NOTICES_LATE_S:
        return []
    command = f"`b2copy-sync list --lane {NOTIFY} --age {NOTICES_LATE_S:.0f}s`"
    return [f"lane {NOTIFY}: a notice has waited for {span(notices.oldest_s)}: {command} lists it"]


def document(health: Health) -> dict[str, Any]:
    """Return the health as a JSON document."""
    return {
        "healthy": not health.problems,
        "problems": health.problems,
        "notes": health.notes,
        "due": health.statistics.due,
        "late_s": health.statistics.late_s,
        "oldest_s": health.oldest_s,
        "requests_age_s": health.requests_age_s,
        "waiting": health.statistics.waiting,
        "failed": health.statistics.failed,
        "paused": [pause_document(pause) for pause in health.pauses],
    }
