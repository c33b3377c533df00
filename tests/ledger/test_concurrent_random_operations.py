"""Several processes' worth of actors at once, each doing whatever comes to its mind.

The machine of `test_machine` knows what must happen, one actor after the other; here transactions really cross. What
must hold then: nobody's transaction fails, no claim is given twice, no move escapes the table, everything ends.
"""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tests.operations import claim_due, new_operation, succeed
from tests.ledger.test_random_state_machine import illegal_moves, watch
from worker.errors import NotAllowed
from worker.ledger import (
    Ledger,
    cancel,
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
    stop_asking,
)
from worker.operation import Claim, FailureReason, New, State, Transition, WaitReason

ACTORS = 4
STEPS = int(os.environ.get("LEDGER_EXAMPLES", "120"))
NAMES = [f"{entity}{number}" for entity in "ABC-" for number in range(6)]


class Actor:
    def __init__(self, ledger: Ledger, number: int) -> None:
        self.ledger, self.owner = ledger, f"worker {number}"
        self.chance = random.Random(number)
        self.held: list[Claim] = []
        self.claimed: list[tuple[int, int]] = []

    def act(self) -> None:
        for _ in range(STEPS):
            self.chance.choice([self.record, self.work, self.work, self.work, self.give_back, self.decide])()

    def record(self) -> None:
        names = self.chance.sample(NAMES, 4)
        record(self.ledger, [self.named(name) for name in names], by=self.owner)

    def work(self) -> None:
        transitions = [self.transition(one) for one in self.held]
        lost, self.held = settle_and_claim(self.ledger, transitions, "money", self.owner, self.chance.randint(1, 8))
        assert lost == []
        self.claimed += [(one.id, one.fence) for one in self.held]
        assert renew_leases(self.ledger, self.owner, self.held) == {one.id for one in self.held}

    def give_back(self) -> None:
        return_unsent(self.ledger, self.held)
        self.held = []

    def decide(self) -> None:
        key = new_operation(self.chance.choice(NAMES)).key
        decision = self.chance.choice([self.replay, cancel, stop_asking, self.refresh, self.release, self.purge])
        with suppress(NotAllowed):
            decision(self.ledger, key, "ada", "a storm")

    def replay(self, ledger: Ledger, key: str, who: str, why: str) -> None:
        replay(ledger, [key, new_operation(self.chance.choice(NAMES)).key], who, why)

    def poll_now(self, ledger: Ledger, key: str, _who: str, _why: str) -> None:
        poll_now(ledger, key)

    def make_due(self, ledger: Ledger, _key: str, _who: str, _why: str) -> None:
        make_due(ledger, WaitReason.BACKOFF)

    def purge(self, ledger: Ledger, _key: str, _who: str, _why: str) -> None:
        purge(ledger, -3600, batch=5)

    def transition(self, one: Claim) -> Transition:
        return self.chance.choice(
            [
                Transition(one, State.SUCCEEDED),
                Transition(one, State.FAILED, failure_reason=FailureReason.REJECTED),
                Transition(
                    one, State.WAITING, wait_reason=WaitReason.BACKOFF, due_in_s=self.chance.choice([0.0, 3600.0])
                ),
            ]
        )

    @staticmethod
    def named(name: str) -> New:
        parent = "fees.process:A0" if name in {"B5", "-5"} else None
        return new_operation(name, entity=None if name[0] == "-" else name[0], parent=parent)


def test_actors_at_once_break_nothing(own_ledger_url: str) -> None:
    ledgers = [open_ledger(own_ledger_url) for _ in range(ACTORS)]
    watch(ledgers[0])
    actors = [Actor(ledger, number) for number, ledger in enumerate(ledgers)]

    with ThreadPoolExecutor(ACTORS) as threads:
        for done in [threads.submit(actor.act) for actor in actors]:
            done.result()

    claimed = [claim for actor in actors for claim in actor.claimed]
    assert len(claimed) == len(set(claimed)) > STEPS // 2
    assert illegal_moves(ledgers[0]) == []
    for actor in actors:
        actor.give_back()
    drain(ledgers[0])
    for ledger in ledgers:
        ledger.close()


def drain(ledger: Ledger) -> None:
    """Everything that is open comes to its end, once nobody interferes."""
    record(ledger, [Actor.named("A0")], by="the end")
    replay(ledger, ["fees.process:A0"], "the end", "parents first")
    for why in WaitReason:
        make_due(ledger, why)
    while held := claim_due(ledger):
        succeed(ledger, *held)
    assert [one.key for one in search(ledger) if one.due_at is not None] == []
