"""The audit is append-only: nothing in the code changes or removes an entry."""

import re
from pathlib import Path

import pytest
from sqlalchemy import event

import worker
from tests.operations import LedgerClock, fail_operation, record_operations
from worker.ledger import (
    Ledger,
    audit_of,
    cancel,
    pause,
    purge,
    queries,
    raise_flag,
    replay,
)
from worker.ledger.fleet_flags import lower_flag
from worker.ledger.operator_actions import correct, record_renewal, resolve
from worker.ledger.pauses import resume
from worker.ledger.queries import audit_page

ROOT = Path(worker.__file__).parents[1]


def test_a_page_says_where_to_go_on_also_if_its_window_held_no_match(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_renewal(ledger, "bob", "the first of all")
    for number in range(5):
        record_renewal(ledger, "ann", f"again {number}")
    monkeypatch.setattr(queries, "AUDIT_WINDOW", 3)

    notes, pages, before = list[str](), 0, None
    while pages == 0 or before is not None:
        found, before = audit_page(ledger, actor="bob", before=before)
        notes += [entry.note for entry in found]
        pages += 1
    assert (notes, pages) == (["the first of all"], 3)

    first, before = audit_page(ledger, limit=2)
    second, _ = audit_page(ledger, limit=2, before=before)
    assert [entry.note for entry in (*first, *second)] == ["again 4", "again 3", "again 2", "again 1"]


def test_every_decision_adds_one_entry_and_a_purge_removes_none(ledger: Ledger, clock: LedgerClock) -> None:
    changed: list[str] = []

    def note(*call: object) -> None:
        if re.match(r"(UPDATE|DELETE FROM|TRUNCATE)\b.*b2copy_audit", str(call[2]), re.S):
            changed.append(str(call[2]))

    event.listen(ledger.engine, "before_cursor_execute", note)
    key = fail_operation(ledger, "W1")
    replay(ledger, [key], "ada", "again")
    cancelled = record_operations(ledger, "W2")[0].key
    cancel(ledger, cancelled, "ada", "not wanted")
    failed = fail_operation(ledger, "W3", lane="bulk")
    correct(ledger, failed, {"account_login": "8", "request_id": "W3"}, "ada", "mistyped")
    resolved = fail_operation(ledger, "W4", lane="bulk")
    resolve(ledger, resolved, "ada", "asked", succeeded=True)
    raise_flag(ledger, "login_refused", "worker 1", "401")
    lower_flag(ledger, "login_refused", "ada", "new key")
    pause(ledger, "bulk", "ada", "month end")
    resume(ledger, "bulk", "ada", "over")
    clock.advance(1000)
    assert purge(ledger, 1) == 2

    actions = [
        [entry.action for entry in audit_of(ledger, subject)]
        for subject in (key, cancelled, failed, resolved, "login_refused", "pause:bulk")
    ]
    assert actions == [
        ["replay"], ["cancel"], ["correct"], ["resolve, succeeded"], ["raise", "lower"], ["raise", "lower"],
    ]  # fmt: skip
    assert changed == []


def test_no_statement_of_the_code_changes_or_removes_an_entry() -> None:
    change = re.compile(
        r"(update|delete)\(\s*(schema\.)?audit\b|(UPDATE|DELETE\s+FROM|TRUNCATE)\s+b2copy_audit", re.IGNORECASE
    )
    sources = [*ROOT.glob("worker/**/*.py"), *ROOT.glob("tasks/**/*.py")]

    assert len(sources) > 50
    assert [path.name for path in sources if change.search(path.read_text())] == []
