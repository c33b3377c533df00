"""Order: an entity's operations one by one, a child after its parent, and nobody else held up."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

from tests.ledger.actors import Clock, fail, look, names, new, on_postgresql, postpone, put, succeed, take, take_one
from tests.support import until
from worker.ledger import LEASE_S, Ledger, cancel, record, replay
from worker.operation import FailureReason, State, WaitReason


def test_an_entitys_operations_go_one_after_the_other(ledger: Ledger) -> None:
    put(ledger, "A1", "A2", "A3", entity="A")

    done: list[str] = []
    while held := take(ledger):
        done += names(held)
        assert len(held) == 1
        succeed(ledger, *held)

    assert done == ["A1", "A2", "A3"]


def test_an_operation_behind_another_says_so(ledger: Ledger) -> None:
    put(ledger, "A1", "A2", entity="A")

    take(ledger)

    assert (look(ledger, "A2").state, look(ledger, "A2").wait_reason) == (State.WAITING, WaitReason.BEHIND_ENTITY)


def test_a_stuck_operation_holds_up_its_own_entity_only(ledger: Ledger) -> None:
    put(ledger, "A1", "A2", entity="A")
    put(ledger, "B1", entity="B")
    put(ledger, "free")
    stuck, *others = take(ledger)
    succeed(ledger, *others)

    postpone(ledger, stuck, seconds=3600)

    assert names(others) == ["B1", "free"]
    assert take(ledger) == []


def test_a_line_longer_than_a_batch_does_not_hide_those_after_it(ledger: Ledger) -> None:
    put(ledger, *(f"A{number}" for number in range(300)), entity="A")
    put(ledger, "B1", entity="B")

    assert names(take(ledger, limit=5)) == ["A0", "B1"]


def test_failed_and_cancelled_release_the_next(ledger: Ledger) -> None:
    put(ledger, "A1", "A2", "A3", entity="A")
    first = take_one(ledger)
    cancel(ledger, "fees.process:A2", "ada", "not wanted")

    fail(ledger, first)

    assert names(take(ledger)) == ["A3"]


def test_a_lapsed_holder_keeps_its_entity(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "A1", "A2", entity="A")
    take(ledger, "worker 1")

    clock.passes(LEASE_S + 1)

    assert names(take(ledger, "worker 2")) == ["A1"]


def test_a_replayed_operation_goes_to_the_end_of_its_line(ledger: Ledger) -> None:
    put(ledger, "A1", "A2", "A3", entity="A")
    fail(ledger, take_one(ledger))

    replay(ledger, ["fees.process:A1"], "ada", "mended")
    put(ledger, "A4", entity="A")

    done: list[str] = []
    while held := take(ledger):
        done += names(held)
        succeed(ledger, *held)
    assert done == ["A2", "A3", "A1", "A4"]


def test_a_replay_waits_for_the_one_that_is_held(ledger: Ledger) -> None:
    put(ledger, "A1", "A2", entity="A")
    fail(ledger, take_one(ledger))
    held = take_one(ledger)

    replay(ledger, ["fees.process:A1"], "ada", "mended")

    assert take(ledger) == []
    succeed(ledger, held)
    assert names(take(ledger)) == ["A1"]


def test_a_child_waits_until_its_parent_has_succeeded(ledger: Ledger) -> None:
    put(ledger, "child", parent="fees.process:parent")
    assert take(ledger) == [], "the parent is not even recorded"
    put(ledger, "parent")

    [parent] = take(ledger)
    assert (look(ledger, "child").state, look(ledger, "child").wait_reason) == (State.WAITING, WaitReason.BEHIND_PARENT)
    succeed(ledger, parent)

    assert names(take(ledger)) == ["child"]


def test_a_child_whose_parent_failed_waits_for_the_parents_replay(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "parent")
    put(ledger, "child", parent="fees.process:parent")
    fail(ledger, take_one(ledger))
    clock.passes(3600)
    assert take(ledger) == []

    replay(ledger, ["fees.process:parent"], "ada", "mended")
    succeed(ledger, take_one(ledger))

    assert names(take(ledger)) == ["child"]


def test_a_child_whose_parent_never_succeeds_fails_at_its_own_deadline(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "parent")
    fail(ledger, take_one(ledger))
    put(ledger, "child", parent="fees.process:parent", time_allowed_s=3600.0, entity="A")
    put(ledger, "next", entity="A")
    assert take(ledger) == []

    clock.passes(3601)

    assert take(ledger) == []
    found = look(ledger, "child")
    assert (found.state, found.failure_reason, found.sent) == (State.FAILED, FailureReason.UNRESOLVED, False)
    assert names(take(ledger)) == ["next"]


def test_what_was_sent_once_is_past_its_parent(ledger: Ledger, clock: Clock) -> None:
    put(ledger, "parent")
    put(ledger, "child", parent="fees.process:parent")
    succeed(ledger, take_one(ledger))
    postpone(ledger, take_one(ledger), seconds=5)
    clock.passes(6)

    assert names(take(ledger)) == ["child"]


def test_an_entity_is_never_held_twice_however_many_claim(ledger: Ledger, reopen: Callable[[], Ledger]) -> None:
    lines = {entity: [f"{entity}{number}" for number in range(12)] for entity in "ABCDE"}
    for number in range(12):
        for entity, line in lines.items():
            put(ledger, line[number], entity=entity)
    claimants = [reopen() for _ in range(4)]
    done: list[str] = []

    def work(number: int) -> None:
        idle = 0
        while len(done) < 60 and idle < 2000:
            held = take(claimants[number], owner=f"worker {number}", limit=4)
            idle = 0 if held else idle + 1
            assert len({one.entity for one in held}) == len(held)
            done.extend(names(held))
            succeed(claimants[number], *held)

    with ThreadPoolExecutor(4) as crowd:
        list(crowd.map(work, range(4)))

    assert {entity: [name for name in done if name[0] == entity] for entity in lines} == lines


@on_postgresql
def test_an_earlier_operation_that_is_committed_later_waits_for_the_one_that_is_held(ledger: Ledger) -> None:
    with ledger.engine.begin() as slow:
        record(ledger, [new("A1", entity="A")], by="a slow transaction", connection=slow)
        put(ledger, "A2", entity="A")
        held = take_one(ledger)

    assert take(ledger) == []
    assert look(ledger, "A1").wait_reason == WaitReason.BEHIND_ENTITY
    succeed(ledger, held)
    assert names(take(ledger)) == ["A1"]


@on_postgresql
def test_two_claims_that_meet_at_an_entity_do_not_both_hold_it(ledger: Ledger) -> None:
    with ledger.engine.begin() as slow:
        record(ledger, [new("A1", entity="A")], by="a slow transaction", connection=slow)
        put(ledger, "A2", entity="A")
    with ledger.engine.begin() as other:
        # Another claim has taken A2, has not seen A1 yet, and is about to commit.
        held = "state = 'running', owner = 'other', due_at = due_at + 10000"
        other.execute(text(f"UPDATE b2copy_operations SET {held} WHERE key = 'fees.process:A2'"))
        with ThreadPoolExecutor(1) as crowd:
            ours = crowd.submit(take, ledger)
            until(lambda: _is_waiting_for_a_lock(ledger))
            other.commit()
            assert ours.result(10) == []

    assert look(ledger, "A1").wait_reason == WaitReason.BEHIND_ENTITY


def _is_waiting_for_a_lock(ledger: Ledger) -> bool:
    with ledger.reading() as connection:
        return bool(connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar())
