"""Random sequences of everything that can be done to the ledger, compared with a small model.

A trigger in the database notes every change of state, so that each one is compared with the table of moves.
`LEDGER_EXAMPLES` sets the number of sequences; without it the same few run every time.
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
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

from tests.operations import claim, new_operation
from worker.errors import NotAllowed
from worker.ledger import (
    Ledger,
    cancel,
    make_due,
    open_ledger,
    ordering,
    poll_now,
    purge,
    record,
    renew_leases,
    replay,
    return_unsent,
    settle,
    settle_and_claim,
    sweep,
)
from worker.ledger.batches import (
    CANCELLED,
    PAUSED,
    batch_counts,
    beyond_recall,
    cancel_batch,
    pause_batch,
    resume_batch,
)
from worker.ledger.operator_actions import resolve, stop_asking
from worker.ledger.schema import HELD_MS
from worker.operation import FINAL, MOVES, Claim, FailureReason, New, OnUnknown, State, Transition, WaitReason

EXAMPLES = {"sqlite": 60, "postgresql": 18}
MORE = os.environ.get("LEDGER_EXAMPLES")
NAMES = [f"{entity}{number}" for entity in ("A", "B", "-") for number in range(4)] + ["child"]
BATCHES = {"2": "two", "3": "three", "child": "three"}  # of the names that end so
OWNERS = ["worker 1", "worker 2", "worker 3"]
Item = TypeVar("Item")
OPEN = {State.QUEUED, State.RUNNING, State.WAITING}

TRIGGERS = {
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


def watch_moves(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        for statement in TRIGGERS[ledger.engine.dialect.name]:
            connection.execute(text(statement))


def illegal_moves(ledger: Ledger) -> list[tuple[str, str]]:
    with ledger.reading() as connection:
        moves = connection.execute(text("SELECT before, after FROM moves")).all()
    return [(before, after) for before, after in moves if not _is_in_table(before, after)]


def _is_in_table(before: str, after: str) -> bool:
    """Return whether some move leads from `before` (empty: the operation did not exist) to `after`."""
    return any(
        State(after) in move.after and (State(before) in move.before if before else not move.before)
        for move in MOVES.values()
    )


@dataclass
class Modelled:
    """What the model holds about one operation."""

    position: int
    entity: str | None = None
    parent: str | None = None
    batch: str | None = None
    aside: bool = False  # put aside, because its batch is paused or cancelled
    state: State = State.QUEUED
    due: bool = True  # its `due_at` has passed
    wait_reason: str | None = None
    holder: Claim | None = None
    sent: bool = False
    outcome_unknown: bool = False
    unresolved: bool = False  # failed with this reason
    replays: int = 0
    fence: int = 0
    lapsed: list[int] = field(default_factory=list)  # the fences of claims whose lease lapsed


class Machine(RuleBasedStateMachine):
    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.operations: dict[str, Modelled] = {}
        self.claims: list[Claim] = []  # every claim ever given, also those whose lease was lost
        self.positions = 0
        self.stopped: set[str] = set()  # keys about which a person stopped asking
        self.decisions: dict[str, str | None] = {}  # the last one about each batch

    @initialize()
    def begin(self) -> None:
        with self.ledger.writing() as connection:
            connection.execute(text("DELETE FROM b2copy_operations"))
            connection.execute(text("DELETE FROM b2copy_audit"))
            connection.execute(text("DELETE FROM b2copy_batches"))
        self.enqueue(["-3", "A0", "A1", "A2", "-0", "child"])
        self.claim("worker 1", 2)
        self.decide_about_a_batch("two", PAUSED, 5.0)

    # what the engine does

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    def enqueue(self, names: list[str]) -> None:
        news = [self.named(name) for name in names]
        new = {one.batch for one in news if one.key not in self.operations}
        try:
            recorded = record(self.ledger, news, by="a test")
        except NotAllowed:
            assert any(batch is not None and self.decisions.get(batch) == CANCELLED for batch in new)
            return

        assert not any(batch is not None and self.decisions.get(batch) == CANCELLED for batch in new)
        for name, one in zip(names, recorded, strict=True):
            assert one.created == (one.key not in self.operations)
            if one.created:
                asked = self.named(name)
                self.operations[one.key] = Modelled(self.next_position(), asked.entity, asked.parent, asked.batch)
            assert one.state == self.operations[one.key].state

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
            self.operations[one.key].due = False

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
            modelled = self.operations[one.key]
            modelled.state = State.QUEUED if one.previous_state == State.QUEUED else State.WAITING
            modelled.wait_reason = WaitReason.BACKOFF if one.previous_state == State.RUNNING else one.wait_reason
            modelled.due, modelled.holder, modelled.sent, modelled.outcome_unknown = (
                True,
                None,
                one.sent,
                one.outcome_unknown,
            )

    # what time does

    @rule(state=st.sampled_from([State.RUNNING, State.WAITING]))
    def time_passes(self, state: State) -> None:
        """Leases lapse, or waits end."""
        with self.ledger.writing() as connection:
            late = text(f"UPDATE b2copy_operations SET due_at = id WHERE state = '{state}' AND due_at < {HELD_MS}")
            connection.execute(late)
        for modelled in self.operations.values():
            modelled.due = modelled.due or (modelled.state == state and not modelled.aside)

    @rule(time_s=st.sampled_from([0.0, 5.0]))
    def sweep(self, time_s: float) -> None:
        """Operations obey the decisions about their batches. In no time each batch has one chunk moved: all it has."""
        ended_before = {key for key, modelled in self.operations.items() if modelled.state in FINAL}
        resumed = text("SELECT id FROM b2copy_batches WHERE swept_to IS NOT NULL AND decision IS NULL")
        with self.ledger.reading() as connection:
            resumed_batches = set(connection.execute(resumed).scalars())
        for modelled in self.operations.values():
            is_parked = modelled.wait_reason is not None and modelled.wait_reason.startswith("behind")
            if modelled.batch in resumed_batches and modelled.state == State.WAITING and is_parked:
                modelled.due = modelled.due or not (modelled.sent or modelled.aside)

        sweep(self.ledger, time_s)

        with self.ledger.reading() as connection:
            ended = connection.execute(text("SELECT key FROM b2copy_operations WHERE state = 'cancelled'")).scalars()
            cancelled = set(ended) - ended_before
        for key in cancelled:
            modelled = self.operations[key]
            assert self.is_held(modelled)
            assert self.decisions[str(modelled.batch)] == CANCELLED
            self.end(key, State.CANCELLED)
        self.read_aside()

    @rule(owner=st.sampled_from(OWNERS))
    def dispatch(self, owner: str) -> None:
        """A cancelled batch is at its end once what waits was due and a sweep followed, wherever sweeps were before."""
        self.time_passes(State.WAITING)
        self.claim(owner, 50)
        self.sweep(5.0)

        for modelled in self.operations.values():
            if self.is_held(modelled) and self.decisions[str(modelled.batch)] == CANCELLED:
                assert modelled.state in FINAL
        counts = batch_counts(self.ledger, self.decisions)
        for batch in self.decisions:
            states = Counter(modelled.state for modelled in self.operations.values() if modelled.batch == batch)
            assert counts[batch].states == states

    # what people do

    @rule(name=st.sampled_from(NAMES), not_done=st.booleans())
    def replay(self, name: str, not_done: bool) -> None:
        key = self.named(name).key
        modelled = self.operations.get(key)

        replayed = replay(self.ledger, [key], "ada", "again", not_done)

        allowed = modelled and modelled.state == State.FAILED and (not_done or not modelled.outcome_unknown)
        assert replayed == ([key] if allowed else [])
        if replayed and modelled:
            modelled.outcome_unknown = modelled.outcome_unknown and not not_done
            modelled.state, modelled.due, modelled.position = State.QUEUED, True, self.next_position()
            modelled.replays += 1
            if not modelled.sent and modelled.batch is not None and self.decisions.get(modelled.batch) == CANCELLED:
                modelled.batch = None

    @rule(name=st.sampled_from(NAMES))
    def cancel(self, name: str) -> None:
        self.ended_by_people(name, cancel, State.CANCELLED, sent=False)

    @rule(name=st.sampled_from(NAMES))
    def stop_asking(self, name: str) -> None:
        self.ended_by_people(name, stop_asking, State.FAILED, sent=True)

    @rule(name=st.sampled_from(NAMES), succeeded=st.booleans())
    def resolve(self, name: str, succeeded: bool) -> None:
        key = self.named(name).key
        modelled = self.operations.get(key)
        allowed = modelled is not None and modelled.state == State.FAILED
        try:
            resolve(self.ledger, key, "ada", "asked B2COPY", succeeded=succeeded)
        except NotAllowed:
            assert not allowed
            return
        assert allowed
        assert modelled
        self.end(key, State.SUCCEEDED if succeeded else State.FAILED)
        modelled.outcome_unknown = modelled.unresolved = False

    def ended_by_people(self, name: str, decide: Callable[..., object], state: State, *, sent: bool) -> None:
        key = self.named(name).key
        modelled = self.operations.get(key)
        allowed = modelled is not None and modelled.state in {State.QUEUED, State.WAITING} and modelled.sent == sent
        try:
            decide(self.ledger, key, "ada", "enough")
        except NotAllowed:
            assert not allowed
            return
        assert allowed
        assert modelled
        self.end(key, state)
        modelled.outcome_unknown = modelled.unresolved = sent
        if sent:
            self.stopped.add(key)

    @rule(name=st.sampled_from(NAMES))
    def poll_now(self, name: str) -> None:
        key = self.named(name).key
        modelled = self.operations.get(key)
        waits = modelled is not None and modelled.state == State.WAITING and not modelled.aside

        assert poll_now(self.ledger, key, "ann") == waits

        if waits:
            self.operations[key].due = True

    @rule()
    def circuit_closes(self) -> None:
        make_due(self.ledger, "b2copy", WaitReason.BACKOFF)

        for modelled in self.operations.values():
            modelled.due = modelled.due or (
                modelled.state == State.WAITING and modelled.wait_reason == WaitReason.BACKOFF and not modelled.aside
            )

    @rule(
        batch=st.sampled_from(sorted(set(BATCHES.values()))),
        decision=st.sampled_from([PAUSED, None, CANCELLED]),
        time_s=st.sampled_from([None, 0.0, 5.0]),
    )
    def decide_about_a_batch(self, batch: str, decision: str | None, time_s: float | None) -> None:
        """Pause, resume or cancel a batch, and sweep it or leave that to a later step."""
        exists = batch in self.decisions or any(one.batch == batch for one in self.operations.values())
        allowed = exists and self.decisions.get(batch) not in {CANCELLED, decision}
        decide: Callable[..., object] = {PAUSED: pause_batch, None: resume_batch, CANCELLED: cancel_batch}[decision]
        try:
            decide(self.ledger, batch, "ada", "enough")
        except NotAllowed:
            assert not allowed
            return
        assert allowed
        self.decisions[batch] = decision
        sent = [one.sent for one in self.operations.values() if one.batch == batch and one.state in OPEN]
        assert beyond_recall(self.ledger, batch) == sum(sent)
        if time_s is not None:
            self.sweep(time_s)

    @rule()
    def purge(self) -> None:
        waited_for = {one.parent for one in self.operations.values() if one.state in OPEN}
        gone = [key for key, one in self.operations.items() if one.state in FINAL and key not in waited_for]

        # A failed child keeps its parent that succeeded, unless an earlier transaction of this purge has removed it.
        needed = {one.parent for one in self.operations.values() if one.state == State.FAILED and one.parent}
        may_stay = {key for key in gone if key in needed and self.operations[key].state == State.SUCCEEDED}

        number = purge(self.ledger, -3600, batch=3, undecided=True)

        with self.ledger.reading() as connection:
            left = set(connection.execute(text("SELECT key FROM b2copy_operations")).scalars())
        assert left - may_stay == self.operations.keys() - set(gone)
        gone = [key for key in gone if key not in left]
        assert number == len(gone)
        for key in gone:
            del self.operations[key]
        self.claims = [one for one in self.claims if one.key not in gone]

    # what must be true

    @invariant()
    def the_ledger_equals_the_model(self) -> None:
        with self.ledger.reading() as connection:
            rows = connection.execute(
                text("SELECT key, state, lease_owner, sent, outcome_unknown, due_at FROM b2copy_operations")
            ).all()
        stored = {
            row.key: (
                row.state,
                row.lease_owner,
                bool(row.sent),
                bool(row.outcome_unknown),
                row.due_at is not None and row.due_at >= HELD_MS,
            )
            for row in rows
        }
        assert stored == {
            key: (
                modelled.state,
                modelled.holder and modelled.holder.lease_owner,
                modelled.sent,
                modelled.outcome_unknown,
                modelled.aside,
            )
            for key, modelled in self.operations.items()
        }

    @invariant()
    def what_is_due_is_claimed_in_one_order(self) -> None:
        """No invariant: of several rows that are due since the same instant, PostgreSQL returns any one first."""
        due = f"UPDATE b2copy_operations SET due_at = id WHERE due_at <= {round(time.time() * 1000)} AND due_at <> id"
        with self.ledger.writing() as connection:
            connection.execute(text(due))

    @invariant()
    def one_operation_of_an_entity_is_running(self) -> None:
        held = [
            modelled.entity
            for modelled in self.operations.values()
            if modelled.state == State.RUNNING and modelled.entity
        ]
        assert len(held) == len(set(held))

    @invariant()
    def what_is_put_aside_is_paused_or_will_be_swept(self) -> None:
        if not any(modelled.aside for modelled in self.operations.values()):
            return
        lost = text(
            "SELECT o.key FROM b2copy_operations o LEFT JOIN b2copy_batches b ON b.id = o.batch"
            f" WHERE o.due_at >= {HELD_MS} AND coalesce(b.decision, '') <> '{PAUSED}'"
            " AND coalesce(b.swept_to, o.id) >= o.id"
        )
        with self.ledger.reading() as connection:
            assert connection.execute(lost).all() == []

    @invariant()
    def every_move_is_in_the_table(self) -> None:
        assert illegal_moves(self.ledger) == []

    # the model

    def named(self, name: str) -> New:
        entity = name[0] if name[0] in "AB" else None
        return new_operation(
            name,
            on_unknown=OnUnknown.STOP,
            entity=entity,
            parent="fees.process:-0" if name == "child" else None,
            batch=BATCHES.get(name.lstrip("AB-")),
        )

    def next_position(self) -> int:
        self.positions += 1
        return self.positions

    def holds(self, one: Claim) -> bool:
        return one.key in self.operations and self.operations[one.key].holder is one

    def may_be_claimed(self, key: str) -> bool:
        modelled = self.operations[key]
        if not modelled.due or modelled.state in FINAL:
            return False
        if modelled.state == State.RUNNING:  # its lease has lapsed
            return True
        if modelled.aside or self.is_held(modelled):
            return False
        parent = self.operations.get(modelled.parent) if modelled.parent else None
        if modelled.parent and (parent is None or parent.state != State.SUCCEEDED):
            return False
        line = [
            one
            for one in self.operations.values()
            if one is not modelled and modelled.entity and one.entity == modelled.entity
        ]
        return not any(
            one.state in OPEN and not self.is_held(one) and (one.position < modelled.position or one.holder)
            for one in line
        )

    def is_held(self, modelled: Modelled) -> bool:
        """Return whether it must not start, because its batch is paused or cancelled."""
        return (
            modelled.state in OPEN
            and not modelled.sent
            and modelled.batch is not None
            and self.decisions.get(modelled.batch) is not None
        )

    def claimed(self, claims: list[Claim], limit: int) -> None:
        free_before = {key for key in self.operations if self.may_be_claimed(key)}
        self.read_aside()  # a claim looks again if it has put all aside that it met, and may find what that released
        free = {key for key in self.operations if self.may_be_claimed(key)}
        keys = [one.key for one in claims]
        assert len(keys) == len(set(keys))
        assert min(limit, len(free_before)) <= len(keys) <= min(limit, len(free))
        assert set(keys) <= free
        for one in claims:
            modelled = self.operations[one.key]
            lapsed = modelled.state == State.RUNNING
            assert (one.sent, one.outcome_unknown) == (modelled.sent, modelled.outcome_unknown or lapsed)
            if lapsed:
                modelled.lapsed.append(modelled.fence)
            modelled.fence = one.fence
            modelled.state, modelled.holder, modelled.due = State.RUNNING, one, False
            modelled.sent, modelled.outcome_unknown = True, one.outcome_unknown
        self.claims += sorted(claims)
        self.read_parked(free)

    def read_parked(self, free: set[str]) -> None:
        """Read which operations a claim parked. It examines no more than it needs, which the model does not predict."""
        with self.ledger.reading() as connection:
            parked = text("SELECT key, wait_reason, due_at FROM b2copy_operations WHERE wait_reason LIKE 'behind%'")
            for key, wait_reason, due_at in connection.execute(parked):
                if due_at > time.time() * 1000:
                    assert key not in free
                    modelled = self.operations[key]
                    modelled.state, modelled.wait_reason, modelled.due = State.WAITING, WaitReason(wait_reason), False

    def read_aside(self) -> None:
        """Read what is put aside: a claim puts aside what it meets, which the model does not predict."""
        with self.ledger.reading() as connection:
            aside = set(
                connection.execute(text(f"SELECT key FROM b2copy_operations WHERE due_at >= {HELD_MS}")).scalars()
            )
        put_aside: list[Modelled] = []
        for key, modelled in self.operations.items():
            if key in aside and not modelled.aside:
                assert self.is_held(modelled)
                put_aside.append(modelled)
            if modelled.aside and key not in aside:
                assert not self.is_held(modelled)
                modelled.due = True
            modelled.aside = key in aside
        for modelled in put_aside:
            self.release_line(modelled.entity)

    def transitions(self, data: st.DataObject) -> list[Transition]:
        several = {one.key: one for _ in range(3) for one in [self.one_of(data, self.claims)]}
        return [self.one_of(data, self.possible(one)) for one in several.values()]

    def one_of(self, data: st.DataObject, items: list[Item]) -> Item:
        # 0 is the newest, because Hypothesis shrinks towards 0. Only numbers are drawn, which is fast.
        return items[-1 - data.draw(st.integers(0, len(items) - 1))]

    def possible(self, one: Claim) -> list[Transition]:
        return [
            Transition(one, State.SUCCEEDED, outcome_known=True),
            Transition(one, State.FAILED, failure_reason=FailureReason.REJECTED, outcome_known=True),
            Transition(one, State.FAILED, failure_reason=FailureReason.UNRESOLVED, outcome_unknown=True),
            Transition(one, State.WAITING, wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=3600, outcome_known=True),
            Transition(one, State.WAITING, wait_reason=WaitReason.BACKOFF, due_in_s=3600, outcome_unknown=True),
            Transition(one, State.WAITING, wait_reason=WaitReason.NO_SESSION, due_in_s=3600, sent=False),
        ]

    def settled(self, transitions: list[Transition], lost: list[Claim]) -> None:
        late = [transition for transition in transitions if not self.holds(transition.claim)]
        assert lost == [transition.claim for transition in late]
        for transition in transitions:
            if transition in late:
                continue
            modelled, before = self.operations[transition.claim.key], transition.claim
            modelled.sent = before.sent or transition.sent
            modelled.outcome_unknown = transition.outcome_unknown or (
                before.outcome_unknown and not transition.outcome_known
            )
            modelled.unresolved = transition.failure_reason == FailureReason.UNRESOLVED
            if transition.state in FINAL:
                self.end(transition.claim.key, transition.state)
            else:
                modelled.state, modelled.wait_reason, modelled.holder, modelled.due = (
                    State.WAITING,
                    transition.wait_reason,
                    None,
                    False,
                )

        for transition in late:
            if self.decides(transition):
                self.end(transition.claim.key, transition.state)
                modelled = self.operations[transition.claim.key]
                modelled.outcome_unknown = modelled.unresolved = False

    def decides(self, late: Transition) -> bool:
        """Return whether a late answer decides: see `worker.ledger.late_answers`."""
        claim, modelled = late.claim, self.operations.get(late.claim.key)
        if modelled is None or late.state not in FINAL or not late.outcome_known or not modelled.outcome_unknown:
            return False
        if modelled.replays != claim.replays or modelled.fence <= claim.fence:
            return False
        if any(fence > claim.fence for fence in modelled.lapsed):
            return False
        if modelled.state == State.FAILED:
            return modelled.unresolved and claim.key not in self.stopped
        return modelled.state == State.WAITING or (
            modelled.state == State.RUNNING and late.state == State.SUCCEEDED
        )  # of all operations here `on_unknown` is "stop"

    def end(self, key: str, state: State) -> None:
        """End an operation: what waited for it is due."""
        ended = self.operations[key]
        ended.state, ended.holder, ended.due, ended.aside = state, None, False, False
        self.release_line(ended.entity)
        waiting = {State.QUEUED, State.WAITING}
        for one in self.operations.values():
            if state == State.SUCCEEDED and one.parent == key and one.state in waiting and not one.aside:
                one.due = True

    def release_line(self, entity: str | None) -> None:
        """Make the next operation of an entity due."""
        line = [
            one
            for one in self.operations.values()
            if one.entity == entity
            and one.state in {State.QUEUED, State.WAITING}
            and not one.aside
            and not self.is_held(one)
        ]
        if entity and line:
            min(line, key=lambda one: one.position).due = True


def run(ledger: Ledger) -> None:
    watch_moves(ledger)
    machine = type("LedgerMachine", (Machine,), {"ledger": ledger})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(MORE or EXAMPLES[ledger.engine.dialect.name]),
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            database=None,
            derandomize=MORE is None,  # the same sequences every time, unless more are wanted
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_ledger_behaves_like_its_model(own_ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A sequence of steps may take longer than a second.
    monkeypatch.setattr(ordering, "FIRST_RECHECK_MS", ordering.RECHECK_MS)
    ledger = open_ledger(own_ledger_url)
    run(ledger)
    ledger.close()
