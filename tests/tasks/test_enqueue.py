"""What a CRM calls, with a worker behind it."""

from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from tasks import enqueue
from tests.support import until
from tests.tasks.conftest import ended
from worker.errors import BadPayload, NotAllowed, PayloadConflict
from worker.instances import ledger
from worker.ledger import attempts_of, audit_of
from worker.ledger.due import DISPATCH_EVERY_S
from worker.operation import FINAL, FailureReason, State, WaitReason
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment

UPDATE = "/api/admin/clients/v2/client/clientservice/update"
Name = Callable[[], str]

pytestmark = pytest.mark.usefixtures("fleet", "control")


def calls_of(control: SandboxControl, **body: Any) -> list[dict[str, Any]]:
    return [effect for effect in control.effects("call") if body.items() <= effect["body"].items()]


class TestFees:
    def test_are_run_and_their_state_can_be_asked(self, control: SandboxControl, name: Name) -> None:
        request_id = name()
        recorded = enqueue.fees(account_login="7", request_id=request_id, by="Ada")

        assert (recorded.key, recorded.state, recorded.created) == (f"fees.process:{request_id}", State.QUEUED, True)
        done = ended(recorded.key)
        assert (done.state, done.requested_by) == (State.SUCCEEDED, "Ada")
        assert enqueue.status("fees.process:nobody-asked") is None
        assert [effect["times"] for effect in control.effects("fees.process", f"7/{request_id}")] == [1]

    def test_are_run_at_once(self, name: Name) -> None:
        """Each is requested when the one before has ended: without its wake-up it would wait for the next dispatch."""
        one_by_one = [ended(enqueue.fees(account_login="7", request_id=name()).key) for _ in range(12)]

        took_s = sum((done.ended_at or inf) - done.requested_at for done in one_by_one) / 1000
        assert took_s < len(one_by_one) * DISPATCH_EVERY_S * 2 / 3

    def test_requested_again_are_the_operation_that_exists(self, control: SandboxControl, name: Name) -> None:
        request_id = name()
        first = enqueue.fees(account_login="7", request_id=request_id)
        ended(first.key)

        again = enqueue.fees(account_login="7", request_id=request_id)

        assert (again.id, again.state, again.created) == (first.id, State.SUCCEEDED, False)
        assert [effect["times"] for effect in control.effects("fees.process", f"7/{request_id}")] == [1]

    def test_for_another_account_under_the_same_id_are_refused_and_both_are_shown(self, name: Name) -> None:
        request_id = name()
        enqueue.fees(account_login="7", request_id=request_id)

        with pytest.raises(PayloadConflict) as caught:
            enqueue.fees(account_login="8", request_id=request_id)

        assert '"account_login":"7"' in str(caught.value)
        assert '"account_login":"8"' in str(caught.value)

    @pytest.mark.parametrize("bad", ["", "two words", "W" * 129, "tab\t", "W\u200b1", "1.23457E+11", "W1~1"])
    def test_with_an_unusable_id_are_refused_before_anything_is_recorded(self, bad: str) -> None:
        with pytest.raises(BadPayload, match="request_id"):
            enqueue.fees(account_login="7", request_id=bad)

        assert enqueue.status(f"fees.process:{bad}") is None

    def test_are_polled_until_they_are_final(self, control: SandboxControl, name: Name) -> None:
        control.switches(fees={"pending_polls": 1})
        operation = ended(enqueue.fees(account_login="7", request_id=name()).key)

        assert operation.state == State.SUCCEEDED
        assert [attempt.outcome for attempt in attempts_of(ledger(), operation.id)] == ["pending", "done"]

    def test_that_fail_store_the_server_message(self, control: SandboxControl, name: Name) -> None:
        control.switches(logins={"8": {"ends": "ERROR", "message": "no money"}, "9": {"known": False}})
        failed = ended(enqueue.fees(account_login="8", request_id=name()).key)
        unknown = ended(enqueue.fees(account_login="9", request_id=name()).key)

        assert (failed.failure_reason, unknown.failure_reason) == ("fee_error", FailureReason.REJECTED)
        [attempt] = attempts_of(ledger(), failed.id)
        assert attempt.message == "no money"
        [attempt] = attempts_of(ledger(), unknown.id)
        assert attempt.http_status == 404
        assert "account 9 is not found" in str(attempt.message)


class TestInTheCrmsOwnTransaction:
    @pytest.fixture
    def crm(self, fleet: Environment) -> Iterator[Engine]:
        engine = create_engine(fleet.database_url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS withdrawals (id TEXT)"))
        yield engine
        engine.dispose()

    def test_what_is_rolled_back_was_never_requested(self, crm: Engine, control: SandboxControl, name: Name) -> None:
        request_id = name()
        with crm.connect() as connection:
            connection.execute(text("INSERT INTO withdrawals VALUES (:id)"), {"id": request_id})
            enqueue.fees(account_login="7", request_id=request_id, connection=connection)
            connection.rollback()

        assert enqueue.status(f"fees.process:{request_id}") is None
        after = ended(enqueue.fees(account_login="7", request_id=name()).key)  # the worker has looked since
        assert after.state == State.SUCCEEDED
        assert control.effects("fees.process", f"7/{request_id}") == []

    def test_what_is_committed_is_done_within_seconds(self, crm: Engine, name: Name) -> None:
        request_id = name()
        with crm.begin() as connection:
            connection.execute(text("INSERT INTO withdrawals VALUES (:id)"), {"id": request_id})
            recorded = enqueue.fees(account_login="7", request_id=request_id, connection=connection)
            assert (recorded.created, enqueue.status(recorded.key)) == (True, None)  # nobody else sees it yet

        assert ended(f"fees.process:{request_id}", within=3.0).state == State.SUCCEEDED

    def test_a_session_is_committed_or_rolled_back_with_it(self, crm: Engine, name: Name) -> None:
        ids = [name(), name()]
        with Session(crm) as session:
            session.execute(text("INSERT INTO withdrawals VALUES (:id)"), {"id": ids[0]})
            enqueue.fees(account_login="7", request_id=ids[0], connection=session)
            session.rollback()
            enqueue.fees(account_login="7", request_id=ids[1], connection=session)
            session.commit()

        done = enqueue.wait(f"fees.process:{ids[1]}", 5)
        assert done is not None
        assert done.state == State.SUCCEEDED
        assert enqueue.status(f"fees.process:{ids[0]}") is None

    def test_many_are_committed_together(self, crm: Engine, name: Name) -> None:
        rows = [{"account_login": "7", "request_id": name()} for _ in range(20)]
        with crm.begin() as connection:
            recorded = enqueue.many("fees.process", rows, connection=connection)

        assert {ended(one.key).state for one in recorded} == {State.SUCCEEDED}


class TestWait:
    def test_returns_an_operation_when_it_has_ended(self, name: Name) -> None:
        recorded = enqueue.fees(account_login="7", request_id=name())

        ended_now = enqueue.wait(recorded.key, 10)

        assert ended_now is not None
        assert ended_now.state == State.SUCCEEDED

    def test_returns_an_operation_as_it_stands_when_the_time_is_up(self, control: SandboxControl, name: Name) -> None:
        control.switches(fees={"until_finished": True})
        request_id = name()
        recorded = enqueue.fees(account_login="7", request_id=request_id)

        standing = enqueue.wait(recorded.key, 0.5)

        assert standing is not None
        assert standing.state not in FINAL
        until(lambda: control.finish_fees("7", request_id))

    def test_returns_nothing_for_an_operation_that_there_is_not(self) -> None:
        assert enqueue.wait("fees.process:nobody-asked", 0.1) is None

    def test_reads_the_ledger_a_few_times_and_not_all_the_time(self) -> None:
        looks: list[object] = []

        def note(*call: object) -> None:
            looks.append(call[2])

        event.listen(ledger().engine, "before_cursor_execute", note)
        enqueue.wait("fees.process:nobody-asked", 1.0)
        event.remove(ledger().engine, "before_cursor_execute", note)

        assert 3 <= len(looks) <= 20


class TestCancel:
    def test_ends_an_operation_of_which_nothing_was_sent(self, name: Name) -> None:
        child = enqueue.call(UPDATE, {}, key=name(), parent="fees.process:nobody-asked")

        cancelled = enqueue.cancel(child.key, why="not wanted", by="Ada")

        assert cancelled.state == State.CANCELLED
        assert [(entry.actor, entry.note) for entry in audit_of(ledger(), child.key)] == [("Ada", "not wanted")]

    def test_of_a_sent_or_unknown_operation_is_refused(self, name: Name) -> None:
        done = ended(enqueue.fees(account_login="7", request_id=name()).key)

        with pytest.raises(NotAllowed):
            enqueue.cancel(done.key, why="too late")
        with pytest.raises(BadPayload, match="there is no such operation"):
            enqueue.cancel("fees.process:nobody-asked", why="?")


class TestMany:
    def test_are_recorded_in_order_and_done(self, name: Name) -> None:
        rows = [{"account_login": "7", "request_id": name()} for _ in range(300)]
        recorded = enqueue.many("fees.process", rows, by="an import")

        assert [one.key for one in recorded] == [f"fees.process:{row['request_id']}" for row in rows]
        assert {ended(one.key).state for one in recorded} == {State.SUCCEEDED}

    def test_again_return_the_operations_that_exist(self, name: Name) -> None:
        rows = [{"account_login": "7", "request_id": name()} for _ in range(3)]
        first = enqueue.many("fees.process", rows)
        again = enqueue.many("fees.process", [*rows, {"account_login": "7", "request_id": name()}])

        assert [one.id for one in again][:3] == [one.id for one in first]
        assert [one.created for one in again] == [False, False, False, True]
        assert repr(again) == "<RecordedMany 1 created, 3 known>"

    def test_name_the_row_that_cannot_be_recorded_and_record_none(self, name: Name) -> None:
        good, bad = {"account_login": "7", "request_id": name()}, {"account_login": "7"}

        with pytest.raises(BadPayload, match=r"row 2: fees\.process: request_id is missing"):
            enqueue.many("fees.process", [good, bad, good])

        assert enqueue.status(f"fees.process:{good['request_id']}") is None

    def test_go_to_the_lane_that_is_named(self, name: Name) -> None:
        [recorded] = enqueue.many("fees.process", [{"account_login": "7", "request_id": name()}], lane="bulk")

        assert (ended(recorded.key).lane, ended(recorded.key).state) == ("bulk", State.SUCCEEDED)

    def test_refuse_unknown_kinds_and_lanes(self) -> None:
        with pytest.raises(BadPayload, match=r"'fees' is not a kind: there are .*fees.process"):
            enqueue.many("fees", [{}])
        with pytest.raises(BadPayload, match="'fast' is none of money, default, bulk"):
            enqueue.many("fees.process", [], lane="fast")

    def test_of_no_rows_record_nothing(self) -> None:
        assert list(enqueue.many("fees.process", [])) == []


class TestCalls:
    def test_are_made_once_and_store_the_answer(self, control: SandboxControl, name: Name) -> None:
        key = name()
        recorded = [enqueue.call(UPDATE, {"id": key}, key=key) for _ in range(3)]

        assert {one.id for one in recorded} == {recorded[0].id}
        assert (ended(f"call:{key}").state, ended(f"call:{key}").result) == (State.SUCCEEDED, {"id": key})
        assert [effect["times"] for effect in calls_of(control, id=key)] == [1]

    @pytest.mark.parametrize("what", ["drop", "cut"])
    def test_whose_outcome_is_unknown_are_never_made_again(
        self, control: SandboxControl, name: Name, what: str
    ) -> None:
        key = name()
        control.faults({"what": what, "route": "call", "match": key, "effect": "done"})
        enqueue.call(UPDATE, {"id": key}, key=key)

        operation = ended(f"call:{key}")

        assert (operation.state, operation.failure_reason) == (State.FAILED, FailureReason.UNRESOLVED)
        assert [effect["times"] for effect in calls_of(control, id=key)] == [1]

    def test_that_may_be_repeated_are_made_again(self, control: SandboxControl, name: Name) -> None:
        key = name()
        control.faults({"what": "drop", "route": "call", "match": key, "effect": "done", "next": 1})
        enqueue.call(UPDATE, {"id": key}, key=key, repeatable=True)

        assert ended(f"call:{key}").state == State.SUCCEEDED
        assert [effect["times"] for effect in calls_of(control, id=key)] == [2]

    def test_that_surely_had_no_effect_are_made_again(self, control: SandboxControl, name: Name) -> None:
        key = name()
        control.faults({"what": "status", "status": 503, "route": "call", "match": key, "next": 1})
        enqueue.call(UPDATE, {"id": key}, key=key)

        assert ended(f"call:{key}").state == State.SUCCEEDED
        assert [effect["times"] for effect in calls_of(control, id=key)] == [1]

    @pytest.mark.parametrize("path", ["/elsewhere", "/api/admin/auth/v2/admin/adminservice/authexternalcrm"])
    def test_of_another_api_are_refused(self, name: Name, path: str) -> None:
        with pytest.raises(BadPayload, match="path"):
            enqueue.call(path, {}, key=name())

    def test_with_a_payload_that_is_no_json_are_refused(self, name: Name) -> None:
        with pytest.raises(BadPayload, match="payload"):
            enqueue.call(UPDATE, {"when": object()}, key=name())


class TestOrder:
    def test_of_one_entity_holds_although_a_call_must_wait(self, control: SandboxControl, name: Name) -> None:
        entity, keys = name(), [name() for _ in range(5)]
        control.faults({"what": "status", "status": 503, "route": "call", "match": keys[1], "next": 1})
        for number, key in enumerate(keys):
            enqueue.call(UPDATE, {"entity": entity, "number": number, "key": key}, key=key, entity=entity)

        assert {ended(f"call:{key}").state for key in keys} == {State.SUCCEEDED}
        assert [effect["body"]["number"] for effect in calls_of(control, entity=entity)] == [0, 1, 2, 3, 4]

    def test_does_not_hold_other_entities_back(self, control: SandboxControl, name: Name) -> None:
        stuck, behind, other = name(), name(), name()
        control.faults({"what": "status", "status": 503, "route": "call", "match": stuck})
        enqueue.call(UPDATE, {"key": stuck}, key=stuck, entity="A")
        enqueue.call(UPDATE, {"key": behind}, key=behind, entity="A")
        enqueue.call(UPDATE, {"key": other}, key=other, entity="B")

        assert ended(f"call:{other}").state == State.SUCCEEDED
        until(lambda: (found := enqueue.status(f"call:{behind}")) and found.wait_reason == WaitReason.BEHIND_ENTITY)
        control.faults()
        assert ended(f"call:{behind}").state == State.SUCCEEDED

    def test_goes_on_when_one_has_failed(self, control: SandboxControl, name: Name) -> None:
        entity, bad, good = name(), name(), name()
        control.faults({"what": "status", "status": 422, "route": "call", "match": bad})
        enqueue.call(UPDATE, {"key": bad}, key=bad, entity=entity)
        enqueue.call(UPDATE, {"key": good}, key=good, entity=entity)

        assert ended(f"call:{bad}").failure_reason == FailureReason.REJECTED
        assert ended(f"call:{good}").state == State.SUCCEEDED

    def test_has_a_child_wait_for_its_parent(self, control: SandboxControl, name: Name) -> None:
        request_id, child = name(), name()
        control.switches(fees={"until_finished": True})
        parent = enqueue.fees(account_login="7", request_id=request_id)
        enqueue.call(UPDATE, {"key": child}, key=child, parent=parent.key)
        until(lambda: (found := enqueue.status(f"call:{child}")) and found.wait_reason == WaitReason.BEHIND_PARENT)
        assert calls_of(control, key=child) == []

        until(lambda: control.finish_fees("7", request_id))

        assert ended(f"call:{child}").state == State.SUCCEEDED
        assert ended(parent.key).state == State.SUCCEEDED
