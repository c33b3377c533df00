"""failed list, show, replay, cancel: dead letters, and who decided what."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.cli.operations import many_failed
from tests.operations import (
    LedgerClock,
    claim_named,
    fail,
    fail_operation,
    record_operation,
    succeed_all,
    succeed_operation,
)
from tests.support import until
from worker.cli.exit_codes import Stop
from worker.cli.replay import replay as replay_command
from worker.ledger import Ledger, attempts_of, audit_of, fail_message, find, replay, search
from worker.ledger.approvals import Approval, open_approvals, propose
from worker.ledger.restore import distrust_restored
from worker.operation import FailureReason, OnUnknown, State
from worker.testbed.local_system import Environment


def states(ledger: Ledger, *keys: str) -> list[str]:
    return [operation.state for key in keys if (operation := find(ledger, key))]


class TestList:
    def test_shows_the_reason_and_the_last_words(self, b2copy_sync: Command, ledger: Ledger) -> None:
        fail_operation(ledger, "W1", message="account 7 is closed")
        succeed_operation(ledger, "W2")

        ran = b2copy_sync("failed", "list")

        heading, line = ran.out.splitlines()
        assert heading.split() == ["Key", "Lane", "Reason", "Failed", "(UTC)", "Last", "message"]
        assert line.startswith("fees.process:W1  money  rejected  20")
        assert line.rstrip().endswith("account 7 is closed")

    def test_filters(self, b2copy_sync: Command, ledger: Ledger) -> None:
        fail_operation(ledger, "old", failure_reason=FailureReason.EXHAUSTED)
        LedgerClock(ledger).advance(7200)
        fail_operation(ledger, "W1")
        fail_operation(ledger, "C1", kind="call", lane="default", failure_reason=FailureReason.EXHAUSTED)

        def listed(*filters: str) -> list[str]:
            listed = b2copy_sync("failed", "list", "--json", *filters).document
            return [one["key"].partition(":")[2] for one in listed["failed"]]

        assert listed() == ["C1", "W1", "old"]
        assert listed("--reason", "exhausted") == ["C1", "old"]
        assert listed("--reason", "fee_error") == []
        assert listed("--kind", "call") == ["C1"]
        assert listed("--lane", "money") == ["W1", "old"]
        assert listed("--since", "1h") == ["C1", "W1"]
        assert listed("--limit", "1") == ["C1"]

    def test_says_when_there_is_none(self, b2copy_sync: Command, ledger: Ledger) -> None:
        assert b2copy_sync("failed", "list").out == "no failed operations\n"
        assert b2copy_sync("failed", "list", "--json").document == {"failed": [], "more": False}


class TestReplay:
    def test_queues_again_and_keeps_who_and_why(self, b2copy_sync: Command, ledger: Ledger) -> None:
        key = fail_operation(ledger, "C1", kind="call", lane="default")

        ran = b2copy_sync("failed", "replay", "C1", "--why", "the account is open again", "--by", "ann")

        assert (ran.code, ran.out) == (0, "1 operation replayed\n")
        operation = find(ledger, key)
        assert operation is not None
        assert operation.state == State.QUEUED
        [decision] = audit_of(ledger, key)
        assert (decision.action, decision.actor, decision.note) == ("replay", "ann", "the account is open again")

    def test_a_dry_run_changes_nothing(self, b2copy_sync: Command, ledger: Ledger) -> None:
        keys = [fail_operation(ledger, name) for name in ("W1", "W2")]

        ran = b2copy_sync("failed", "replay", "--all", "--why", "x", "--dry-run")

        assert ran.code == 0
        assert "2 operations would be replayed, 2 of which move money; nothing was changed" in ran.out
        assert states(ledger, *keys) == ["failed", "failed"]

    def test_money_needs_a_yes_in_whatever_lane(self, b2copy_sync: Command, ledger: Ledger) -> None:
        key = fail_operation(ledger, "W1", lane="bulk")

        refused = b2copy_sync("failed", "replay", "W1", "--why", "x")
        before = states(ledger, key)
        allowed = b2copy_sync("failed", "replay", "W1", "--why", "x", "--yes")

        assert refused.code == 2
        assert "1 operation chosen, 1 of which move money" in refused.err
        assert before == ["failed"]
        assert (allowed.code, states(ledger, key)) == (0, ["queued"])

    def test_leaves_alone_what_must_not_be_done_again(self, b2copy_sync: Command, ledger: Ledger) -> None:
        call = fail_operation(ledger, "C1", kind="call", lane="default", failure_reason=FailureReason.UNRESOLVED)
        message = fail_message(ledger, "m-1", "b2copy.call", "no path", by="crm", raw="{}").key
        done = succeed_operation(ledger, "W1")

        ran = b2copy_sync("failed", "replay", call, message, done, "--why", "x", "--yes", "--json")

        assert ran.code == 1
        assert ran.document["replayed"] == []
        assert ran.document["left_alone"] == {
            call: "whether it was done is not known, and it must not be done twice:"
            f" `b2copy-sync failed show {call}` says where to look, and the command for what you find",
            message: "it only stores a message that could not be used",
            done: "it is succeeded",
        }
        assert states(ledger, call, message, done) == ["failed", "failed", "succeeded"]

    def test_in_bulk_it_takes_only_those_chosen_at_the_rate_given(self, b2copy_sync: Command, ledger: Ledger) -> None:
        for number in range(5):
            fail_operation(ledger, f"C{number}", kind="call", lane="default", failure_reason=FailureReason.EXHAUSTED)
        other = fail_operation(ledger, "other", kind="call", lane="default")

        began = time.monotonic()
        ran = b2copy_sync(
            "failed", "replay", "--reason", "exhausted", "--why", "B2COPY is back", "--rate", "4/second", "--json"
        )

        assert len(ran.document["replayed"]) == 5
        assert time.monotonic() - began > 1.0
        assert states(ledger, other) == ["failed"]
        assert len(search(ledger, state=State.QUEUED)) == 5

    def test_what_belongs_to_no_cancelled_import_is_replayed_although_it_was_not_sent(
        self, b2copy_sync: Command, ledger: Ledger
    ) -> None:
        record_operation(ledger, "W1")
        distrust_restored(ledger, {}, "ada", "restored")
        unresolved = FailureReason.UNRESOLVED
        fail(ledger, claim_named(ledger, "W1"), failure_reason=unresolved, outcome_unknown=True, sent=False)

        ran = b2copy_sync("failed", "replay", "--reason", unresolved, "--why", "asks first", "--yes", "--json")

        assert (ran.document["replayed"], ran.document["left_alone"]) == (["fees.process:W1"], {})

    def test_in_batches_the_first_requested_of_an_entity_comes_first(
        self, b2copy_sync: Command, ledger: Ledger
    ) -> None:
        for number in range(3):
            fail_operation(ledger, f"A{number}", kind="call", lane="default", entity="A")

        b2copy_sync("failed", "replay", "--all", "--why", "x", "--rate", "2/second")

        assert succeed_all(ledger, "default") == ["A0", "A1", "A2"]

    def test_all_means_all(self, b2copy_sync: Command, ledger: Ledger) -> None:
        many_failed(ledger, 501)

        ran = b2copy_sync("failed", "replay", "--all", "--why", "x")

        assert ran.out == "501 operations replayed\n"
        assert search(ledger, state=State.FAILED) == []

    def test_never_takes_all_by_accident(self, b2copy_sync: Command, ledger: Ledger) -> None:
        key = fail_operation(ledger, "W1")

        ran = b2copy_sync("failed", "replay", "--why", "x", "--yes")

        assert ran.code == 2
        assert "name KEYs, or choose by filters, or say --all" in ran.err
        assert states(ledger, key) == ["failed"]


class TestCorrect:
    def test_a_wrong_login_is_replaced_and_both_payloads_are_stored_with_who_and_why(
        self, b2copy_sync: Command, ledger: Ledger
    ) -> None:
        key = fail_operation(ledger, "W1")
        options = ("account_login=00123", "--why", "mistyped", "--by", "ann")

        asked = b2copy_sync("failed", "correct", "W1", *options)
        before = states(ledger, key)
        ran = b2copy_sync("failed", "correct", "W1", *options, "--yes")

        assert (asked.code, before) == (2, ["failed"])
        assert 'moves money: it is done with {"account_login": "00123", "request_id": "W1"}; then' in asked.err
        assert (ran.code, ran.out) == (0, f"{key} corrected: queued: no worker has taken it yet\n")
        [entry] = audit_of(ledger, key)
        assert (entry.action, entry.actor, entry.note) == ("correct", "ann", "mistyped")
        assert entry.detail is not None
        assert entry.detail["before"]["payload"] == {"account_login": "7", "request_id": "W1"}
        assert entry.detail["after"]["payload"] == {"account_login": "00123", "request_id": "W1"}

    def test_a_correction_that_is_none_or_would_be_another_operation_is_refused(
        self, b2copy_sync: Command, ledger: Ledger
    ) -> None:
        key = fail_operation(ledger, "W1")
        fields: dict[str, Any] = {
            "path": "/api/admin/a/v1/b/c/d",
            "payload": {},
            "key": "C1",
            "entity": None,
            "parent": None,
        }
        call = fail_operation(
            ledger, "C1", kind="call", lane="default", payload=fields | {"repeatable": False}, on_unknown=OnUnknown.STOP
        )

        def refused(name: str, *values: str) -> str:
            ran = b2copy_sync("failed", "correct", name, *values, "--why", "x", "--yes")
            assert ran.code == 2
            return ran.err

        assert "it would be fees.process:W2" in refused(key, "request_id=W2")
        assert "has this payload already" in refused(key, "account_login=7")
        assert "is not a login" in refused(key, "account_login='7")
        assert "is not a field" in refused(key, "login=7")
        assert "cannot be corrected" in refused(call, "repeatable=true")
        assert "cannot be corrected" in refused(call, "parent=call:other")
        assert states(ledger, key, call) == ["failed", "failed"]


class TestResolve:
    def test_records_that_it_was_done_with_its_result_and_who_found_out(
        self, b2copy_sync: Command, ledger: Ledger
    ) -> None:
        key = fail_operation(ledger, "C1", kind="call", lane="default", failure_reason=FailureReason.UNRESOLVED)
        options = ("--result", "id=7", "--result", "name=x y", "--why", "seen in the back office", "--by", "ann")

        ran = b2copy_sync("failed", "resolve", "C1", "--succeeded", *options)

        assert (ran.code, ran.out) == (0, f"{key} succeeded\n")
        operation = find(ledger, key)
        assert operation is not None
        assert (operation.state, operation.result) == (State.SUCCEEDED, {"id": 7, "name": "x y"})
        assert operation.outcome_unknown is False
        [entry] = audit_of(ledger, key)
        assert (entry.action, entry.actor, entry.note) == ("resolve, succeeded", "ann", "seen in the back office")

    def test_that_money_was_charged_needs_yes_because_the_crm_then_pays(
        self, b2copy_sync: Command, ledger: Ledger
    ) -> None:
        key = fail_operation(ledger, "W1", failure_reason=FailureReason.UNRESOLVED)
        done = ("failed", "resolve", "W1", "--succeeded", "--why", "the panel shows the fees", "--by", "ann")

        asked = b2copy_sync(*done)
        before = states(ledger, key)
        ran = b2copy_sync(*done, "--yes")

        assert (asked.code, before) == (2, ["failed"])
        assert f"{key} moves money: it ends as succeeded, and the CRM learns this and may pay" in asked.err
        assert (ran.code, states(ledger, key)) == (0, ["succeeded"])

    def test_that_money_was_not_charged_needs_no_yes(self, b2copy_sync: Command, ledger: Ledger) -> None:
        key = fail_operation(ledger, "W1", failure_reason=FailureReason.UNRESOLVED)

        ran = b2copy_sync("failed", "resolve", "W1", "--failed", "--why", "the panel does not show the fees")

        assert (ran.code, states(ledger, key)) == (0, ["failed"])

    def test_records_that_it_was_not_done_which_permits_a_replay(self, b2copy_sync: Command, ledger: Ledger) -> None:
        key = fail_operation(ledger, "C1", kind="call", lane="default", failure_reason=FailureReason.UNRESOLVED)

        ran = b2copy_sync("failed", "resolve", key, "--failed", "--why", "not there", "--by", "ann", "--json")
        replayed = b2copy_sync("failed", "replay", key, "--why", "now do it")

        assert ran.code == 0
        assert (ran.document["state"], ran.document["failure_reason"]) == ("failed", "rejected")
        assert ran.document["standing"] == "failed (rejected): ann found that it was not done: not there"
        assert (replayed.code, states(ledger, key)) == (0, ["queued"])

    def test_an_id_that_no_operation_would_find_is_refused_because_a_success_is_final(
        self, b2copy_sync: Command, ledger: Ledger
    ) -> None:
        fields: dict[str, Any] = {
            "kind": "clients.register",
            "lane": "default",
            "payload": {"login": "7", "platform": 1},
        }
        key = fail_operation(ledger, "1/7", failure_reason=FailureReason.UNRESOLVED, **fields)
        done = ("failed", "resolve", key, "--succeeded", "--why", "the Back Office has client 77")
        there_are = "there are client_id, payment_account"

        for given, problem in {
            "clientid=77": f"result of clients.register: clientid is not a field: {there_are}",
            "client_id=77x": "result of clients.register: client_id must be a whole number in digits",
            "client_id=": "result of clients.register: client_id must be a whole number in digits",
            "client_id=0": "result of clients.register: client_id: Input should be greater than or equal to 1",
            "payment_account=": "result of clients.register: payment_account is empty",
        }.items():
            refused = b2copy_sync(*done, "--result", given)
            assert (refused.code, problem in " ".join(refused.err.split())) == (2, True), refused.err
        assert states(ledger, key) == ["failed"]
        ran = b2copy_sync(*done, "--result", "client_id=77", "--result", "payment_account=0080")

        assert ran.code == 0, ran.err
        operation = find(ledger, key)
        assert operation is not None
        assert operation.result == {"client_id": 77, "payment_account": "0080"}

    def test_needs_a_finding_and_a_failed_operation(self, b2copy_sync: Command, ledger: Ledger) -> None:
        key = record_operation(ledger, "W1").key

        without = b2copy_sync("failed", "resolve", key, "--why", "x")
        too_early = b2copy_sync("failed", "resolve", key, "--succeeded", "--yes", "--why", "x")
        not_filled_in = b2copy_sync("failed", "resolve", key, "--succeeded", "--result", "client_id=...", "--why", "x")

        assert (without.code, too_early.code, not_filled_in.code) == (2, 1, 2)
        assert "write what B2COPY shows as client_id in place of ..." in " ".join(not_filled_in.err.split())
        assert "say --succeeded or --failed" in without.err
        assert "only a failed operation can be resolved" in too_early.err
        assert states(ledger, key) == ["queued"]

    def test_closes_a_message_that_could_not_be_used_so_that_it_is_listed_no_more(
        self, b2copy_sync: Command, ledger: Ledger
    ) -> None:
        key = fail_message(ledger, "m-1", "b2copy.call", "no path", by="crm", raw="{}").key
        command = f'failed resolve {key} --failed --why "..."'
        assert command in b2copy_sync("failed", "show", key).out.replace("\n", " ")

        done = b2copy_sync("failed", "resolve", key, "--succeeded", "--yes", "--why", "x")
        ran = b2copy_sync("failed", "resolve", key, "--failed", "--why", "requested again", "--by", "ann")

        assert done.code == 1
        assert "request it again, then resolve this one as failed" in done.err
        assert (ran.code, ran.out) == (0, f"{key} cancelled\n")
        assert b2copy_sync("failed", "list").out == "no failed operations\n"
        assert "closed" in b2copy_sync("status", key).out
        [entry] = audit_of(ledger, key)
        assert (entry.action, entry.actor, entry.note) == ("resolve, cancelled", "ann", "requested again")


class TestCancel:
    def test_ends_what_was_never_sent(self, b2copy_sync: Command, ledger: Ledger) -> None:
        key = record_operation(ledger, "W1").key

        ran = b2copy_sync("failed", "cancel", "W1", "--why", "the client withdrew")

        assert (ran.code, ran.out) == (0, f"{key} cancelled: nothing of it was sent\n")
        assert states(ledger, key) == ["cancelled"]

    def test_what_was_sent_can_only_be_asked_about_no_more(self, b2copy_sync: Command, ledger: Ledger) -> None:
        key = fail_operation(ledger, "W1")
        b2copy_sync("failed", "replay", key, "--why", "again", "--yes")

        refused = b2copy_sync("failed", "cancel", key, "--why", "x")
        ended = b2copy_sync("failed", "cancel", key, "--why", "x", "--stop-asking", "--json")

        assert refused.code == 1
        assert "--stop-asking ends it" in refused.err
        assert (ended.document["state"], ended.document["failure_reason"]) == ("failed", "unresolved")

    def test_show_names_the_way_out(self, b2copy_sync: Command, ledger: Ledger) -> None:
        key = fail_operation(ledger, "W1", failure_reason="fee_error", message="the master account cannot be credited")

        ran = b2copy_sync("failed", "show", "W1")

        operation = find(ledger, key)
        assert operation is not None
        assert len(attempts_of(ledger, operation.id)) == 1
        assert "failed (fee_error): B2COPY ended the fee run with an error" in ran.out
        assert "the master account cannot be credited" in ran.out
        assert f"b2copy-sync failed replay {key} --why" in ran.out


def test_it_was_not_done_is_said_of_the_operation_as_it_was(b2copy_sync: Command, ledger: Ledger) -> None:
    """While a replay waits for the second of its `--rate`, another person replays the next operation, which is sent."""
    unresolved = {"kind": "call", "lane": "default", "failure_reason": FailureReason.UNRESOLVED}
    first, second = (fail_operation(ledger, name, **unresolved) for name in ("C1", "C2"))
    said = ("--it-was-not-done", "--why", "looked", "--by", "ann", "--yes", "--json")
    with ThreadPoolExecutor() as threads:
        paced = threads.submit(b2copy_sync, "failed", "replay", "C1", "C2", *said, "--rate", "0.2")
        until(lambda: states(ledger, first) == [State.QUEUED])
        assert replay(ledger, [second], "bob", "it was not done", not_done=True) == [second]
        again = claim_named(ledger, "C2", "call", lane="default")
        fail(ledger, again, failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True)
        ran = paced.result()

    assert ran.document["replayed"] == [first]
    assert ran.document["left_alone"] == {second: "it has changed meanwhile"}
    assert states(ledger, second) == [State.FAILED]


def test_a_correction_shows_what_it_changed(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger)

    done = b2copy_sync("failed", "correct", "W1", "account_login=123456", "--why", "mistyped", "--by", "ann", "--yes")

    assert done.code == 0
    assert "mistyped (account_login 7 -> 123456)" in b2copy_sync("status", "W1").out


LOOK = "; look at `b2copy-sync failed list` before you repeat it"


def interrupted_replay() -> tuple[str, ...]:
    """Replay all that failed, and return what is said of the interruption that comes in between."""
    with pytest.raises((Stop, KeyboardInterrupt)) as ended:
        replay_command("B2COPY is back", "ann", everything=True, yes=True)
    return getattr(ended.value, "lines", ())


def test_a_replay_that_is_interrupted_after_a_commit_does_not_say_that_the_others_are_as_they_were(
    active_environment: Environment, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [fail_operation(ledger, f"C{number}", kind="call", lane="default") for number in range(3)]
    monkeypatch.setattr("worker.cli.replay._PAGE", 2)

    def replay_and_interrupt(*arguments: Any) -> list[str]:
        replay(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("worker.ledger.replay", replay_and_interrupt)

    assert interrupted_replay() == (f"interrupted: at least 0 of 3 replayed{LOOK}",)
    assert states(ledger, *keys) == ["queued", "queued", "failed"]


def test_a_replay_that_is_interrupted_names_what_it_has_proposed(
    active_environment: Environment, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B2COPY_FOUR_EYES", "money")
    for name in ("W1", "W2", "W3"):
        fail_operation(ledger, name)
    fail_operation(ledger, "C1", kind="call", lane="default")
    proposed: list[str] = []

    def propose_two(ledger: Ledger, action: str, subject: str, *arguments: Any) -> Approval:
        if len(proposed) == 2:
            raise KeyboardInterrupt
        proposed.append(subject)
        return propose(ledger, action, subject, *arguments)

    monkeypatch.setattr("worker.ledger.replay_proposals.propose", propose_two)

    told = f"interrupted: at least 2 of 3 proposed as A1 to A2, at least 0 of 1 replayed{LOOK}"
    assert interrupted_replay() == (told,)
    assert {one.subject for one in open_approvals(ledger)} == set(proposed)


def test_a_replay_that_the_database_ends_says_how_far_it_came(b2copy_sync: Command, ledger: Ledger) -> None:
    keys = [fail_operation(ledger, f"C{number}", kind="call", lane="default") for number in range(3)]
    with ledger.writing() as connection:
        connection.exec_driver_sql(
            f"CREATE TRIGGER refuse BEFORE UPDATE OF state ON b2copy_operations WHEN NEW.key = '{keys[2]}'"
            " BEGIN SELECT RAISE(ABORT, 'the disk is gone'); END"
        )

    ran = b2copy_sync("failed", "replay", "--all", "--why", "B2COPY is back", "--rate", "2/second")

    assert ran.code == 1
    assert ran.err.splitlines()[:2] == [
        f"not finished: at least 2 of 3 replayed{LOOK}",
        "the ledger (B2COPY_DATABASE_URL) cannot be used: the disk is gone",
    ]
    assert states(ledger, *keys) == ["queued", "queued", "failed"]
