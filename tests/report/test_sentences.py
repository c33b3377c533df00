"""Each way to wait or to fail has its sentence and its remedy, and the remedy does what it says."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.accounts import CLIENT_UNKNOWN
from tasks.registry import ALL_KINDS, KINDS
from tests.operations import (
    claim_due,
    claim_one,
    fail,
    fail_operation,
    find_operation,
    hold_operation,
    make_wait,
    record_operation,
    succeed_after_a_replay,
)
from worker.console.url_parameters import known_reasons
from worker.ledger import Ledger, audit_of, fail_message, find, open_ledger, pause
from worker.ledger import replay as replay_in_ledger
from worker.ledger.approvals import approve, propose, reject
from worker.ledger.batches import begin_batch, cancel_batch, pause_batch, sweep
from worker.ledger.operator_actions import resolve
from worker.ledger.restore import distrust_restored
from worker.operation import NOTICE_KIND, FailureReason, OnUnknown, Operation, Phase, State, WaitReason
from worker.report.operation_report import document, report_on
from worker.report.replayable import moves_money, why_not_replayable
from worker.report.sentences import remedy, standing


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite", create=True)
    yield ledger
    ledger.close()


def waiting_for(ledger: Ledger, reason: WaitReason, due_in_s: float = 30.0) -> Operation:
    make_wait(
        ledger, hold_operation(ledger, reason, entity=f"entity of {reason}"), wait_reason=reason, due_in_s=due_in_s
    )
    return find_operation(ledger, reason)


@pytest.mark.parametrize("reason", WaitReason)
def test_each_wait_reason_has_its_sentence(reason: WaitReason, ledger: Ledger) -> None:
    text = standing(waiting_for(ledger, reason), KINDS)

    assert text.startswith(f"waiting ({reason}): ")
    is_behind = reason in (WaitReason.BEHIND_ENTITY, WaitReason.BEHIND_PARENT)  # it goes when the other has ended
    assert ("; next look in " in text) != is_behind
    assert "{" not in text


def test_a_wait_reason_of_a_newer_version_has_a_sentence(ledger: Ledger) -> None:
    operation = replace(waiting_for(ledger, WaitReason.BACKOFF), wait_reason="something_new")

    assert standing(operation, KINDS).startswith("waiting (something_new): the reason is not known to this version; ")
    assert remedy(operation, KINDS) == ""


def test_no_access_names_our_address_and_what_to_ask(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B2COPY_DEVICE_IP", "203.0.113.7")
    operation = waiting_for(ledger, WaitReason.NO_ACCESS)

    assert "our requests come from 203.0.113.7 (B2COPY_DEVICE_IP)" in standing(operation, KINDS)
    assert "whether 203.0.113.7 (B2COPY_DEVICE_IP) is on the service admin's allow-list" in remedy(operation, KINDS)


@pytest.mark.parametrize("reason", [*FailureReason, *KINDS["fees.process"].failure_reasons])
def test_each_failure_reason_has_its_sentence_and_remedy(reason: str, ledger: Ledger) -> None:
    fail_operation(ledger, failure_reason=reason)
    operation = find_operation(ledger)

    assert standing(operation, KINDS).startswith(f"failed ({reason}): ")
    assert remedy(operation, KINDS)
    assert "{" not in standing(operation, KINDS) + remedy(operation, KINDS)


def test_a_payload_that_cannot_be_used_is_corrected_under_its_key_and_a_message_is_sent_again(ledger: Ledger) -> None:
    key = fail_operation(ledger, failure_reason=FailureReason.BAD_PAYLOAD)
    message = fail_message(ledger, "m-1", "b2copy.fees.process", "no arguments", by="crm", raw="[]").key

    texts = [remedy(operation, KINDS) for one in (key, message) if (operation := find(ledger, one))]

    assert f"b2copy-sync failed correct {key} NAME=VALUE" in texts[0]
    assert texts[1].startswith("Request it again")


def test_the_words_of_a_kind_are_the_kinds_own(ledger: Ledger) -> None:
    fail_operation(ledger, failure_reason="fee_error")
    operation = find_operation(ledger)
    of_the_kind = KINDS["fees.process"].failure_reasons["fee_error"]

    assert standing(operation, KINDS) == f"failed (fee_error): {of_the_kind}"
    assert "not known to this version" in standing(operation, {})


def test_a_notice_that_nobody_took_is_not_said_to_have_been_answered(ledger: Ledger) -> None:
    fields = {"kind": NOTICE_KIND, "lane": "notify", "destination": "crm", "on_unknown": OnUnknown.REPEAT}
    fail_operation(ledger, "N1", FailureReason.EXHAUSTED, **fields)
    dead = find_operation(ledger, "N1", NOTICE_KIND)

    assert standing(dead, ALL_KINDS) == "failed (exhausted): it could not be delivered; its last attempt says why"
    assert remedy(dead, ALL_KINDS).startswith("Find out at the CRM why, then: `b2copy-sync failed replay")
    reasons = known_reasons(ALL_KINDS)
    assert len(reasons) == len(set(reasons))


def test_after_a_kinds_own_reason_money_is_replayed_only_if_nothing_was_charged(ledger: Ledger) -> None:
    fail_operation(ledger, "W1", failure_reason="fee_error")
    fail_operation(ledger, "A1", failure_reason=CLIENT_UNKNOWN, kind="accounts.create", lane="money")
    fees, account = find_operation(ledger, "W1"), find_operation(ledger, "A1", "accounts.create")
    check = "and make sure there that nothing was charged: a replay may start a new fee run. Then: `b2copy-sync failed"

    assert check in remedy(fees, KINDS)
    assert check in remedy(fees, {}), "a kind that this version does not know may move money"
    assert remedy(account, KINDS).startswith("Clear up at B2COPY what it says, then: `b2copy-sync failed replay")


@pytest.mark.parametrize("on_unknown", OnUnknown)
def test_the_remedy_of_unresolved_is_what_the_ledger_permits(on_unknown: OnUnknown, ledger: Ledger) -> None:
    key = fail_operation(ledger, failure_reason=FailureReason.UNRESOLVED, on_unknown=on_unknown)
    operation = find_operation(ledger)
    advice = remedy(operation, KINDS)

    replayed = replay_in_ledger(ledger, [key], "ann", "x")

    must_look = on_unknown == OnUnknown.STOP
    assert bool(replayed) is not must_look
    assert bool(why_not_replayable(operation)) is must_look
    assert why_not_replayable(operation, was_not_done=True) == ""
    assert ("--it-was-not-done" in advice) is must_look
    assert (f"failed resolve {key} --succeeded" in advice) is must_look
    assert f"b2copy-sync failed replay {key}" in advice


@pytest.mark.parametrize("on_unknown", OnUnknown)
@pytest.mark.parametrize("reason", FailureReason)
def test_what_b2copy_had_begun_and_failed_without_its_answer_is_advised_as_the_ledger_permits(
    reason: FailureReason, on_unknown: OnUnknown, ledger: Ledger
) -> None:
    pending = WaitReason.PENDING_AT_B2COPY
    make_wait(ledger, hold_operation(ledger, on_unknown=on_unknown), wait_reason=pending, due_in_s=0.0)
    fail(ledger, claim_one(ledger), failure_reason=reason)
    operation = find_operation(ledger)
    advice, why_not = remedy(operation, KINDS), why_not_replayable(operation)

    replayed = replay_in_ledger(ledger, [operation.key], "ann", "x")

    assert operation.phase == Phase.POLL
    assert bool(replayed) is not (on_unknown == OnUnknown.STOP and reason != FailureReason.REJECTED)
    assert bool(why_not) is not bool(replayed)
    assert ("--it-was-not-done" in advice) is not bool(replayed)


def test_only_of_a_cancelled_import_it_is_said_that_it_was_cancelled_after_a_restore(ledger: Ledger) -> None:
    record_operation(ledger, "B1", lane="bulk", batch="book")
    record_operation(ledger, "C1", kind="call", lane="default")
    record_operation(ledger, "C2", kind="call", lane="default", batch="calls")
    distrust_restored(ledger, {}, "ada", "restored")
    unresolved = FailureReason.UNRESOLVED
    for claim in claim_due(ledger, lane="default"):  # a call whose outcome is unknown is not sent
        fail(ledger, claim, failure_reason=unresolved, outcome_unknown=True, sent=False)
    cancel_batch(ledger, "book", "ada", "wrong file")
    sweep(ledger, 5.0)

    book, *calls = (
        report_on(ledger, find_operation(ledger, name, kind), KINDS)
        for name, kind in (("B1", "fees.process"), ("C1", "call"), ("C2", "call"))
    )

    assert book.operation.failure_reason == unresolved
    assert book.remedy.startswith("Its import was cancelled after a restore")
    assert [one.remedy.partition(" was done")[0] for one in calls] == ["Find out at B2COPY whether it"] * 2


def test_who_resolves_a_registration_is_asked_for_the_ids_that_its_account_needs(ledger: Ledger) -> None:
    key = fail_operation(
        ledger, "1/7", kind="clients.register", failure_reason=FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP
    )

    advice = remedy(find_operation(ledger, "1/7", "clients.register"), KINDS)

    with_ids = "--succeeded --result client_id=... --result payment_account=... --why"
    assert f'`b2copy-sync failed resolve {key} {with_ids} "..." --yes`' in advice


def test_unresolved_names_the_step_whose_effect_is_unknown(ledger: Ledger) -> None:
    fail_operation(ledger, failure_reason=FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)
    operation = replace(find_operation(ledger), unknown_step="create account")

    assert "whether create account was done" in remedy(operation, KINDS)


def test_what_a_person_found_out_is_shown_instead_of_b2copys_refusal(ledger: Ledger) -> None:
    key = fail_operation(ledger, failure_reason=FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)

    operation = resolve(ledger, key, "ann", "not in the panel", succeeded=False)

    text = standing(operation, KINDS, audit=audit_of(ledger, key))
    assert text == "failed (rejected): ann found that it was not done: not in the panel"


def test_a_proposal_does_not_hide_what_a_person_found_out(ledger: Ledger) -> None:
    key = fail_operation(ledger, failure_reason=FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)
    operation = resolve(ledger, key, "ann", "not in the panel", succeeded=False)
    found = "failed (rejected): ann found that it was not done: not in the panel"

    proposal = propose(ledger, "replay", key, "ann", "now do it", operation.change_mark, {})
    proposed = standing(operation, KINDS, audit=audit_of(ledger, key))
    reject(ledger, proposal.id, "bob", "not yet")
    rejected = standing(operation, KINDS, audit=audit_of(ledger, key))
    again = propose(ledger, "replay", key, "ann", "now do it", operation.change_mark, {})
    approve(ledger, again.id, "bob", "yes")
    fail(ledger, claim_one(ledger))
    refused = standing(find_operation(ledger), KINDS, audit=audit_of(ledger, key))

    assert (proposed, rejected) == (found, found)
    assert refused == "failed (rejected): B2COPY refused it"


def test_without_the_audit_a_rejected_operation_may_be_what_a_person_found_out(ledger: Ledger) -> None:
    key = fail_operation(ledger, failure_reason=FailureReason.UNRESOLVED, on_unknown=OnUnknown.STOP)

    operation = resolve(ledger, key, "ann", "not in the panel", succeeded=False)

    either = "failed (rejected): B2COPY refused it, or a person found that it was not done"
    assert standing(operation, KINDS) == either


@pytest.mark.parametrize("lane", ["all", "money"])
def test_a_due_operation_of_a_paused_lane_says_so(lane: str, ledger: Ledger) -> None:
    record_operation(ledger, "queued")
    due, later = waiting_for(ledger, WaitReason.BACKOFF, 0.0), waiting_for(ledger, WaitReason.RATE_LIMITED)
    pause(ledger, lane, "ann", "B2COPY is upgraded")

    texts = [report_on(ledger, one, KINDS).standing for one in (find_operation(ledger, "queued"), due, later)]

    assert [("its lane is paused since" in text and "by ann" in text) for text in texts] == [True, True, False]


def test_an_operation_of_a_paused_import_says_so_before_it_is_put_aside(ledger: Ledger) -> None:
    begin_batch(ledger, "book", kind="fees.process", lane="bulk", source="book.csv", rows=2, by="ann")
    record_operation(ledger, "W1", lane="bulk", batch="book")
    record_operation(ledger, "W2", lane="bulk", batch="book")
    [sent] = claim_due(ledger, limit=1, lane="bulk")
    make_wait(ledger, sent, due_in_s=0.0)

    pause_batch(ledger, "book", "ann", "wrong file?")

    waits = report_on(ledger, find_operation(ledger, "W2" if sent.key.endswith("W1") else "W1"), KINDS)
    goes_on = report_on(ledger, find_operation(ledger, sent.key.rpartition(":")[2]), KINDS)
    assert "its import is paused since" in waits.standing
    assert "by ann: wrong file?" in waits.standing
    assert (document(waits)["paused"] or {})["batch"] == "book"
    assert "paused" not in goes_on.standing, "what was sent is finished"

    sweep(ledger, 5.0)
    aside = report_on(ledger, find_operation(ledger, waits.operation.key.rpartition(":")[2]), KINDS)
    assert document(waits)["due_at"] is not None
    assert document(aside)["due_at"] is None


def test_money_is_moved_by_kinds_and_lanes_and_by_what_nobody_knows() -> None:
    assert moves_money("fees.process", "bulk", KINDS)
    assert not moves_money("call", "default", KINDS)
    assert moves_money("call", "money", KINDS)
    assert moves_money("of.another.version", "default", KINDS)


def test_a_document_has_every_column(ledger: Ledger) -> None:
    fail_operation(ledger)

    exported = document(report_on(ledger, find_operation(ledger), KINDS))

    assert set(Operation.__dataclass_fields__) - {"id"} <= exported.keys()
    assert exported["state"] == State.FAILED
    assert exported["state_since"].endswith("Z")
    assert exported["server_message"] == "no such account"


def test_a_success_does_not_show_an_earlier_error(ledger: Ledger) -> None:
    succeed_after_a_replay(ledger, "no such account")

    assert document(report_on(ledger, find_operation(ledger), KINDS))["server_message"] is None


def test_a_payload_that_only_an_earlier_version_could_use_is_not_said_to_be_unsent(ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=0.0)
    fail(ledger, claim_one(ledger), failure_reason=FailureReason.BAD_PAYLOAD)

    assert remedy(find_operation(ledger), KINDS).startswith("Find out at B2COPY why")
