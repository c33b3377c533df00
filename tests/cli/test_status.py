"""status: everything that is known about an operation."""

import re

from tests.cli.conftest import Command
from tests.operations import (
    attempt_record,
    fail,
    fail_operation,
    hold_operation,
    record_operation,
    succeed_operation,
)
from worker.ledger import Ledger, fail_message, leave_request, pause, replay
from worker.ledger.batches import begin_batch, pause_batch, resume_batch
from worker.operation import FailureReason, OnUnknown, Step


def test_shows_who_requested_what_b2copy_answered_and_who_decided(b2copy_sync: Command, ledger: Ledger) -> None:
    key = fail_operation(ledger, "W1", message="account 7 is closed", by="crm@shop")
    replay(ledger, [key], actor="ann@desk", note="reopened")

    ran = b2copy_sync("status", "W1")

    assert ran.code == 0
    lines = [line.split() for line in ran.out.splitlines() if line.startswith("20")]
    assert [words[2] for words in lines] == ["requested", "rejected", "replayed"]
    assert lines[0][3] == "crm@shop"
    assert lines[1][3:] == ["400", "12", "ms", "worker", "1", "0.1.0", "account", "7", "is", "closed"]
    assert lines[2][3:] == ["ann@desk", "reopened"]
    assert "queued: no worker has taken it yet" in ran.out


def test_shows_what_people_decided_about_the_import_while_the_operation_was_open(
    b2copy_sync: Command, ledger: Ledger
) -> None:
    begin_batch(ledger, "book", kind="fees.process", lane="bulk", source="book.csv", rows=1, by="ann@desk")
    record_operation(ledger, lane="bulk", batch="book")
    pause_batch(ledger, "book", "ann@desk", "wrong file?")
    resume_batch(ledger, "book", "bob@desk", "it is the right one")

    ran = b2copy_sync("status", "W1")

    lines = [line.split()[2:] for line in ran.out.splitlines() if line.startswith("20")]
    assert lines[1:] == [
        ["pause", "import", "ann@desk", "wrong", "file?"],
        ["resume", "import", "bob@desk", "it", "is", "the", "right", "one"],
    ]


def test_exports_the_evidence(b2copy_sync: Command, ledger: Ledger) -> None:
    key = fail_operation(ledger, "W1", message="account 7 is closed", by="crm@shop")
    replay(ledger, [key], actor="ann@desk", note="reopened")

    document = b2copy_sync("status", key, "--json").document

    assert (document["key"], document["state"], document["requested_by"]) == (key, "queued", "crm@shop")
    assert document["payload"] == {"account_login": "7", "request_id": "W1"}
    [attempt] = document["attempts"]
    assert attempt["message"] == "account 7 is closed"
    assert (attempt["http_status"], attempt["request_id"], attempt["counted"]) == (400, "W1", True)
    assert (attempt["worker"], attempt["version"], attempt["duration_ms"]) == ("worker 1", "0.1.0", 12)
    assert attempt["started_at"].endswith("Z")
    [decision] = document["audit"]
    assert (decision["action"], decision["actor"], decision["note"]) == ("replay", "ann@desk", "reopened")
    assert document["replays"] == 1


def test_an_unknown_key_is_answered_with_near_ones(b2copy_sync: Command, ledger: Ledger) -> None:
    succeed_operation(ledger, "withdrawal-1001")

    near = b2copy_sync("status", "withdrawal-1010")
    far = b2copy_sync("status", "fees.process:X", "--json")

    assert (near.code, near.out) == (5, "")
    assert near.err == "withdrawal-1010: no such operation; did you mean fees.process:withdrawal-1001?\n"
    assert (far.code, far.out) == (5, "")
    assert "Is it the right B2COPY_DATABASE_URL?" in far.err


def test_an_unknown_key_may_be_one_that_no_worker_has_taken(b2copy_sync: Command, ledger: Ledger) -> None:
    leave_request(ledger, "fees.process", '{"account_login": "7", "request_id": "W1"}', "crm", None)

    asked = b2copy_sync("status", "W1")
    record_operation(ledger, "W10")
    with_near_ones = b2copy_sync("status", "W1")

    assert (asked.code, asked.out) == (5, "")
    assert "did you mean fees.process:W10?" in with_near_ones.err
    for told in (asked, with_near_ones):
        assert "rows of b2copy_requests wait for a worker, the oldest for" in told.err
        assert "it may be one of them" in told.err


def test_an_id_finds_every_operation_that_has_it(b2copy_sync: Command, ledger: Ledger) -> None:
    record_operation(ledger, "W1")
    record_operation(ledger, "W1", kind="call")
    raw = '{"request_id": "W1", "login": "7"}'
    fail_message(ledger, "m-1", "b2copy.fees.process", "login is not a field", by="message from crm", raw=raw)
    record_operation(ledger, "note-1", kind="call", payload={"request_id": "W1"})
    fail_message(ledger, "m-2", "b2copy.fees.process", "login is not a field", by="message from crm", raw="W11")

    ran = b2copy_sync("status", "W1")
    listed = b2copy_sync("status", "W1", "--json").document
    asked = b2copy_sync("status", "W1", "--poll-now")

    all_of_it = {"fees.process:W1", "call:W1", "call:note-1", "message:m-1"}
    assert ran.code == 0
    assert {line.split()[0] for line in ran.out.splitlines()[1:]} == all_of_it
    assert {one["key"] for one in listed["operations"]} == all_of_it
    assert asked.code == 2


def test_shows_why_a_message_could_not_be_taken(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_message(ledger, "m-1", "b2copy.fees.process", "request_id is missing", by="message from crm", raw="{}")

    ran = b2copy_sync("failed", "show", "m-1", "--json")

    assert ran.document["result"] == {"error": "request_id is missing"}
    assert ran.document["remedy"].startswith("Request it again")


def test_what_others_wrote_does_not_steer_the_terminal(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1", message="closed\x1b]0;owned\x07\x1b[2J")

    ran = b2copy_sync("status", "W1")

    assert r"closed\u001b]0;owned\u0007\u001b[2J" in ran.out
    assert "\x1b" not in ran.out


def test_poll_now_says_when_nothing_waits(b2copy_sync: Command, ledger: Ledger) -> None:
    succeed_operation(ledger, "W1")

    ran = b2copy_sync("status", "W1", "--poll-now")

    assert ran.code == 0
    assert "it does not wait: nothing was made due" in ran.err


def test_shows_progress_steps_and_what_is_not_known(b2copy_sync: Command, ledger: Ledger) -> None:
    claimed = hold_operation(ledger, on_unknown=OnUnknown.STOP)
    steps = (Step("find client", 7, 200, "done"), Step("create account", 12, None, "no_answer"))
    fail(
        ledger,
        claimed,
        failure_reason=FailureReason.UNRESOLVED,
        attempt=attempt_record("no_answer", steps=steps),
        outcome_unknown=True,
        unknown_step="create account",
        progress={"client_id": 7},
    )

    ran = b2copy_sync("status", "W1")

    assert "what create account did is not known" in ran.out
    assert '{"client_id": 7}' in ran.out
    assert re.search(r"- find client: done +200 +7 ms", ran.out)
    assert re.search(r"- create account: no_answer +12 ms", ran.out)
    assert f"b2copy-sync failed resolve {claimed.key} --succeeded" in ran.out
    assert f"b2copy-sync failed replay {claimed.key} --it-was-not-done" in ran.out


def test_a_paused_lane_is_named(b2copy_sync: Command, ledger: Ledger) -> None:
    record_operation(ledger)
    pause(ledger, "money", "ann@desk", "B2COPY is upgraded")

    ran = b2copy_sync("status", "W1")
    exported = b2copy_sync("status", "W1", "--json").document

    assert "queued: its lane is paused since " in ran.out
    assert "by ann@desk: B2COPY is upgraded" in ran.out
    assert (exported["paused"]["actor"], exported["paused"]["note"]) == ("ann@desk", "B2COPY is upgraded")
