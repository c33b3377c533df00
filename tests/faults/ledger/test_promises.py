"""What the judge of a fault run calls a broken promise."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.ledger.crm import PATH
from tests.faults.ledger.promises import (
    Accepted,
    Effects,
    by_operation,
    not_as_requested,
    not_recorded,
    overtaken,
    result_of_another,
)
from tests.faults.ledger.scenarios import SCENARIOS

GOOD = {
    "enqueued": 100, "sent": 100, "recorded": 100, "once": 200, "twice": 0, "never": 0, "unresolved": 0, "wrong": 0,
    "no evidence": 0, "drained s": 1.0, "starts": 2,
}  # fmt: skip


def problems(words: str, **figures: Any) -> list[str]:
    """Return what the scenarios whose names begin with these words find wrong with a row. Each must find the same."""
    first, *others = [list(each.holds(GOOD | figures)) for each in SCENARIOS if each.name.startswith(words)]
    assert all(other == first for other in others)
    return first


def request(what: str, name: str = "enqueue-1") -> Accepted:
    kind = "fees.process" if what in {"none_due", "pending", "error"} else "call"
    return Accepted("enqueue", what, f"{kind}:{name}", 0.0)


def row(**columns: Any) -> Any:
    return SimpleNamespace(
        **{"id": 1, "entity": "client-1", "replays": 0, "state": "succeeded", "result": '{"name": "enqueue-1"}'}
        | columns
    )


def test_a_call_that_succeeded_has_the_answer_to_what_it_sent() -> None:
    for what in ("call", "ordered", "repeatable"):
        assert result_of_another(request(what), row()) is None
        for result in ('{"name":"enqueue-2"}', '{"name":"enqueue-1","more":1}', "{}", None):
            assert result_of_another(request(what), row(result=result)) == f"call:enqueue-1 has the result {result}"

    assert result_of_another(request("call"), row(state="failed", result=None)) is None
    assert result_of_another(request("none_due"), row(result='{"status":"SUCCESS"}')) is None


def effect(kind: str, key: str, name: str | None = None, times: int = 1, first_at: float = 0.0) -> dict[str, Any]:
    return {"kind": kind, "key": key, "times": times, "first_at": first_at, "body": {"name": name} if name else {}}


def test_a_fee_run_for_two_logins_is_done_twice_and_one_of_them_is_wrong() -> None:
    one, other = (effect("fees.process", f"{login}/enqueue-1") for login in ("none_due", "error"))
    asked = request("none_due")

    once, twice = by_operation([one])[asked.key], by_operation([one, other])[asked.key]

    assert (once.times, not_as_requested(asked, once)) == (1, [])
    assert twice.times == 2
    assert not_as_requested(asked, twice) == ["fees.process:enqueue-1 was carried out as error/enqueue-1"]
    assert not_as_requested(asked, None) == []


def test_a_call_to_two_paths_or_with_two_bodies_is_done_twice_and_one_of_them_is_wrong() -> None:
    asked = request("call")
    good = effect("call", f'{PATH} {{"name": "enqueue-1"}}', "enqueue-1")

    assert not_as_requested(asked, by_operation([good])[asked.key]) == []
    for key in ('/elsewhere {"name": "enqueue-1"}', f'{PATH} {{"more": 1, "name": "enqueue-1"}}'):
        twice = by_operation([good, effect("call", key, "enqueue-1")])[asked.key]
        assert twice.times == 2
        assert not_as_requested(asked, twice) == [f"call:enqueue-1 was carried out as {key}"]


def test_an_effect_without_an_operation_is_wrong() -> None:
    effects = by_operation([effect("call", '/path {"name": "a"}', "a"), effect("call", "/path {}")])

    assert not_recorded(effects, {"call:a": row()}) == ["call:None was carried out, but is not in the ledger"]


def test_an_ordered_call_that_overtakes_one_of_its_entity_is_wrong() -> None:
    requests = [request("ordered", name) for name in ("a", "b", "c")]
    recorded = {"call:a": row(id=9), "call:b": row(id=10), "call:c": row(id=7)}

    def judged(*first_at: float, **changed: Any) -> list[str]:
        effects = {each.key: Effects(1, at, []) for each, at in zip(requests, first_at, strict=False)}
        return overtaken(requests, recorded | {f"call:{name}": each for name, each in changed.items()}, effects)

    assert judged(2.0, 3.0, 1.0) == []
    assert judged(3.0, 2.0, 1.0) == ["call:b was carried out before call:a (client-1)"]
    assert judged(1.0, 2.0, 3.0) == ["call:a was carried out before call:c (client-1)"]
    assert judged(3.0, 2.0, 1.0, a=row(id=9, entity="client-2")) == []
    assert judged(3.0, 2.0, 1.0, a=row(id=9, replays=1)) == []
    assert judged(2.0, 3.0) == []  # the third one was never carried out
    assert overtaken([request("call", "a"), request("call", "b")], recorded, {}) == []


@pytest.mark.parametrize("words", ["three beats", "no beat", "SIGTERM", "unusable messages"])
def test_nothing_is_unresolved_where_every_call_was_answered(words: str) -> None:
    assert problems(words) == []
    assert problems(words, unresolved=1) == ["1 answered calls are unresolved"]
    assert problems(words, recorded=99) == ["1 messages lost"]


@pytest.mark.parametrize("words", ["Redis full", "Redis read-only"])
def test_no_message_is_lost_while_redis_refuses_writes(words: str) -> None:
    assert problems(words, unresolved=1, starts=6) == []
    assert problems(words, recorded=99) == ["1 messages lost"]
    assert problems(words, recorded=0, starts=7) == ["100 messages lost", "5 restarts"]


def test_a_killed_worker_leaves_calls_unresolved() -> None:
    assert problems("worker killed", unresolved=9) == []
