"""Several actors at once, each with random actions in random order.

`test_random_state_machine` runs one action after the other and knows what each must do. Here the transactions run
concurrently. Then no transaction may fail, no claim is given twice, every move is in the table, and everything ends.
"""

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tests.ledger.test_random_state_machine import illegal_moves, watch_moves
from tests.operations import claim_due, new_operation, succeed
from worker.errors import NotAllowed
from worker.ledger import (
    Ledger,
    cancel,
    find,
    make_due,
    open_ledger,
    poll_now,
    purge,
    record,
    renew_leases,
    replay,
    return_unsent,
    search,
    settle_and_claim,
)
from worker.ledger.operator_actions import stop_asking
from worker.operation import Claim, FailureReason, New, State, Transition, WaitReason

ACTORS = 4
STEPS = int(os.environ.get("LEDGER_EXAMPLES", "120"))
NAMES = [f"{entity}{number}" for entity in "ABC-" for number in range(6)]


class Actor:
    def __init__(self, ledger: Ledger, number: int) -> None:
        self.ledger, self.owner = ledger, f"worker {number}"
        self.random = random.Random(number)
        self.claims: list[Claim] = []
        self.claimed: list[tuple[int, int]] = []

    def act(self) -> None:
        for _ in range(STEPS):
            self.random.choice([self.record, self.work, self.work, self.work, self.return_unsent, self.decide])()

    def record(self) -> None:
        names = self.random.sample(NAMES, 4)
        record(self.ledger, [self.named(name) for name in names], by=self.owner)

    def work(self) -> None:
        transitions = [self.random_transition(one) for one in self.claims]
        lost, self.claims = settle_and_claim(self.ledger, transitions, "money", self.owner, self.random.randint(1, 8))
        assert lost == []
        self.claimed += [(one.id, one.fence) for one in self.claims]
        assert renew_leases(self.ledger, self.owner, self.claims) == {one.id for one in self.claims}

    def return_unsent(self) -> None:
        return_unsent(self.ledger, self.claims)
        self.claims = []

    def decide(self) -> None:
        key = new_operation(self.random.choice(NAMES)).key
        decisions: list[Callable[..., object]] = [
            self.replay, cancel, stop_asking, poll_now, self.make_due, self.purge,
        ]  # fmt: skip
        decision = self.random.choice(decisions)
        with suppress(NotAllowed):
            decision(self.ledger, key, "ada", "random")

    def replay(self, ledger: Ledger, key: str, actor: str, note: str) -> None:
        replay(ledger, [key, new_operation(self.random.choice(NAMES)).key], actor, note)

    def make_due(self, ledger: Ledger, _key: str, _actor: str, _note: str) -> None:
        make_due(ledger, "b2copy", WaitReason.BACKOFF)

    def purge(self, ledger: Ledger, _key: str, _actor: str, _note: str) -> None:
        purge(ledger, -3600, batch=5)

    def random_transition(self, one: Claim) -> Transition:
        return self.random.choice(
            [
                Transition(one, State.SUCCEEDED),
                Transition(one, State.FAILED, failure_reason=FailureReason.REJECTED),
                Transition(
                    one, State.WAITING, wait_reason=WaitReason.BACKOFF, due_in_s=self.random.choice([0.0, 3600.0])
                ),
            ]
        )

    @staticmethod
    def named(name: str) -> New:
        parent = "fees.process:A0" if name in {"B5", "-5"} else None
        return new_operation(name, entity=None if name[0] == "-" else name[0], parent=parent)


def test_concurrent_random_actions_break_nothing(own_ledger_url: str) -> None:
    ledgers = [open_ledger(own_ledger_url) for _ in range(ACTORS)]
    watch_moves(ledgers[0])
    actors = [Actor(ledger, number) for number, ledger in enumerate(ledgers)]

    with ThreadPoolExecutor(ACTORS) as threads:
        for finished in [threads.submit(actor.act) for actor in actors]:
            finished.result()

    claimed = [claim for actor in actors for claim in actor.claimed]
    assert len(claimed) == len(set(claimed)) > STEPS // 2
    assert illegal_moves(ledgers[0]) == []
    for actor in actors:
        actor.return_unsent()
    drain(ledgers[0])
    for ledger in ledgers:
        ledger.close()


def drain(ledger: Ledger) -> None:
    """Everything that is open ends when nothing interferes."""
    parent = "fees.process:A0"
    record(ledger, [Actor.named("A0")], by="the end")
    replay(ledger, [parent], "the end", "the parents first")
    if (found := find(ledger, parent)) and found.state == State.CANCELLED:  # what waits for it is a person's to cancel
        for child in search(ledger):
            if child.parent == parent and child.due_at is not None:
                cancel(ledger, child.key, "the end", "its parent was cancelled")
    for reason in WaitReason:
        make_due(ledger, "b2copy", reason)
    while claims := claim_due(ledger):
        succeed(ledger, *claims)
    assert [one.key for one in search(ledger) if one.due_at is not None] == []
