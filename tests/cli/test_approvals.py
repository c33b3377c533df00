"""Four eyes on the command line: the same rule as in the console."""

from tests.cli.conftest import Command
from tests.operations import fail_operation, find_operation
from worker.ledger import Ledger
from worker.operation import State


def test_money_is_proposed_and_another_person_approves_it(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    four_eyes = {"B2COPY_FOUR_EYES": "money"}

    proposed = b2copy_sync("failed", "replay", "W1", "--yes", "--why", "it is open again", "--by", "ann", **four_eyes)
    assert proposed.code == 0
    assert "1 operation proposed as A1" in proposed.out
    assert find_operation(ledger).state == State.FAILED

    own = b2copy_sync("approvals", "approve", "A1", "--why", "fine", "--by", "Ann", **four_eyes)
    assert own.code == 1
    assert "another person must approve it" in own.err
    approved = b2copy_sync("approvals", "approve", "A1", "--why", "fine", "--by", "bob", **four_eyes)

    assert (approved.code, approved.out) == (0, "A1 approved: replay fees.process:W1\n")
    assert find_operation(ledger).state == State.QUEUED


def test_the_open_proposals_are_listed_and_one_is_rejected(b2copy_sync: Command, ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    why = ("--why", "it was done, I saw it", "--by", "ann")

    proposed = b2copy_sync("failed", "resolve", "W1", "--succeeded", "--json", *why, B2COPY_FOUR_EYES="all")
    listed = b2copy_sync("approvals", "list", "--json").document["approvals"]
    rejected = b2copy_sync("approvals", "reject", "a1", "--why", "it was not", "--by", "bob")

    assert proposed.document["proposed"]["name"] == "A1"
    assert [(one["name"], one["action"], one["proposed_by"]) for one in listed] == [("A1", "resolve", "ann")]
    assert rejected.out == "A1 rejected\n"
    assert find_operation(ledger).state == State.FAILED
