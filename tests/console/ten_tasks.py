"""Ten tasks of an operator, each begun on the page Now and done with the console alone.

Each task uses a `Hand`, which acts as a person does and counts, and fails if it was not done.
"""

import csv
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import text

from tests.operations import fail_operation, find_operation, hold_operation, make_wait, record_operations
from tests.operations import succeed_operation as succeed
from worker.ledger import Ledger, active_flags, find, pause
from worker.ledger.approvals import decide_or_propose
from worker.ledger.identities import identity_of
from worker.operation import FailureReason, OnUnknown, State, WaitReason

HOUR_MS = 3_600_000
REASON = "looked at it with the client"


def fill_for_tasks(ledger: Ledger) -> None:
    """Record what the tasks are about. Money was paused after the address of our requests had changed two hours ago."""
    succeed(ledger, "W1", payload={"account_login": "1007", "request_id": "W1"})
    make_wait(ledger, hold_operation(ledger, "W2"), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=900)
    for name, hours in (("before", 3), ("after-1", 1), ("after-2", 1), ("last-month", 40 * 24)):
        _age(ledger, fail_operation(ledger, name), hours)
    _age(ledger, fail_operation(ledger, "unknown", failure_reason=FailureReason.UNRESOLVED), 1)
    registration = {"login": "1007", "platform": 1, "crm_id": "C7"}
    _age(
        ledger,
        fail_operation(
            ledger, "1/1007", FailureReason.UNRESOLVED, kind="clients.register", lane="default", payload=registration,
            on_unknown=OnUnknown.STOP,
        ),
        1,
    )  # fmt: skip
    _age(ledger, fail_operation(ledger, "W3", message="Account 1007 has no open positions"), 3)
    strict = replace(ledger, needs_approval=lambda kind, lane: True)
    decide_or_propose(strict, "replay", find_operation(ledger, "W3"), "ann", "the account has positions again")
    record_operations(ledger, "late")
    pause(ledger, "money", "cyd", "B2COPY knows our new address from 15:00")


def _age(ledger: Ledger, key: str, hours: float) -> None:
    with ledger.writing() as connection:
        aged = (
            "UPDATE b2copy_operations SET state_since = state_since - :ms, ended_at = ended_at - :ms WHERE key = :key"
        )
        connection.execute(text(aged), {"ms": hours * HOUR_MS, "key": key})


class Hand:
    """A person's hand on a page: it clicks, chooses and types. The key Enter counts as a click."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.clicks, self.texts = page, 0, 0
        page.goto(address)

    def click(self, name: str, role: str = "link", exact: bool = True) -> None:
        self.page.get_by_role(role, name=name, exact=exact).first.click()
        self.clicks += 1

    def press(self, name: str) -> None:
        self.click(name, "button")

    def choose(self, field: str, word: str) -> None:
        self.page.locator(f"select[name={field}]").select_option(word)
        self.clicks += 1

    def type(self, label: str, what: str) -> None:
        self.page.get_by_label(label).first.fill(what)
        self.texts += 1

    def find(self, what: str) -> None:
        self.type("Find a withdrawal, key or account", what)
        self.page.keyboard.press("Enter")
        self.clicks += 1
        self.page.wait_for_url("**/operation?key=*")

    def save(self, name: str, folder: Path) -> Path:
        """Click on a link that gives a file. Returns the file."""
        with self.page.expect_download() as download:
            self.click(name, exact=False)
        path = folder / str(download.value.suggested_filename)
        download.value.save_as(path)
        return path

    def sees(self, what: str) -> None:
        self.page.get_by_text(what).first.wait_for(timeout=10_000)


def find_withdrawal(hand: Hand, ledger: Ledger, folder: Path) -> None:
    hand.find("W1")
    hand.sees("succeeded")


def why_late(hand: Hand, ledger: Ledger, folder: Path) -> None:
    hand.find("late")
    hand.sees("its lane is paused since")


def who_paused(hand: Hand, ledger: Ledger, folder: Path) -> None:
    hand.sees("by cyd: B2COPY knows our new address from 15:00")


def replay_since(hand: Hand, ledger: Ledger, folder: Path) -> None:
    hand.click("Operations")
    hand.choose("state", "failed")
    hand.type("Since (UTC)", datetime.fromtimestamp(time.time() - 2 * 3600, UTC).strftime("%Y-%m-%dT%H:%M"))
    hand.press("Show")
    hand.click("Replay all that match")
    hand.sees("2: unresolved")
    hand.type("Your reason", REASON)
    hand.click("Replay", "button", exact=False)
    hand.sees("replayed")
    states = {name: find_operation(ledger, name).state for name in ("before", "after-1", "after-2", "unknown")}
    assert states == {
        "before": State.FAILED, "after-1": State.QUEUED, "after-2": State.QUEUED, "unknown": State.FAILED,
    }  # fmt: skip


def approve(hand: Hand, ledger: Ledger, folder: Path) -> None:
    hand.click("For a second person: 1")
    hand.click("Approve A1")
    hand.type("Your reason", REASON)
    hand.press("Approve")
    hand.sees("queued")
    assert find_operation(ledger, "W3").state == State.QUEUED


def export_failed(hand: Hand, ledger: Ledger, folder: Path) -> None:
    hand.click("Operations")
    hand.choose("state", "failed")
    hand.type("For less than", "7d")
    hand.press("Show")
    with hand.save("CSV of", folder).open(newline="") as file:
        keys = {row["key"] for row in csv.DictReader(file)}
    assert {"fees.process:before", "fees.process:unknown"} <= keys
    assert "fees.process:last-month" not in keys


def resolve_registration(hand: Hand, ledger: Ledger, folder: Path) -> None:
    hand.click("Work list")
    hand.click("It was done clients.register:1/1007")
    hand.type("Client id", "4711")
    hand.type("Your reason", REASON)
    hand.press("It was done")
    hand.sees("succeeded")
    known = identity_of(ledger, "1", "1007")
    assert known is not None
    assert (known.client_id, known.crm_id) == ("4711", "C7")


def pause_bulk(hand: Hand, ledger: Ledger, folder: Path) -> None:
    hand.click("Pause bulk")
    hand.type("Your reason", REASON)
    hand.click("Pause", "button", exact=False)
    hand.page.wait_for_url("**/system**")
    assert active_flags(ledger)["pause:bulk"].note == REASON


def session_is_fine(hand: Hand, ledger: Ledger, folder: Path) -> None:
    hand.sees("a login with key")
    hand.sees("unused")


def evidence_bundle(hand: Hand, ledger: Ledger, folder: Path) -> None:
    hand.find("W1")
    bundle = json.loads(hand.save("Evidence bundle", folder).read_text())
    canonical = json.dumps(bundle["evidence"], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert bundle["sha256_of_evidence"] == hashlib.sha256(canonical.encode()).hexdigest()
    found = find(ledger, "fees.process:W1")
    assert found is not None
    assert bundle["evidence"]["key"] == found.key


class Task(NamedTuple):
    """`clicks` and `texts` are most that the task may take: more would be a worse console."""

    question: str
    do: Callable[[Hand, Ledger, Path], None]
    clicks: int
    texts: int


TASKS = (
    Task("find W1", find_withdrawal, 1, 1),
    Task("why is it late?", why_late, 1, 1),
    Task("who paused money?", who_paused, 0, 0),
    Task("replay what failed since the address changed, but not the unresolved", replay_since, 5, 2),
    Task("approve a colleague's proposal", approve, 3, 1),
    Task("export what failed last week as CSV", export_failed, 4, 1),
    Task("resolve an unresolved registration with its client id", resolve_registration, 3, 2),
    Task("pause bulk", pause_bulk, 2, 1),
    Task("is the session fine?", session_is_fine, 0, 0),
    Task("save the evidence bundle of a withdrawal", evidence_bundle, 2, 1),
)
