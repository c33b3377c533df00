"""The pages that show: Now, Work list, Operations, Operation, Audit, System."""

import hashlib
import json
import time
from typing import Any

from starlette.responses import Response

from worker.console.actions import permitted_actions
from worker.console.asked import Asked, NotFound, csv_file, json_file, see
from worker.console.charts import ended_chart, late_chart
from worker.console.parameters import FIELDS, ListQuery, address, known_reasons, list_query, number, text
from worker.ledger import active_flags, find, find_many
from worker.ledger.approvals import approvals_of, open_approvals
from worker.ledger.due import COUNT_LIMIT
from worker.ledger.oldest import oldest_open
from worker.ledger.operation_lists import OPEN, PAGE, Filter, Page, count_operations, list_operations
from worker.ledger.queries import audit_page, children_of
from worker.operation import MESSAGE_KIND, VERSION, FailureReason, Operation, State, WaitReason
from worker.queues import LANES
from worker.report import sentences
from worker.report.health import health_of
from worker.report.operation import evidence as stored_evidence
from worker.report.operation import report_on
from worker.report.rates import points
from worker.report.replay import moves_money
from worker.report.session import OUTCOMES, RENEWED
from worker.report.session import facts as session_facts
from worker.report.text import iso, span
from worker.report.timeline import timeline
from worker.session import State as SessionState
from worker.watch.redact import redacted_value

BUTTONS = sentences.Ways(
    session="The System page",
    replay="replay it",
    correct=sentences.COMMANDS.correct,  # the console has no page for it
    resolve_done="press “It was done”",
    replay_not_done="press “It was not done: replay”",
)
EXPORT_LIMIT = 1_000
LATE_MS = 5 * 60_000  # on our clock: a money operation that is open for longer stands on the work list
LATE_DUE_S = 60.0


def now(asked: Asked) -> Response:
    """Lanes, session, pauses, failures, charts: is it us or B2COPY, and since when?"""
    ledger = asked.ledger
    health = health_of(ledger, LATE_DUE_S)
    series = points(ledger, int(time.time() * 1000))
    ours, theirs = oldest_open(ledger, LANES[0])
    recent = series[-6:]
    return asked.page(
        "now.html",
        live=True,
        health=health,
        ours=ours,
        theirs=theirs,
        lanes=LANES,
        cap=COUNT_LIMIT,
        failed=sum(health.statistics.failed.values()),
        waiting=sum(health.statistics.waiting.values()),
        pauses={flag.subject.removeprefix("pause:"): flag for flag in health.pauses},
        ended_5_min=sum(point.ended for point in recent),
        failed_5_min=sum(point.failed for point in recent),
        charts=[ended_chart(series), late_chart(series)],
        has_series=any(point.ended or point.late_s for point in series),
        session=_session(asked),
        decisions=audit_page(ledger, limit=6)[0],
        approvals=len(open_approvals(ledger)),
    )


def work_list(asked: Asked) -> Response:
    """What a person must decide, oldest first, each with its next step."""
    ledger = asked.ledger
    unresolved = Filter((State.FAILED,), reason=FailureReason.UNRESOLVED, oldest_first=True)
    others = Filter((State.FAILED,), without_reason=FailureReason.UNRESOLVED, oldest_first=True)
    by_us = Filter(
        OPEN, lane=LANES[0], without_reason=WaitReason.PENDING_AT_B2COPY, older_ms=LATE_MS, oldest_first=True
    )
    sections = (
        ("Was it done? B2COPY must be looked at", unresolved, "reason=unresolved&state=failed"),
        ("Failed: correct, then replay", others, "state=failed"),
        ("Money that waits for longer than five minutes", by_us, f"state=open&lane={LANES[0]}&older=5m"),
    )
    flags = active_flags(ledger)
    return asked.page(
        "work_list.html",
        live=True,
        approvals=open_approvals(ledger),
        sections=[(title, list_operations(ledger, wanted), query) for title, wanted, query in sections],
        next_step=lambda operation: sentences.remedy(operation, BUTTONS) or _standing(asked, operation, flags),
        actions=lambda operation: permitted_actions(asked, operation),
    )


def operations(asked: Asked) -> Response:
    """The list of operations: filters in the address, pages by key, capped counts that say so."""
    wanted = (asked.query.get("find") or "").strip()
    query = list_query(asked.query, asked.console.kinds)
    if wanted:
        return _found(asked, wanted, query)
    page = list_operations(asked.ledger, query.filter, query.after)
    return _list(asked, query, page)


def operations_csv(asked: Asked) -> Response:
    """The first thousand operations that the filter matches."""
    query = list_query(asked.query, asked.console.kinds)
    page = list_operations(asked.ledger, query.filter, query.after, EXPORT_LIMIT)
    headings = ("key", "kind", "lane", "state", "reason", "account", "requested_at", "state_since", "ended_at")
    rows = (
        (
            one.key, one.kind, one.lane, one.state, one.failure_reason or one.wait_reason, account_of(one),
            iso(one.requested_at), iso(one.state_since), iso(one.ended_at),
        )
        for one in page.operations
    )  # fmt: skip
    return csv_file("operations.csv", headings, rows)


def operation(asked: Asked) -> Response:
    """One operation: how it stands, what happened, what was decided, what is related, what may be done."""
    found = one_operation(asked)
    report = report_on(asked.ledger, found, asked.console.kinds)
    related = find_many(asked.ledger, [found.parent] if found.parent else [])
    return asked.page(
        "operation.html",
        live=True,
        report=report,
        next_step=sentences.remedy(found, BUTTONS),
        one=found,
        account=account_of(found),
        money=moves_money(found, asked.console.kinds),
        events=timeline(report),
        parent=related.get(found.parent or ""),
        children=children_of(asked.ledger, found.key),
        proposals=approvals_of(asked.ledger, found.key),
        actions=permitted_actions(asked, found),
        our_ms=(found.ended_at or int(time.time() * 1000)) - found.requested_at - found.external_wait_ms,
    )


def evidence(asked: Asked) -> Response:
    """All evidence of an operation as JSON, with the SHA-256 of `evidence` in its canonical form.

    Canonical: names sorted, no spaces, all but ASCII escaped. Two exports of the same evidence have the same digest.
    """
    report = report_on(asked.ledger, one_operation(asked), asked.console.kinds)
    content = redacted_value(stored_evidence(report))
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    bundle = {
        "sha256_of_evidence": hashlib.sha256(canonical.encode()).hexdigest(),
        "exported_at": iso(int(time.time() * 1000)),
        "exported_by_version": VERSION,
        "standing": report.standing,
        "evidence": content,
    }
    return json_file("evidence.json", bundle)


def audit(asked: Asked) -> Response:
    """Who decided what, when and why."""
    entries, actor, subject, last = _audit_entries(asked, PAGE)
    more = address("/audit", actor=actor, subject=subject, before=last) if last else None
    export = address("/audit.csv", actor=actor, subject=subject)
    return asked.page("audit.html", entries=entries, actor=actor, subject=subject, more=more, export=export)


def audit_csv(asked: Asked) -> Response:
    """The newest thousand entries of the audit that the filter matches."""
    entries, _, _, _ = _audit_entries(asked, EXPORT_LIMIT)
    headings = ("at", "actor", "action", "subject", "note", "detail")
    rows = (
        (iso(one.at), one.actor, one.action, one.subject, one.note, one.detail and json.dumps(one.detail))
        for one in entries
    )
    return csv_file("audit.csv", headings, rows)


def system(asked: Asked) -> Response:
    """Session, pauses, settings by name, versions."""
    console = asked.console
    flags = active_flags(asked.ledger)
    chosen = console.settings
    settings = [
        ("console_access", chosen.console_access),
        ("console_read_only", str(chosen.console_read_only).lower()),
        ("four_eyes", chosen.four_eyes),
        ("retention", span(chosen.retention)),
        ("fees_deadline", span(chosen.fees_deadline)),
        ("calls_deadline", span(chosen.calls_deadline)),
        ("call_paths", ", ".join(chosen.call_paths)),
    ]
    url = asked.ledger.engine.url.render_as_string(hide_password=True)
    return asked.page(
        "system.html", session=_session(asked), flags=flags, lanes=LANES, settings=settings, database=url,
        can_renew=console.session is not None, renewed=_renewed(asked),
    )  # fmt: skip


def one_operation(asked: Asked) -> Operation:
    """Return the operation that the address names. Raises `NotFound`."""
    key = text(asked.query, "key") or ""
    found = find(asked.ledger, key)
    if found is None:
        raise NotFound(f"{key}: no such operation was ever recorded here, or it has been purged")
    return found


def account_of(operation: Operation) -> str:
    """Return the account that an operation is about, if its payload names one."""
    found = operation.payload.get("account_login") or operation.entity
    return "" if found is None else str(found)


def _found(asked: Asked, wanted: str, query: ListQuery) -> Response:
    """Find a key, an id without its kind, or an account."""
    wanted = text({"find": wanted}, "find") or ""
    keys = [wanted, *(f"{kind}:{wanted}" for kind in (*asked.console.kinds, MESSAGE_KIND))]
    found = list(find_many(asked.ledger, keys).values())
    by_account = list_operations(asked.ledger, Filter(account=wanted))
    waiting = list_operations(asked.ledger, Filter(OPEN, account=wanted))
    every = {one.key: one for one in (*found, *waiting.operations, *by_account.operations)}
    if len(every) == 1:
        return see(address("/operation", key=next(iter(every))))
    return _list(asked, query, Page(list(every.values()), None, True), wanted)


def _list(asked: Asked, query: ListQuery, page: Page, wanted: str = "") -> Response:
    count, is_all = (len(page.operations), True) if wanted else count_operations(asked.ledger, query.filter)
    flags = active_flags(asked.ledger)
    return asked.page(
        "operations.html",
        live=query.after is None and not wanted,
        query=query,
        page=page,
        wanted=wanted,
        count=count,
        capped=not is_all,
        more=query.address(after=page.next) if page.next is not None else None,
        export=query.address("/operations.csv"),
        bulk=query.address("/bulk/replay") if query.filter.states == (State.FAILED,) else None,
        standing=lambda operation: _standing(asked, operation, flags),
        account_of=account_of,
        states=[*State, "open"],
        lanes=LANES,
        kinds=[*asked.console.kinds, MESSAGE_KIND],
        reasons=known_reasons(asked.console.kinds),
        written={name: query.written.get(name, "") for name in FIELDS},
    )


def _standing(asked: Asked, operation: Operation, flags: dict[str, Any]) -> str:
    pause = flags.get("pause:all") or flags.get(f"pause:{operation.lane}")
    return sentences.standing(operation, asked.console.kinds, pause)


def _audit_entries(asked: Asked, limit: int) -> tuple[list[Any], str | None, str | None, int | None]:
    actor, subject = text(asked.query, "actor"), text(asked.query, "subject")
    before = number(asked.query, "before")
    found, last = audit_page(asked.ledger, actor=actor, subject=subject, before=before, limit=limit)
    return found, actor, subject, last


def _renewed(asked: Asked) -> str:
    """Return how the session was just renewed. Any other text in the address is not shown."""
    outcome = asked.query.get("renewed", "")
    return OUTCOMES[outcome] if outcome in RENEWED else ""


def _session(asked: Asked) -> list[tuple[str, str]]:
    state = asked.console.session_state()
    if isinstance(state, SessionState):
        return [(name, value) for name, value in session_facts(state) if value]
    return [("session", state)]
