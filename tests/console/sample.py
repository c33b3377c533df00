"""A ledger with something of everything, for pages to show."""

import time
from dataclasses import replace
from typing import Any

from sqlalchemy import insert

from tests.operations import (
    attempt_record,
    claim_due,
    claim_named,
    fail_operation,
    find_operation,
    hold_operation,
    make_wait,
    record_operations,
    succeed,
    succeed_operation,
)
from worker.ledger import Ledger, cancel, pause, replay, settle
from worker.ledger.approvals import decide_or_propose
from worker.ledger.batches import begin_batch, cancel_batch, pause_batch, sweep
from worker.ledger.minute_statistics import MINUTE_MS, summarize_minutes
from worker.ledger.schema import minutes
from worker.operation import FailureReason, State, Step, Transition, WaitReason
from worker.watch.redact import reads_like_secret

HOSTILE = (
    "<script>alert(1)</script>",
    "\u202eevil\u2066",
    "\x1b[31mred\x1b]0;title\x07",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}${7*7}",
    "javascript:alert(1)",
    "access_token=eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl",
    "x" * 65_536,
)


def fill(ledger: Ledger) -> None:
    """Record operations in every state, with attempts, steps, waits, decisions and minutes."""
    succeed_operation(ledger, "W1", result={"state": "success"})
    pending = hold_operation(ledger, "W2")
    waits = attempt_record("pending", http_status=200, message="The rollover is at 21:00 UTC", request_id="W2")
    make_wait(ledger, pending, wait_reason=WaitReason.PENDING_AT_B2COPY, attempt=waits)
    fail_operation(ledger, "W3", message="Account 1007 has no open positions")
    strict = replace(ledger, needs_approval=lambda kind, lane: True)
    decide_or_propose(strict, "replay", find_operation(ledger, "W3"), "cyd", "the account has positions again")
    registration = {"login": "1007", "platform": 1}
    unresolved = FailureReason.UNRESOLVED
    fail_operation(ledger, "1/1007", unresolved, kind="clients.register", lane="default", payload=registration)
    steps = (Step("accounts", 41, 200, "done"), Step("create", 12_000, None, "no_answer"))
    lost = hold_operation(ledger, "create-77", kind="call", lane="default", entity="77")
    evidence = attempt_record("no_answer", message="no answer within 12 s", steps=steps, counted=True)
    settle(
        ledger,
        [
            Transition(
                lost,
                State.FAILED,
                failure_reason=FailureReason.UNRESOLVED,
                attempt=evidence,
                outcome_unknown=True,
                unknown_step="create",
            )
        ],
    )
    record_operations(ledger, "W5", "W6")
    cancel(ledger, "fees.process:W6", "ann", "the client withdrew the request")
    pause(ledger, "bulk", "bob", "B2COPY announced maintenance until 22:00")
    key = fail_operation(ledger, "W7", message="fee configuration missing")
    replay(ledger, [key], "ann", "the fee configuration was corrected")
    again = claim_named(ledger, "W7")
    succeed(ledger, again)
    for book, rows in (("book-3f9a2c11", 60), ("march-77aa01bc", 40), ("wrong-0badf00d", 5)):
        begin_batch(
            ledger,
            book,
            kind="fees.process",
            lane="bulk",
            source=f"{book.partition('-')[0]}.csv",
            rows=rows,
            by="ann@desk",
        )
        record_operations(ledger, *(f"{book[:5]}{number}" for number in range(rows)), lane="bulk", batch=book)
    pause_batch(ledger, "march-77aa01bc", "bob", "the amounts are those of February")
    cancel_batch(ledger, "wrong-0badf00d", "ann", "the file of another broker")
    sweep(ledger, 10.0)
    blocked = claim_due(ledger, limit=1)
    make_wait(ledger, *blocked, wait_reason=WaitReason.NO_ACCESS, attempt=attempt_record("access_refused"))


def fill_minutes(ledger: Ledger, count: int = 60) -> None:
    """Write statistics of the last hour."""
    summarize_minutes(ledger)
    now = int(time.time() * 1000) // MINUTE_MS * MINUTE_MS
    rows: list[dict[str, Any]] = []
    for number in range(1, count):
        minute = {"minute": now - number * MINUTE_MS, "lane": "money", "total_ms": 0, "external_ms": 0}
        done = 20 + (number * 37) % 55
        rows.append(minute | {"kind": "fees.process", "outcome": "succeeded", "operations": done})
        if number % 7 == 0:
            rows.append(minute | {"kind": "fees.process", "outcome": "rejected", "operations": number % 9 + 1})
        if number % 5 == 0:
            rows.append(minute | {"kind": "", "outcome": "due", "operations": 3, "total_ms": (number % 13) * 900})
    with ledger.writing() as connection:
        known = {row[0] for row in connection.execute(minutes.select().with_only_columns(minutes.c.minute))}
        connection.execute(insert(minutes), [row for row in rows if row["minute"] not in known])


def fill_hostile(ledger: Ledger) -> list[str]:
    """Record operations whose every text is hostile. Returns their keys."""
    keys = []
    for number, text in enumerate(HOSTILE):
        short = text[:400]
        name = "".join(char if char.isprintable() else "?" for char in short[:80])  # the ledger takes no other key
        if reads_like_secret(name):  # nor this
            name = "secret"
        key = fail_operation(
            ledger,
            f"H{number}{name}",
            message=text,
            payload={"account_login": short, "note": short},
            batch=f"B{number}{name}",
        )
        keys.append(key)
        pause_batch(ledger, f"B{number}{name}", short, text)
        replay(ledger, [key], short, text)
        pause(ledger, "default", short, text)
    return keys
