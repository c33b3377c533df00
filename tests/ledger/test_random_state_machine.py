"""Random interleavings of everything that anybody can do to the ledger, against a model that a page can hold.

A trigger in the database notes every state that is ever written, so that no move escapes the comparison with the table.
`LEDGER_EXAMPLES` asks for more than the runs of every day.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from tests.operations import new_operation
from worker.errors import NotAllowed
from worker.ledger import (
    Ledger,
    cancel,
    claim,
    make_due,
    open_ledger,
    poll_now,
    purge,
    record,
    renew_leases,
    replay,
    return_unsent,
    settle,
    settle_and_claim,
    stop_asking,
)
from worker.operation import FINAL, Claim, FailureReason, New, State, Transition, WaitReason, may_follow

EXAMPLES = {"sqlite": 60, "postgresql": 25}
MORE = os.environ.get("LEDGER_EXAMPLES")
NAMES = [f"{entity}{number}" for entity in ("A", "B", "-") for number in range(4)] + ["child"]
OWNERS = ["worker 1", "worker 2", "worker 3"]
Thing = TypeVar("Thing")
OPEN = {State.QUEUED, State.RUNNING, State.WAITING}

WATCH = {
    "sqlite": [
        "CREATE TABLE moves (before TEXT, after TEXT, UNIQUE (before, after))",
        """CREATE TRIGGER watch_made AFTER INSERT ON b2copy_operations
           BEGIN INSERT OR IGNORE INTO moves VALUES ('', NEW.state); END""",
        """CREATE TRIGGER watch_moved AFTER UPDATE OF state ON b2copy_operations
           BEGIN INSERT OR IGNORE INTO moves VALUES (OLD.state, NEW.state); END""",
    ],
    "postgresql": [
        "CREATE TABLE moves (before TEXT, after TEXT, UNIQUE (before, after))",
        """CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO moves VALUES (CASE WHEN TG_OP = 'UPDATE' THEN OLD.state ELSE '' END, NEW.state)
           ON CONFLICT DO NOTHING; RETURN NEW; END $$""",
        "CREATE TRIGGER watch_made AFTER INSERT ON b2copy_operations FOR EACH ROW EXECUTE FUNCTION watch()",
        """CREATE TRIGGER watch_moved AFTER UPDATE OF state ON b2copy_operations
           FOR EACH ROW EXECUTE FUNCTION watch()""",
    ],
}


def watch(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        for statement in WATCH[ledger.engine.dialect.name]:
            connection.execute(text(statement))


def illegal_moves(ledger: Ledger) -> list[tuple[str, str]]:
    with ledger.reading() as connection:
        moves = connection.execute(text("SELECT before, after FROM moves")).all()
    return [(b, a) for b, a in moves if not may_follow(State(b) if b else None, State(a))]


@dataclass
class Known:
    """What the model knows of one operation."""

    place: int
    entity: str | None = None
    parent: str | None = None
    state: State = State.QUEUED
    due: bool = True  # may be claimed, as far as time goes
    why: WaitReason | None = None
    holder: Claim | None = None
    sent: bool = False
    unknown: bool = False


class Machine(RuleBasedStateMachine):
    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Known] = {}
        self.claims: list[Claim] = []  # every claim ever given, lost ones too
        self.places = 0

    @initialize()
    def begin(self) -> None:
        with self.ledger.writing() as connection:
            connection.execute(text("DELETE FROM b2copy_operations"))
        self.enqueue(["A0", "A1", "-0", "child"])
        self.claim("worker 1", 2)

    # what the engine does

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    def enqueue(self, names: list[str]) -> None:
        recorded = record(self.ledger, [self.named(name) for name in names], by="a test")

        for name, one in zip(names, recorded, strict=True):
            assert one.created == (one.key not in self.known)
            if one.created:
                asked = self.named(name)
                self.known[one.key] = Known(self.next_place(), asked.entity, asked.parent)
            assert one.state == self.known[one.key].state

    @rule(owner=st.sampled_from(OWNERS), limit=st.sampled_from([1, 2, 50]))
    def claim(self, owner: str, limit: int) -> None:
        self.claimed(claim(self.ledger, "money", owner, limit), limit)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew_leases(self, data: st.DataObject) -> None:
        one = self.one_of(data, self.claims)

        held = renew_leases(self.ledger, one.lease_owner, [one])

        assert held == ({one.id} if self.holds(one) else set())
        if held:
            self.known[one.key].due = False

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        transitions = self.transitions(data)

        lost = settle(self.ledger, transitions)

        self.settled(transitions, lost)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS))
    def settle_and_claim(self, data: st.DataObject, owner: str) -> None:
        transitions = self.transitions(data)

        lost, claimed = settle_and_claim(self.ledger, transitions, "money", owner, 50)

        self.settled(transitions, lost)
        self.claimed(claimed, 50)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def return_unsent(self, data: st.DataObject) -> None:
        one = self.one_of(data, self.claims)

        return_unsent(self.ledger, [one])

        if self.holds(one):
            known = self.known[one.key]
            known.state = State.QUEUED if one.was == State.QUEUED else State.WAITING
            known.wait_reason = WaitReason.BACKOFF if one.was == State.RUNNING else one.wait_reason
            known.due, known.holder, known.sent, known.outcome_unknown = True, None, one.sent, one.outcome_unknown

    # what time does

    @rule(state=st.sampled_from([State.RUNNING, State.WAITING]))
    def time_passes(self, state: State) -> None:
        """LeaseRenewal lapse, or waits end."""
        with self.ledger.writing() as connection:
            connection.execute(text(f"UPDATE b2copy_operations SET due_at = 1 WHERE state = '{state}'"))
        for known in self.known.values():
            known.due = known.due or known.state == state

    # what people do

    @rule(name=st.sampled_from(NAMES), not_done=st.booleans())
    def replay(self, name: str, not_done: bool) -> None:
        key = self.named(name).key
        known = self.known.get(key)

        replayed = replay(self.ledger, [key], "ada", "again", not_done)

        allowed = known and known.state == State.FAILED and (not_done or not known.outcome_unknown)
        assert replayed == ([key] if allowed else [])
        if replayed and known:
            known.outcome_unknown = known.outcome_unknown and not not_done
            known.state, known.due, known.place = State.QUEUED, True, self.next_place()

    @rule(name=st.sampled_from(NAMES))
    def cancel(self, name: str) -> None:
        self.ended_by_people(name, cancel, State.CANCELLED, sent=False)

    @rule(name=st.sampled_from(NAMES))
    def stop_asking(self, name: str) -> None:
        self.ended_by_people(name, stop_asking, State.FAILED, sent=True)

    def ended_by_people(self, name: str, decide: Callable[..., object], state: State, *, sent: bool) -> None:
        key = self.named(name).key
        known = self.known.get(key)
        allowed = known is not None and known.state in {State.QUEUED, State.WAITING} and known.sent == sent
        try:
            decide(self.ledger, key, "ada", "enough")
        except NotAllowed:
            assert not allowed
            return
        assert allowed
        assert known
        self.end(key, state)
        known.outcome_unknown = sent

    @rule(name=st.sampled_from(NAMES))
    def poll_now(self, name: str) -> None:
        key = self.named(name).key
        waits = key in self.known and self.known[key].state == State.WAITING

        assert poll_now(self.ledger, key) == waits

        if waits:
            self.known[key].due = True

    @rule()
    def breaker_closes(self) -> None:
        make_due(self.ledger, WaitReason.BACKOFF)

        for known in self.known.values():
            known.due = known.due or (known.state == State.WAITING and known.wait_reason == WaitReason.BACKOFF)

    @rule()
    def purge(self) -> None:
        gone = [key for key, known in self.known.items() if known.state in FINAL]

        assert purge(self.ledger, -3600, batch=3) == len(gone)

        for key in gone:
            del self.known[key]
        self.claims = [one for one in self.claims if one.key not in gone]

    # what must be true

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        with self.ledger.reading() as connection:
            rows = connection.execute(text("SELECT key, state, owner, sent, unknown FROM b2copy_operations")).all()
        told = {row.key: (row.state, row.lease_owner, bool(row.sent), bool(row.outcome_unknown)) for row in rows}
        assert told == {
            key: (known.state, known.holder and known.holder.owner, known.sent, known.outcome_unknown)
            for key, known in self.known.items()
        }

    @invariant()
    def an_entity_is_held_once(self) -> None:
        held = [known.entity for known in self.known.values() if known.state == State.RUNNING and known.entity]
        assert len(held) == len(set(held))

    @invariant()
    def no_move_is_made_that_the_table_lacks(self) -> None:
        assert illegal_moves(self.ledger) == []

    # the model

    def named(self, name: str) -> New:
        entity = name[0] if name[0] in "AB" else None
        return new_operation(name, entity=entity, parent="fees.process:-0" if name == "child" else None)

    def next_place(self) -> int:
        self.places += 1
        return self.places

    def holds(self, one: Claim) -> bool:
        return one.key in self.known and self.known[one.key].holder is one

    def may_go(self, key: str) -> bool:
        known = self.known[key]
        if not known.due or known.state in FINAL:
            return False
        if known.state == State.RUNNING:  # its lease has lapsed
            return True
        parent = self.known.get(known.parent) if known.parent else None
        if known.parent and (parent is None or parent.state != State.SUCCEEDED):
            return False
        line = [one for one in self.known.values() if one is not known and known.entity and one.entity == known.entity]
        return not any(one.state in OPEN and (one.place < known.place or one.holder) for one in line)

    def claimed(self, claims: list[Claim], limit: int) -> None:
        free = {key for key in self.known if self.may_go(key)}
        taken = [one.key for one in claims]
        assert len(taken) == len(set(taken)) == min(limit, len(free))
        assert set(taken) <= free
        for one in claims:
            known = self.known[one.key]
            lapsed = known.state == State.RUNNING
            assert (one.sent, one.outcome_unknown) == (known.sent, known.outcome_unknown or lapsed)
            known.state, known.holder, known.due = State.RUNNING, one, False
            known.sent, known.outcome_unknown = True, one.outcome_unknown
        self.claims += claims
        self.learn_who_was_parked(free)

    def learn_who_was_parked(self, free: set[str]) -> None:
        """A claim parks who may not go and is in its way; those beyond its limit it need not have met."""
        with self.ledger.reading() as connection:
            parked = text("SELECT key, why, due_at FROM b2copy_operations WHERE why LIKE 'behind%'")
            for key, why, due_at in connection.execute(parked):
                if due_at > time.time() * 1000:
                    assert key not in free
                    known = self.known[key]
                    known.state, known.wait_reason, known.due = State.WAITING, WaitReason(why), False

    def transitions(self, data: st.DataObject) -> list[Transition]:
        several = {one.key: one for _ in range(3) for one in [self.one_of(data, self.claims)]}
        return [self.one_of(data, self.possible(one)) for one in several.values()]

    def one_of(self, data: st.DataObject, things: list[Thing]) -> Thing:
        # The newest first: that is what a failing example shrinks to. Only numbers are drawn, which is fast.
        return things[-1 - data.draw(st.integers(0, len(things) - 1))]

    def possible(self, one: Claim) -> list[Transition]:
        return [
            Transition(one, State.SUCCEEDED),
            Transition(one, State.FAILED, failure_reason=FailureReason.REJECTED),
            Transition(one, State.FAILED, failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True),
            Transition(one, State.WAITING, wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=3600),
            Transition(one, State.WAITING, wait_reason=WaitReason.BACKOFF, due_in_s=3600, outcome_unknown=True),
            Transition(one, State.WAITING, wait_reason=WaitReason.NO_SESSION, due_in_s=3600, sent=False),
        ]

    def settled(self, transitions: list[Transition], lost: list[Claim]) -> None:
        assert lost == [transition.claim for transition in transitions if not self.holds(transition.claim)]
        for transition in transitions:
            if not self.holds(transition.claim):
                continue
            known, before = self.known[transition.claim.key], transition.claim
            known.sent = before.sent or transition.sent
            says_nothing = (
                transition.wait_reason in {WaitReason.BACKOFF, WaitReason.NO_SESSION}
                or transition.failure_reason == FailureReason.UNRESOLVED
            )
            known.outcome_unknown = transition.outcome_unknown or (before.outcome_unknown and says_nothing)
            if transition.state in FINAL:
                self.end(transition.claim.key, transition.state)
            else:
                known.state, known.wait_reason, known.holder, known.due = (
                    State.WAITING,
                    transition.wait_reason,
                    None,
                    False,
                )

    def end(self, key: str, state: State) -> None:
        """Whoever was waiting for this one is due at once."""
        ended = self.known[key]
        ended.state, ended.holder, ended.due = state, None, False
        waiting = {State.QUEUED, State.WAITING}
        line = [one for one in self.known.values() if one.entity == ended.entity and one.state in waiting]
        if ended.entity and line:
            min(line, key=lambda one: one.place).due = True
        for one in self.known.values():
            if state == State.SUCCEEDED and one.parent == key and one.state in {State.QUEUED, State.WAITING}:
                one.due = True


def run(ledger: Ledger) -> None:
    watch(ledger)
    machine = type("LedgerMachine", (Machine,), {"ledger": ledger})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(MORE or EXAMPLES[ledger.engine.dialect.name]),
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            database=None,
            derandomize=MORE is None,  # every day the same runs; whoever asks for more gets new ones
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_ledger_does_what_its_model_does(own_ledger_url: str) -> None:
    ledger = open_ledger(own_ledger_url)
    run(ledger)
    ledger.close()
