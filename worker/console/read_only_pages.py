"""The pages that change nothing: Now, Work list, Operations, Operation, Audit, System."""

import hashlib
import json
import re
import time
from typing import Any

from starlette.responses import Response

from worker.console.charts import ended_chart, late_chart
from worker.console.operation_actions import permitted_actions
from worker.console.page_request import NotFound, PageRequest, csv_file, json_file, see
from worker.console.template_values import account_of
from worker.console.url_parameters import FIELDS, OPEN_WORD, ListQuery, address, known_reasons, list_query, number, text
from worker.ledger import active_flags, find, find_many
from worker.ledger.approvals import OPEN_LIMIT, approvals_of, open_approvals
from worker.ledger.batches import cancelled_unsent_among
from worker.ledger.due import COUNT_LIMIT
from worker.ledger.operation_lists import OPEN, PAGE, Count, Filter, Page, count_operations, list_operations
from worker.ledger.overview import oldest_open, overview
from worker.ledger.queries import audit_page, children_of
from worker.ledger.running_workers import running_workers
from worker.ledger.statistics import statistics_of
from worker.operation import MESSAGE_KIND, VERSION, AuditEntry, FailureReason, Operation, State
from worker.queues import LANES
from worker.report import sentences
from worker.report.chart_series import points
from worker.report.format_values import iso, span
from worker.report.four_eyes import RULE_MEANINGS
from worker.report.health import find_notes, find_problems
from worker.report.operation_report import evidence as stored_evidence
from worker.report.operation_report import last_messages, report_on
from worker.report.replayable import moves_money
from worker.report.session_report import OUTCOMES, RENEWED
from worker.report.session_report import facts as session_facts
from worker.report.thresholds import MONEY_LATE_S
from worker.report.timeline import timeline
from worker.session import State as SessionState
from worker.watch.redact import redacted, redacted_value

BUTTONS = sentences.Remedies(
    session="The System page",
    replay="replay it",
    correct=sentences.COMMANDS.correct,  # the console has no page for it
    resolve_done="press “It was done”",
    resolve_not_done="press “It was not done”",
    replay_not_done="press “It was not done: replay”",
    close_message="press “Close”",
)
EXPORT_LIMIT = 1_000  # rows of an exported file
EXPORT_WINDOWS = 20  # windows that an export looks through for them
ATTEMPTS_LIMIT = 200  # newest attempts on the page of an operation; the evidence bundle has all


def now(page_request: PageRequest) -> Response:
    """Lanes, session, pauses, failures and charts: what is wrong, whether at B2COPY or with us, and since when."""
    ledger = page_request.ledger
    seen, flags = overview(ledger), active_flags(ledger)
    found = statistics_of(seen)
    series = points(ledger, int(time.time() * 1000))
    ours, theirs = oldest_open(ledger, LANES[0])
    recent = series[-6:]
    return page_request.page(
        "now.html",
        live=True,
        found=found,
        problems=find_problems(seen),
        notes=find_notes(seen),
        ours=ours,
        money_late_ms=MONEY_LATE_S * 1000,
        theirs=theirs,
        lanes=LANES,
        cap=COUNT_LIMIT,
        failed=sum(found.failed.values()),
        waiting=sum(found.waiting.values()),
        pauses=_pauses(flags),
        paused={flag.subject.removeprefix("pause:") for flag in _pauses(flags)},
        ended_5_min=sum(point.ended for point in recent),
        failed_5_min=sum(point.failed for point in recent),
        charts=[ended_chart(series), late_chart(series)],
        has_series=any(point.ended or point.late_s for point in series),
        session=_session(page_request),
        decisions=audit_page(ledger, limit=6)[0],
        approvals=len(open_approvals(ledger)),
        open_limit=OPEN_LIMIT,
    )


def work_list(page_request: PageRequest) -> Response:
    """What a person must decide, oldest first, each with its next step."""
    ledger = page_request.ledger
    unresolved = Filter((State.FAILED,), reason=FailureReason.UNRESOLVED, oldest_first=True)
    unusable = Filter((State.FAILED,), reason=FailureReason.BAD_PAYLOAD, oldest_first=True)
    others = Filter(
        (State.FAILED,), without_reasons=(FailureReason.UNRESOLVED, FailureReason.BAD_PAYLOAD), oldest_first=True
    )
    late = Filter(OPEN, lane=LANES[0], age_ms=round(MONEY_LATE_S * 1000), oldest_first=True)
    sections = (
        ("Outcome not known: follow the next step of each", unresolved, "reason=unresolved&state=failed"),
        ("Failed: remove the cause, then replay", others, "state=failed"),
        (
            "Could not be used: request again, or correct the payload",
            unusable,
            f"reason={FailureReason.BAD_PAYLOAD}&state=failed",
        ),
        (
            f"Money that has waited on our side for longer than {span(MONEY_LATE_S)}",
            late,
            f"state=open&lane={LANES[0]}&age={MONEY_LATE_S:.0f}s",
        ),
    )
    flags = active_flags(ledger)
    listed = [(title, list_operations(ledger, wanted), query) for title, wanted, query in sections]
    shown = [one for _, page, _ in listed for one in page.operations]
    cancelled, kinds = cancelled_unsent_among(ledger, shown), page_request.console.kinds
    return page_request.page(
        "work_list.html",
        live=True,
        approvals=len(open_approvals(ledger)),
        open_limit=OPEN_LIMIT,
        sections=listed,
        messages=last_messages(ledger, shown),
        next_step=lambda operation: (
            sentences.remedy(operation, kinds, BUTTONS, was_cancelled_unsent=operation.key in cancelled)
            or _standing(page_request, operation, flags)
        ),
        actions=lambda operation: permitted_actions(page_request, operation),
    )


def operations(page_request: PageRequest) -> Response:
    """The list of operations: filters in the address, pages by key, capped counts that say so."""
    wanted = (page_request.query.get("find") or "").strip()
    query = list_query(page_request.query, page_request.console.kinds)
    if wanted:
        return _found(page_request, wanted, query)
    page = list_operations(page_request.ledger, query.filter, query.after)
    return _list(page_request, query, page)


def operations_csv(page_request: PageRequest) -> Response:
    """The first thousand operations that the filter matches. If there may be more, the file's name says so."""
    query = list_query(page_request.query, page_request.console.kinds)
    found: list[Operation] = []
    after, is_all = query.after, False
    for _ in range(EXPORT_WINDOWS):
        page = list_operations(page_request.ledger, query.filter, after, EXPORT_LIMIT - len(found))
        found += page.operations
        after, is_all = page.next, page.next is None and page.all_seen
        if after is None or len(found) >= EXPORT_LIMIT:
            break
    headings = ("key", "kind", "lane", "state", "reason", "account", "requested_at", "state_since", "ended_at")
    rows = (
        (
            one.key, one.kind, one.lane, one.state, one.failure_reason or one.wait_reason, account_of(one),
            iso(one.requested_at), iso(one.state_since), iso(one.ended_at),
        )
        for one in found
    )  # fmt: skip
    return csv_file(_file_name("operations", is_all), headings, rows)


def operation(page_request: PageRequest) -> Response:
    """One operation: how it stands, what happened, what was decided, what is related, what may be done."""
    found = one_operation(page_request)
    report = report_on(page_request.ledger, found, page_request.console.kinds, ATTEMPTS_LIMIT)
    related = find_many(page_request.ledger, [found.parent] if found.parent else [])
    return page_request.page(
        "operation.html",
        live=True,
        report=report,
        standing=_without_state(report.standing, found),
        next_step=report.remedy_by(BUTTONS),
        one=found,
        money=moves_money(found.kind, found.lane, page_request.console.kinds),
        events=timeline(report),
        older=len(report.attempts) == ATTEMPTS_LIMIT,
        parent=related.get(found.parent or ""),
        children=children_of(page_request.ledger, found.key),
        proposals=approvals_of(page_request.ledger, found.key),
        actions=permitted_actions(page_request, found),
        our_ms=(found.ended_at or int(time.time() * 1000)) - found.requested_at - found.external_wait_ms,
    )


def evidence(page_request: PageRequest) -> Response:
    """All evidence of an operation as JSON, with the SHA-256 of `evidence` in its canonical form.

    Canonical: names sorted, no spaces, all but ASCII escaped. Two exports of the same evidence have the same digest.
    """
    report = report_on(page_request.ledger, one_operation(page_request), page_request.console.kinds)
    content = redacted_value(stored_evidence(report))
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    bundle = {
        "sha256_of_evidence": hashlib.sha256(canonical.encode()).hexdigest(),
        "exported_at": iso(int(time.time() * 1000)),
        "exported_by_version": VERSION,
        "standing": redacted(report.standing),
        "evidence": content,
    }
    return json_file("evidence.json", bundle)


def audit(page_request: PageRequest) -> Response:
    """Who decided what, when and why."""
    actor, subject, before = _audit_filter(page_request)
    entries, last = audit_page(page_request.ledger, actor=actor, subject=subject, before=before, limit=PAGE)
    more = address("/audit", actor=actor, subject=subject, before=last) if last else None
    export = address("/audit.csv", actor=actor, subject=subject)
    return page_request.page("audit.html", entries=entries, actor=actor, subject=subject, more=more, export=export)


def audit_csv(page_request: PageRequest) -> Response:
    """The newest thousand entries that the filter matches. If there may be more, the file's name says so."""
    actor, subject, before = _audit_filter(page_request)
    entries: list[AuditEntry] = []
    for _ in range(EXPORT_WINDOWS):
        limit = EXPORT_LIMIT - len(entries)
        found, before = audit_page(page_request.ledger, actor=actor, subject=subject, before=before, limit=limit)
        entries += found
        if before is None or len(entries) >= EXPORT_LIMIT:
            break
    headings = ("at", "actor", "action", "subject", "note", "detail")
    rows = (
        (iso(one.at), one.actor, one.action, one.subject, one.note, one.detail and json.dumps(one.detail))
        for one in entries
    )
    return csv_file(_file_name("audit", before is None), headings, rows)


def _file_name(name: str, is_all: bool) -> str:
    return f"{name}.csv" if is_all else f"{name}-incomplete.csv"


def system(page_request: PageRequest) -> Response:
    """Session, pauses, four eyes, settings by name, versions."""
    console = page_request.console
    flags = active_flags(page_request.ledger)
    chosen = console.settings
    settings = [
        ("console_access", chosen.console_access),
        ("console_read_only", str(chosen.console_read_only).lower()),
        ("retention", span(chosen.retention)),
        ("fees_deadline", span(chosen.fees_deadline)),
        ("calls_deadline", span(chosen.calls_deadline)),
        ("call_paths", ", ".join(chosen.call_paths)),
    ]
    url = page_request.ledger.engine.url.render_as_string(hide_password=True)
    with page_request.ledger.reading() as connection:
        workers = running_workers(connection)
    return page_request.page(
        "system.html", workers=workers, session=_session(page_request), flags=flags, lanes=LANES, settings=settings,
        database=url, four_eyes=f"{console.four_eyes}: {RULE_MEANINGS[console.four_eyes]}",
        can_renew=not isinstance(console.session, str), renewed=_renewed(page_request),
    )  # fmt: skip


def one_operation(page_request: PageRequest) -> Operation:
    """Return the operation that the address names. Raises `NotFound`."""
    key = text(page_request.query, "key") or ""
    found = find(page_request.ledger, key)
    if found is None:
        raise NotFound(f"{key}: no such operation was ever recorded here, or it has been purged")
    return found


def _found(page_request: PageRequest, wanted: str, query: ListQuery) -> Response:
    """Find a key or an id without its kind. If none matches, or others match too, the list shows the account.

    That list has pages, counts and an export of its own. If only open operations of the account are found, it begins
    with those: they may be older than what the list looks through first.
    """
    wanted = text({"find": wanted}, "find") or ""
    keys = [wanted, *(f"{kind}:{wanted}" for kind in (*page_request.console.kinds, MESSAGE_KIND))]
    found = find_many(page_request.ledger, keys)
    newest = list_operations(page_request.ledger, Filter(account=wanted)).operations
    opened = [] if newest else list_operations(page_request.ledger, Filter(OPEN, account=wanted)).operations
    if not found:
        return see(address("/operations", account=wanted, state=OPEN_WORD if opened else None))
    if len(found) == 1 and found.keys() >= {one.key for one in (*newest, *opened)}:
        return see(address("/operation", key=next(iter(found))))
    return _list(page_request, query, Page(list(found.values()), None, True, Count(len(found), True)), wanted)


def _list(page_request: PageRequest, query: ListQuery, page: Page, wanted: str = "") -> Response:
    count, is_all = page.count or count_operations(page_request.ledger, query.filter)
    flags = active_flags(page_request.ledger)
    return page_request.page(
        "operations.html",
        live=query.after is None and not wanted,
        query=query,
        page=page,
        wanted=wanted,
        count=count,
        capped=not is_all,
        more=query.address(after=page.next) if page.next is not None else None,
        export=None if wanted else query.address("/operations.csv"),
        bulk=query.address("/bulk/replay") if query.filter.states == (State.FAILED,) else None,
        standing=lambda operation: _short(_standing(page_request, operation, flags), operation, flags),
        pauses=_pauses(flags) if any(one.due_at for one in page.operations) else [],
        states=[*State, "open"],
        lanes=LANES,
        kinds=[*page_request.console.kinds, MESSAGE_KIND],
        reasons=known_reasons(page_request.console.kinds),
        written={name: query.written.get(name, "") for name in FIELDS},
    )


def _standing(page_request: PageRequest, operation: Operation, flags: dict[str, Any]) -> str:
    pause = flags.get("pause:all") or flags.get(f"pause:{operation.lane}")
    return sentences.standing(operation, page_request.console.kinds, pause)


def _without_state(standing: str, operation: Operation) -> str:
    """Return how an operation stands without its state, which the page shows beside it."""
    return re.sub(rf"^{operation.state}(?:: | \((\w+)\))?", lambda found: found[1] or "", standing)


def _short(standing: str, operation: Operation, flags: dict[str, AuditEntry]) -> str:
    """Return how an operation stands, for a line of a list: the list itself shows state and pauses."""
    for pause in _pauses(flags):
        standing = standing.replace(f" {sentences.paused_by(pause)}", "")
    return _without_state(standing, operation)


def _pauses(flags: dict[str, AuditEntry]) -> list[AuditEntry]:
    return [flag for name, flag in flags.items() if name.startswith("pause:")]


def _audit_filter(page_request: PageRequest) -> tuple[str | None, str | None, int | None]:
    actor, subject = text(page_request.query, "actor"), text(page_request.query, "subject")
    return actor, subject, number(page_request.query, "before")


def _renewed(page_request: PageRequest) -> str:
    """Return how the session was just renewed. Any other text in the address is not shown."""
    outcome = page_request.query.get("renewed", "")
    return OUTCOMES[outcome] if outcome in RENEWED else ""


def _session(page_request: PageRequest) -> list[tuple[str, str]]:
    state = page_request.console.session_state()
    if isinstance(state, SessionState):
        return [(name, value) for name, value in session_facts(state) if value]
    return [("session", state)]
