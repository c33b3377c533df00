"""The SQL API: rows of `b2copy_requests` become operations once, in order, and none holds the others up."""

import json
import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Reject
from sqlalchemy import Connection, make_url, select, text

from tasks.registry import KINDS
from tests.conftest import forget
from tests.crm.conftest import Insert
from tests.ledger.databases import on_postgresql, on_sqlite
from tests.operations import fail_operation, key_of, record_operation, succeed_after_a_replay, succeed_operation
from worker import instances
from worker.crm import requests_table
from worker.crm.requests_table import lets_others_dispatch_first, take_requests
from worker.errors import NotAllowed, PathNotListed
from worker.ledger import Ledger, find, open_ledger, record, search, try_start_dispatch
from worker.ledger.batches import cancel_batch
from worker.ledger.engine import seconds_since_outage
from worker.ledger.overview import overview
from worker.ledger.schema import now_ms
from worker.operation import FailureReason, Operation, State
from worker.operation_kind import Kind
from worker.report.health import find_notes, find_problems
from worker.settings import crm_settings

UPDATE = "/api/admin/clients/v2/client/clientservice/update"
NOT_A_NUMBER = f'{{"path": "{UPDATE}", "key": "K", "payload": {{"n": NaN}}}}'
TOO_MANY_DIGITS = NOT_A_NUMBER.replace("NaN", "12345678901234567.891")
HALF_A_CHARACTER = NOT_A_NUMBER.replace("NaN", '"\\ud800"')
LONG_AGO = 1_700_000_000_000  # ms since the epoch
CALL = f'{{"path": "{UPDATE}", "key": "%s", "entity": "%s", "payload": {{}}}}'
FEES = '{"account_login": "7", "request_id": "%s"}'


def take(ledger: Ledger) -> Counter[str]:
    """Take all rows. Returns how many operations are queued, by lane."""
    return sum(take_requests(ledger, KINDS, crm_settings()), Counter())


def rows_left(ledger: Ledger) -> int:
    with ledger.reading() as connection:
        return int(connection.execute(text("SELECT count(*) FROM b2copy_requests")).scalar_one())


def status_rows(ledger: Ledger, key: str) -> list[dict[str, Any]]:
    """Return what a CRM reads about a key with a plain SELECT."""
    with ledger.reading() as connection:
        found = connection.execute(text("SELECT * FROM b2copy_status WHERE key = :key"), {"key": key})
        return [dict(row) for row in found.mappings()]


def failed_request(ledger: Ledger, row_id: int) -> Operation:
    """Return the failed operation that a bad row has become."""
    found = find(ledger, f"message:request-{row_id}")
    assert found is not None
    assert (found.state, found.failure_reason) == (State.FAILED, FailureReason.BAD_PAYLOAD)
    return found


@pytest.fixture
def after_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has seen each row for so long that no other worker is expected to take it."""
    monkeypatch.setattr(requests_table, "OTHER_WORKER_WAIT_S", 0.0)


def test_one_insert_requests_an_operation(ledger: Ledger, insert: Insert) -> None:
    insert(kind="fees.process", payload=FEES % "W1")

    assert take(ledger) == {"money": 1}

    operation = find(ledger, "fees.process:W1")
    assert operation is not None
    assert (operation.state, operation.lane, operation.requested_by) == (State.QUEUED, "money", "sql")
    assert operation.payload == {"account_login": "7", "request_id": "W1"}
    assert operation.deadline_at == operation.requested_at + 72 * 3_600_000
    assert rows_left(ledger) == 0


@pytest.mark.parametrize("row_id", [0, -1, -(2**62), 2**62])
def test_a_row_may_have_any_id(ledger: Ledger, insert: Insert, row_id: int) -> None:
    assert insert(id=row_id, kind="fees.process", payload=FEES % "W1") == row_id

    assert take(ledger) == {"money": 1}

    assert find(ledger, "fees.process:W1") is not None
    assert rows_left(ledger) == 0


def test_a_row_for_a_cancelled_batch_is_refused_where_people_see_it(ledger: Ledger, insert: Insert) -> None:
    record_operation(ledger, "W1", batch="book")
    cancel_batch(ledger, "book", "ada", "wrong file")
    for name in ("W1", "W2", "W3"):
        insert(kind="fees.process", payload=FEES % name, batch="book" if name != "W3" else "next")

    assert take(ledger) == {"money": 1}

    assert find(ledger, "fees.process:W2") is None
    [refused] = search(ledger, state=State.FAILED)
    assert (refused.kind, refused.batch) == ("message", "book")
    assert "fees.process:W2: import book was cancelled by ada: wrong file" in str(refused.result)
    assert rows_left(ledger) == 0


def test_an_empty_optional_column_is_as_if_it_were_absent(ledger: Ledger, insert: Insert) -> None:
    insert(kind="fees.process", payload=FEES % "W1", lane="", requested_by="", batch="", trace_id="")

    assert take(ledger) == {"money": 1}

    operation = find(ledger, "fees.process:W1")
    assert operation is not None
    assert (operation.requested_by, operation.batch, operation.trace_id) == ("sql", None, None)


def test_the_optional_columns_are_stored_with_the_operation(ledger: Ledger, insert: Insert) -> None:
    insert(
        kind="fees.process", payload=FEES % "W1", lane="bulk", requested_by="Zoë", batch="2026-11", trace_id="00-ab-01"
    )

    assert take(ledger) == {"bulk": 1}

    operation = find(ledger, "fees.process:W1")
    assert operation is not None
    assert (operation.lane, operation.requested_by) == ("bulk", "sql: Zoë")
    assert (operation.batch, operation.trace_id) == ("2026-11", "00-ab-01")


@pytest.mark.parametrize(
    "spelling",
    [
        '{"request_id":"W1","account_login":"7"}',
        ' {\n "account_login" : 7,\t"request_id" : "\\u00571" } ',
    ],
)
def test_another_spelling_of_an_equal_payload_is_the_same_operation(
    ledger: Ledger, insert: Insert, spelling: str
) -> None:
    succeed_operation(ledger, "W1")
    insert(kind="fees.process", payload=spelling)

    assert take(ledger) == {}

    assert [one.key for one in search(ledger)] == ["fees.process:W1"]
    assert rows_left(ledger) == 0


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"kind": "fees"}, "kind: 'fees' is not a kind: there are accounts.create, call"),
        ({"payload": "{"}, "payload: not JSON"),
        ({"payload": "[1]"}, "payload: must be a JSON object"),
        ({"payload": ""}, "payload: not JSON"),
        ({"payload": '{"account_login": "7"}'}, "request_id is missing"),
        ({"payload": '{"account_login": "7", "request_id": "W1", "amount": 5}'}, "amount is not a field"),
        ({"payload": '{"account_login": "7", "request_id": "W1", "request_id": "W2"}'}, "'request_id' is given twice"),
        ({"payload": "[" * 100_000}, "payload: not JSON"),
        ({"kind": "call", "payload": TOO_MANY_DIGITS}, "payload: not JSON: 12345678901234567.891 has more digits"),
        ({"kind": "call", "payload": HALF_A_CHARACTER}, "holds half of a surrogate pair"),
        ({"payload": FEES % ("W" * 200_000)}, "payload: has more than 131072 characters"),
        ({"kind": "call", "payload": NOT_A_NUMBER}, "not JSON"),
        ({"lane": "fast"}, "lane: 'fast' is none of money, default, bulk"),
        ({"batch": "two\nlines"}, "batch must be 1 to 255 printable characters"),
        ({"trace_id": "t" * 256}, "trace_id must be 1 to 255 printable characters"),
        ({"kind": "k" * 5_000}, "is not a kind"),
    ],
)
@pytest.mark.usefixtures("after_five_minutes")
def test_a_bad_row_becomes_a_failed_operation_and_holds_no_other_up(
    ledger: Ledger, insert: Insert, columns: dict[str, Any], problem: str
) -> None:
    insert(kind="fees.process", payload=FEES % "before")
    bad = insert(**({"kind": "fees.process", "payload": FEES % "W1", "requested_by": "Ada"} | columns))
    insert(kind="fees.process", payload=FEES % "behind")

    assert take(ledger) == {"money": 2}

    failed = failed_request(ledger, bad)
    assert problem in str((failed.result or {})["error"])
    assert failed.requested_by == "sql: Ada"
    assert len(search(ledger)) == 3
    assert rows_left(ledger) == 0
    [status] = status_rows(ledger, f"message:request-{bad}")
    assert (status["state"], status["failure_reason"]) == ("failed", "bad_payload")
    assert problem in status["server_message"]


@on_sqlite
@pytest.mark.parametrize("column", ["kind", "payload", "lane", "requested_by", "batch", "trace_id"])
def test_a_row_in_another_encoding_than_utf_8_holds_no_other_up(ledger: Ledger, insert: Insert, column: str) -> None:
    columns = {"kind": "fees.process", "payload": FEES % "W1", column: '{"name": "Zoë"}'.encode("cp1252")}
    names = ", ".join(columns)
    values = ", ".join(f"CAST(:{name} AS TEXT)" for name in columns)
    with ledger.writing() as connection:
        connection.execute(text(f"INSERT INTO b2copy_requests ({names}) VALUES ({values})"), columns)
    insert(kind="fees.process", payload=FEES % "W2")

    take(ledger)

    assert key_of("W2") in {one.key for one in search(ledger)}
    if column == "requested_by":  # it only says who, so it is escaped
        assert "Zo" in str(getattr(find(ledger, key_of("W1")), "requested_by", None))
    else:
        assert f"{column}: is not UTF-8 text" in str(failed_request(ledger, 1).result)
    assert rows_left(ledger) == 0


def test_a_request_with_other_data_than_the_operation_of_its_key_fails(ledger: Ledger, insert: Insert) -> None:
    record_operation(ledger, "W1")
    bad = insert(kind="fees.process", payload='{"account_login": "8", "request_id": "W1"}')
    twice = [insert(kind="fees.process", payload=f'{{"account_login": "{n}", "request_id": "W2"}}') for n in (7, 8)]

    assert take(ledger) == {"money": 1}

    for row_id in (bad, twice[1]):
        assert "exists with another account_login" in str(failed_request(ledger, row_id).result)


def test_a_conflict_tells_nobody_the_payload_of_the_first_operation(
    ledger: Ledger, insert: Insert, caplog: pytest.LogCaptureFixture
) -> None:
    record_operation(ledger, "W1", payload={"account_login": "4711", "request_id": "W1"})
    bad = insert(kind="fees.process", payload='{"account_login": "8899", "request_id": "W1"}')

    take(ledger)

    assert "fees.process:W1" in caplog.text
    assert "4711" not in caplog.text
    assert "8899" not in caplog.text
    assert "4711" not in str(failed_request(ledger, bad).result)


@pytest.mark.parametrize("fault", [RuntimeError("a fault of ours"), MemoryError()])
def test_a_row_that_meets_an_error_of_our_own_waits_and_holds_no_other_up(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    def describe(payload: Any) -> Any:
        if payload.request_id == "W1":
            raise fault
        return original(payload)

    original = KINDS["fees.process"].describe
    monkeypatch.setattr(requests_table, "_logged", set())
    monkeypatch.setattr(requests_table, "BATCH", 1)  # it holds up no later batch either
    insert(kind="fees.process", payload=FEES % "W1")
    insert(kind="fees.process", payload=FEES % "W2")

    with monkeypatch.context() as patch:
        patch.setitem(vars(KINDS["fees.process"]), "describe", describe)
        assert take(ledger) == {"money": 1}
        assert take(ledger) == {}

    assert (rows_left(ledger), [one.key for one in search(ledger)]) == (1, [key_of("W2")])
    assert len(caplog.records) == 1, "the trouble is logged every second"
    assert take(ledger) == {"money": 1}


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    from worker.messages import inbox  # reads the settings, which the fixtures have made

    monkeypatch.setattr(inbox, "PATIENCE_S", 0.0)
    monkeypatch.setattr(inbox, "_RETURN_PAUSE_S", 0.0)
    yield inbox
    instances.ledger().close()


TRACE = f"00-{'a1' * 16}-{'b2' * 8}-01"
MESSAGE = SimpleNamespace(origin="crm", id="m-1", task="b2copy.fees.process", traceparent=TRACE)
FIELDS = {"account_login": "7", "request_id": "W1"}


@contextmanager
def failing(fault: Exception) -> Iterator[Kind[Any]]:
    """The fee run's kind with a fault of ours in it."""

    def describe(payload: Any) -> Any:
        raise fault

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(KINDS["fees.process"]), "describe", describe)
        patch.setattr(requests_table, "_logged", set())
        yield KINDS["fees.process"]


@pytest.mark.parametrize("fault", [RuntimeError("a fault of ours"), KeyError("x"), RecursionError(), MemoryError()])
def test_a_message_that_meets_an_error_of_our_own_waits_and_is_recorded_when_it_is_mended(
    ledger: Ledger, inbox: ModuleType, fault: Exception
) -> None:
    with failing(fault) as kind:
        inbox.take_in(kind, MESSAGE, (), FIELDS)  # it does not raise, so the message is acknowledged
        inbox.take_in(kind, MESSAGE, ("7",), {"request_id": "W1"})  # delivered twice, by position
        assert take(ledger) == {}
        assert (rows_left(ledger), search(ledger)) == (2, [])

    take(ledger)

    [operation] = search(ledger)
    assert (operation.key, operation.requested_by) == (key_of("W1"), "sql: message from crm")
    assert operation.trace_id == TRACE
    assert rows_left(ledger) == 0


def test_a_message_that_meets_an_error_of_our_own_for_a_day_is_stored_as_failed(
    ledger: Ledger, inbox: ModuleType, insert: Insert
) -> None:
    with failing(RuntimeError("with a secret in it")) as kind:
        inbox.take_in(kind, MESSAGE, (), FIELDS)
        insert(kind="fees.process", payload=FEES % "W2")
        with ledger.writing() as connection:
            earlier = f"requested_at - {requests_table.MESSAGE_WAIT_MS - 60_000}"
            connection.execute(text(f"UPDATE b2copy_requests SET requested_at = {earlier}"))
        take(ledger)
        assert search(ledger) == []
        with ledger.writing() as connection:
            connection.execute(text("UPDATE b2copy_requests SET requested_at = requested_at - 60000"))
        take(ledger)

    [operation] = search(ledger)
    assert operation.state is State.FAILED
    assert operation.result == {"error": "an error on our side for a day: RuntimeError"}
    assert '"account_login": "7"' in json.loads(operation.payload["message"])["payload"]
    assert rows_left(ledger) == 1, "a CRM's own row waits for as long as it takes"


@on_postgresql
def test_a_message_that_cannot_be_left_to_dispatch_either_is_stored_as_failed(
    ledger: Ledger, inbox: ModuleType
) -> None:
    with ledger.writing() as connection:
        connection.execute(text("ALTER TABLE b2copy_requests ADD CONSTRAINT wall CHECK (false)"))
    try:
        with failing(RuntimeError("a fault of ours")) as kind:
            inbox.take_in(kind, MESSAGE, (), FIELDS)
    finally:
        with ledger.writing() as connection:
            connection.execute(text("ALTER TABLE b2copy_requests DROP CONSTRAINT wall"))

    [operation] = search(ledger)
    assert (operation.key, operation.result) == ("message:m-1", {"error": "a fault of ours"})


@on_sqlite
def test_a_row_that_the_database_refuses_holds_no_other_up(ledger: Ledger, insert: Insert) -> None:
    with ledger.writing() as connection:
        connection.execute(
            text(
                "CREATE TRIGGER refuses BEFORE INSERT ON b2copy_operations WHEN NEW.key = 'fees.process:W1'"
                " BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        )
    insert(kind="fees.process", payload=FEES % "W1")
    insert(kind="fees.process", payload=FEES % "W2")

    assert take(ledger) == {"money": 1}
    assert rows_left(ledger) == 1


def test_later_rows_of_an_entity_wait_for_a_row_that_meets_an_error_of_our_own(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_but(ledger: Ledger, news: Any, by: str, connection: Connection) -> Any:
        if any(new.key == "call:K1" for new in news):
            raise RuntimeError("a fault of ours")
        return original(ledger, news, by, connection)

    original = record
    monkeypatch.setattr(requests_table, "BATCH", 2)
    for of in (("K1", "A"), ("K2", "A"), ("K3", "A"), ("K4", "B")):
        insert(kind="call", payload=CALL % of)

    with monkeypatch.context() as patch:
        patch.setattr(requests_table, "record", record_but)
        assert take(ledger) == {"default": 1}
    assert [one.key for one in search(ledger)] == ["call:K4"]

    take(ledger)

    in_order = [one.key for one in sorted(search(ledger), key=lambda one: one.id)]
    assert in_order == ["call:K4", "call:K1", "call:K2", "call:K3"]


def test_a_kind_of_a_newer_version_waits_for_a_worker_that_knows_it(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(kind="fees.of_tomorrow", payload="{}")
    insert(kind="fees.process", payload=FEES % "W1")

    assert take(ledger) == {"money": 1}

    assert (rows_left(ledger), len(search(ledger))) == (1, 1)
    monkeypatch.setattr(requests_table, "OTHER_WORKER_WAIT_S", 0.0)
    take(ledger)
    assert rows_left(ledger) == 0


LIST = "/api/admin/fees/v2/fee/feeservice/list"


@pytest.fixture
def call_paths(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the B2COPY_CALL_PATHS of this process, as if it had been restarted with them."""

    def set_paths(paths: str) -> None:
        monkeypatch.setenv("B2COPY_CALL_PATHS", paths)
        crm_settings.cache_clear()

    return set_paths


def test_a_call_whose_path_this_worker_does_not_list_waits_for_one_that_does(
    ledger: Ledger,
    insert: Insert,
    call_paths: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As while the setting is changed: other workers were restarted with a longer list, and this one was not."""
    monkeypatch.setattr(requests_table, "_logged", set())
    insert(kind="call", payload=CALL % ("K1", "A"))
    insert(kind="call", payload=(CALL % ("K2", "A")).replace(UPDATE, LIST))
    insert(kind="call", payload=(CALL % ("K3", "B")).replace(UPDATE, LIST))
    call_paths(LIST)

    assert take(ledger) == {"default": 1}
    assert [one.key for one in search(ledger)] == ["call:K3"], "a later row of the entity went first"
    assert f"{UPDATE!r} is not among B2COPY_CALL_PATHS" in caplog.text

    call_paths("/api/admin/*")
    assert take(ledger) == {"default": 2}
    in_order = [one.key for one in sorted(search(ledger), key=lambda one: one.id)]
    assert in_order == ["call:K3", "call:K1", "call:K2"]


def test_a_call_whose_path_no_worker_lists_fails_after_five_minutes(
    ledger: Ledger, insert: Insert, call_paths: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr(requests_table, "time", SimpleNamespace(monotonic=lambda: now))
    call_paths(LIST)
    bad = insert(kind="call", payload=CALL % ("K1", "A"))
    take(ledger)
    now += 299
    take(ledger)
    assert (rows_left(ledger), search(ledger)) == (1, [])

    now += 1
    assert take(ledger) == {}

    assert f"{UPDATE!r} is not among B2COPY_CALL_PATHS" in str(failed_request(ledger, bad).result)
    assert rows_left(ledger) == 0


@pytest.mark.parametrize("age_ms", [600_000, 90 * 86_400_000])
@pytest.mark.parametrize(
    ("kind", "payload"), [("call", CALL % ("K1", "A")), ("of.tomorrow", "{}")], ids=["path", "kind"]
)
def test_a_row_waits_for_another_worker_from_when_it_is_seen(
    ledger: Ledger, insert: Insert, call_paths: Callable[[str], None], kind: str, payload: str, age_ms: int
) -> None:
    """After an outage of all workers the first one is not alone for long, and a transaction may commit late."""
    call_paths(LIST)
    with ledger.reading() as connection:
        now = int(connection.execute(select(now_ms())).scalar_one())
    insert(kind=kind, payload=payload, requested_at=now - age_ms)

    take(ledger)

    assert (rows_left(ledger), search(ledger)) == (1, [])


def test_rows_beyond_those_that_a_process_remembers_wait(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr(requests_table, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(requests_table, "_first_seen", {})
    monkeypatch.setattr(requests_table, "SEEN_MAX", 2)
    for _ in range(3):
        insert(kind="of.tomorrow", payload="{}")

    left = []
    for _ in range(5):
        take(ledger)
        left.append(rows_left(ledger))
        now += 300

    assert left == [3, 1, 1, 1, 0], "the third row is remembered once the first two are forgotten"


def test_the_worker_for_which_a_row_is_left_has_a_turn_within_seconds(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each looks every 250 ms, the second worker always 100 ms after the first, which dispatched every time."""
    from tasks import housekeeping  # reads the settings, which the fixtures have made

    def pass_ms(ms: int) -> None:
        with ledger.writing() as connection:
            connection.execute(text(f"UPDATE b2copy_ledger SET dispatched_at = dispatched_at - {ms}"))

    monkeypatch.setattr(requests_table, "_left_at", -math.inf)
    insert(kind="fees.of_tomorrow", payload="{}")
    turns = []
    for _ in range(8):
        turns += ["first"] if housekeeping.dispatch() else []
        pass_ms(100)
        turns += ["second"] if try_start_dispatch(ledger) else []
        pass_ms(150)
    instances.ledger().close()

    assert turns[0] == "first"
    assert "second" in turns


def test_a_worker_that_left_a_row_lets_others_dispatch_first_for_a_while(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr(requests_table, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(requests_table, "_left_at", -math.inf)
    assert not lets_others_dispatch_first()
    insert(kind="fees.of_tomorrow", payload="{}")
    take(ledger)
    assert lets_others_dispatch_first()

    now += requests_table.OTHERS_FIRST_S
    assert not lets_others_dispatch_first(), "it would stay behind the others for ever"


@pytest.mark.parametrize("what", ["kind", "path"])
def test_a_row_that_another_worker_knows_and_cannot_take_by_our_fault_is_refused_by_none(
    ledger: Ledger, insert: Insert, call_paths: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """An older worker and a newer one take turns. The newer one meets an error of ours."""

    def look(is_newer: bool) -> None:
        call_paths("/api/admin/*" if is_newer or what == "kind" else LIST)
        kinds = KINDS if is_newer or what == "path" else {name: KINDS[name] for name in KINDS if name != "call"}
        for _ in take_requests(ledger, kinds, crm_settings()):
            pass

    now = 1_000.0
    monkeypatch.setattr(requests_table, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(requests_table, "_first_seen", {})
    insert(kind="call", payload=CALL % ("K1", "A"))
    with monkeypatch.context() as patch:
        patch.setattr(requests_table, "record", fail_by_our_fault)
        for _ in range(8):
            look(is_newer=False)
            look(is_newer=True)
            now += 100

        now += 400
        look(is_newer=False)
        assert (rows_left(ledger), search(ledger)) == (1, [])
        seen = overview(ledger)
        assert seen.left_request is None, "it is said to be refused after five minutes"
        assert seen.requests_age_s is not None

    look(is_newer=True)
    assert [one.key for one in search(ledger)] == ["call:K1"]


def test_a_row_that_waits_for_a_worker_which_is_gone_ends_after_a_day(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer worker met an error of ours with it and was taken back. The older ones do not slow down meanwhile."""
    now = 1_000.0
    monkeypatch.setattr(requests_table, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(requests_table, "_first_seen", {})
    monkeypatch.setattr(requests_table, "_left_at", -math.inf)
    insert(kind="fees.of_tomorrow", payload="{}")
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_requests SET left_because = ''"))

    left = []
    for _ in range(4):
        take(ledger)
        left.append(rows_left(ledger))
        assert not lets_others_dispatch_first()
        now += requests_table.WAITS_FOR_US_S / 2

    assert left == [1, 1, 0, 0]
    assert [one.failure_reason for one in search(ledger)] == [FailureReason.BAD_PAYLOAD]


def fail_by_our_fault(*_: Any) -> Any:
    raise RuntimeError("a fault of ours")


def test_a_message_that_another_worker_cannot_take_by_our_fault_for_a_day_is_stored_as_failed(
    ledger: Ledger, inbox: ModuleType
) -> None:
    older = {name: kind for name, kind in KINDS.items() if name != "fees.process"}
    with failing(RuntimeError("a fault of ours")) as kind:
        inbox.take_in(kind, MESSAGE, (), FIELDS)
        for kinds in (older, KINDS, older):
            for _ in take_requests(ledger, kinds, crm_settings()):
                pass
    assert (rows_left(ledger), search(ledger)) == (1, [])

    with ledger.writing() as connection:
        earlier = f"requested_at - {requests_table.MESSAGE_WAIT_MS + 1}"
        connection.execute(text(f"UPDATE b2copy_requests SET requested_at = {earlier}"))
    for _ in take_requests(ledger, older, crm_settings()):
        pass

    assert rows_left(ledger) == 0
    assert [one.failure_reason for one in search(ledger)] == [FailureReason.BAD_PAYLOAD]


def test_a_crm_whose_own_settings_do_not_list_a_path_is_told_at_once(
    ledger: Ledger, call_paths: Callable[[str], None]
) -> None:
    from tasks import enqueue

    call_paths(LIST)
    with pytest.raises(PathNotListed, match="not among B2COPY_CALL_PATHS"):
        enqueue.call(UPDATE, {}, key="K1")
    instances.ledger().close()

    assert (rows_left(ledger), search(ledger)) == (0, [])


@on_postgresql
def test_an_open_transaction_that_holds_a_key_holds_up_its_entity_alone(
    ledger: Ledger, insert: Insert, open_again: Callable[[], Ledger]
) -> None:
    first = KINDS["call"].new(json.loads(CALL % ("K1", "A")), crm_settings())
    with open_again().writing() as crm:
        record(ledger, [first], "crm", crm)
        for of in (("K1", "A"), ("K2", "A"), ("K3", "B")):
            insert(kind="call", payload=CALL % of)

        assert take(ledger) == {"default": 1}
        assert [one.key for one in search(ledger)] == ["call:K3"]
        assert seconds_since_outage(ledger.engine) > 60, "the database is taken for unavailable"

    assert take(ledger) == {"default": 1}
    assert rows_left(ledger) == 0
    assert {one.key for one in search(ledger)} == {"call:K1", "call:K2", "call:K3"}


def test_the_time_of_an_operation_begins_with_its_request(ledger: Ledger, insert: Insert) -> None:
    insert(kind="fees.process", payload=FEES % "W1", requested_at=LONG_AGO)
    bad = insert(kind="fees.process", payload="{", requested_at=LONG_AGO, batch="B", trace_id="T")
    insert(kind="fees.process", payload=FEES % "W2", requested_at=2**50)  # in the future

    take(ledger)

    operation, failed, future = find(ledger, key_of("W1")), failed_request(ledger, bad), find(ledger, key_of("W2"))
    assert operation is not None
    assert future is not None
    assert (operation.requested_at, operation.deadline_at) == (LONG_AGO, LONG_AGO + 72 * 3_600_000)
    assert (failed.requested_at, failed.batch, failed.trace_id) == (LONG_AGO, "B", "T")
    assert future.requested_at == future.state_since


@pytest.mark.usefixtures("after_five_minutes")
def test_two_bad_rows_with_one_id_are_both_stored(ledger: Ledger, insert: Insert) -> None:
    insert(id=5, kind="fees", payload="{}")
    take(ledger)
    insert(id=5, kind="fee", payload="{}")  # the table was restored, and its ids began again

    take(ledger)

    assert sorted(one.payload["task"] for one in search(ledger)) == ["fee", "fees"]


def test_a_rolled_back_insert_was_never_requested(ledger: Ledger) -> None:
    with ledger.engine.connect() as crm:
        crm.execute(text("INSERT INTO b2copy_requests (kind, payload) VALUES ('fees', '{}')"))
        crm.rollback()

    assert take(ledger) == {}
    assert search(ledger) == []


def test_many_rows_are_taken_in_batches_and_in_order(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_table, "BATCH", 10)
    for number in range(25):
        by = ("Ada", "Bob")[number % 3 == 0]
        insert(kind="fees.process", payload=FEES % f"W{number}", requested_by=by)

    assert [sum(queued.values()) for queued in take_requests(ledger, KINDS, crm_settings())] == [10, 10, 5, 0]

    found = sorted(search(ledger), key=lambda one: one.id)
    assert [one.key for one in found] == [f"fees.process:W{number}" for number in range(25)]


def bulk(insert: Insert, *of: tuple[str, str]) -> None:
    """Insert calls of a backfill: (key, entity)."""
    for one in of:
        insert(kind="call", payload=CALL % one, lane="bulk")


def in_order(ledger: Ledger) -> list[str]:
    """Return the natural ids of all operations in the order in which they were recorded."""
    return [one.key.partition(":")[2] for one in sorted(search(ledger), key=lambda one: one.id)]


def test_a_backfill_does_not_stand_in_front_of_a_withdrawal(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_table, "BATCH", 2)
    bulk(insert, *((f"K{number}", f"E{number}") for number in range(4)))
    for name in ("B1", "B2"):  # a backfill of fee runs is one, too
        insert(kind="fees.process", payload=FEES % name, lane="bulk")
    for name, lane in (("W1", None), ("W2", "money"), ("W3", "")):
        insert(kind="fees.process", payload=FEES % name, lane=lane)

    batches = take_requests(ledger, KINDS, crm_settings())

    assert [next(batches) for _ in range(3)] == [{"bulk": 2}, {"money": 2}, {"money": 1}]
    assert in_order(ledger) == ["K0", "K1", "W1", "W2", "W3"]
    assert sum(batches, Counter()) == {"bulk": 4}
    assert in_order(ledger)[5:] == ["K2", "K3", "B1", "B2"]
    assert rows_left(ledger) == 0


def test_a_row_that_moves_money_overtakes_no_row_of_its_entity(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(fees: Any) -> Any:
        return original(fees)._replace(entity=fees.account_login if fees.account_login == "7" else None)

    original = KINDS["fees.process"].describe
    monkeypatch.setattr(requests_table, "BATCH", 2)
    monkeypatch.setitem(vars(KINDS["fees.process"]), "describe", describe)
    bulk(insert, ("K1", "1"), ("K2", "2"), ("K3", "7"))
    insert(kind="fees.process", payload=FEES % "W1")
    insert(kind="fees.process", payload='{"account_login": "8", "request_id": "W2"}')

    assert take(ledger) == {"bulk": 3, "money": 2}

    assert in_order(ledger) == ["K1", "K2", "W2", "K3", "W1"]


def test_a_row_that_moves_money_and_cannot_be_recorded_fails_alone(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_table, "BATCH", 1)
    bulk(insert, ("K1", "1"), ("K2", "2"))
    bad = insert(kind="fees.process", payload="{}")
    insert(kind="fees.process", payload=FEES % "W1")

    assert [+queued for queued in take_requests(ledger, KINDS, crm_settings())][:3] == [{"bulk": 1}, {}, {"money": 1}]

    assert "request_id is missing" in str(failed_request(ledger, bad).result)
    assert rows_left(ledger) == 0


def test_one_call_takes_rows_for_a_limited_time_and_money_in_any_case(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_table, "BATCH", 1)
    bulk(insert, *((f"K{number}", f"E{number}") for number in range(3)))
    insert(kind="fees.process", payload=FEES % "W1")

    assert list(take_requests(ledger, KINDS, crm_settings(), for_s=0.0)) == [{"bulk": 1}, {"money": 1}]
    assert rows_left(ledger) == 2
    assert take(ledger) == {"bulk": 2}


def test_rows_that_stay_take_none_of_the_time_from_those_behind_them(
    ledger: Ledger, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_table, "BATCH", 1)
    for _ in range(3):
        insert(kind="fees.of_tomorrow", payload="{}")
    bulk(insert, ("K1", "1"), ("K2", "2"))

    assert sum(take_requests(ledger, KINDS, crm_settings(), for_s=0.0), Counter()) == {"bulk": 1}
    assert rows_left(ledger) == 4


def test_two_dispatchers_at_once_take_each_row_once(
    ledger: Ledger, open_again: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_table, "BATCH", 7)
    rows = [{"payload": FEES % f"W{number}"} for number in range(100)]
    with ledger.writing() as connection:
        connection.execute(text("INSERT INTO b2copy_requests (kind, payload) VALUES ('fees.process', :payload)"), rows)
    others = [open_again(), open_again()]

    with ThreadPoolExecutor(2) as threads:
        taken = sum(threads.map(take, others), Counter())
    taken += take(ledger)  # a dispatcher leaves the rest to the other one, which may have ended just then

    assert taken == {"money": 100}
    assert rows_left(ledger) == 0
    assert len(search(ledger, limit=1000)) == 100


@on_postgresql
def test_rows_behind_those_that_another_dispatcher_holds_wait_for_it(
    ledger: Ledger, insert: Insert, open_again: Callable[[], Ledger]
) -> None:
    insert(kind="fees.process", payload=FEES % "first")
    with open_again().writing() as other:
        other.execute(text("SELECT id FROM b2copy_requests FOR UPDATE"))
        insert(kind="fees.process", payload=FEES % "second")
        assert take(ledger) == {}

    assert take(ledger) == {"money": 2}
    assert [one.key for one in search(ledger)] == ["fees.process:second", "fees.process:first"]


@on_postgresql
def test_rows_behind_any_row_that_another_dispatcher_holds_wait_for_it(
    ledger: Ledger, insert: Insert, open_again: Callable[[], Ledger]
) -> None:
    """The other one has read past a row that stays, and is recording the next rows."""
    insert(kind="fees.of_tomorrow", payload="{}")
    held = insert(kind="call", payload=CALL % ("K1", "A"))
    with open_again().writing() as other:
        other.execute(text(f"SELECT id FROM b2copy_requests WHERE id = {held} FOR UPDATE"))
        insert(kind="call", payload=CALL % ("K2", "A"))
        assert take(ledger) == {}

    assert take(ledger) == {"default": 2}
    assert [one.key for one in search(ledger)] == ["call:K2", "call:K1"]


@on_postgresql
@pytest.mark.parametrize("has_rows_behind", [True, False])
def test_a_row_that_a_transaction_locks_for_long_is_logged_once_with_who_locks_it(
    ledger: Ledger,
    insert: Insert,
    open_again: Callable[[], Ledger],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_rows_behind: bool,
) -> None:
    now = 1_000.0
    monkeypatch.setattr(requests_table, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(requests_table, "_locked", {})
    locked = insert(kind="fees.process", payload=FEES % "W1")
    with open_again().writing() as person:
        pid, user = person.execute(text("SELECT pg_backend_pid(), session_user")).one()
        person.execute(text(f"UPDATE b2copy_requests SET lane = 'bulk' WHERE id = {locked}"))
        if has_rows_behind:
            insert(kind="fees.process", payload=FEES % "W2")
        assert take(ledger) == {}
        now += requests_table.LOCKED_LONG_S - 1
        assert take(ledger) == {}
        assert caplog.text == ""

        now += 1
        assert take(ledger) == {}
        assert take(ledger) == {}
        [logged] = caplog.records
        assert logged.getMessage() == (
            f"request {locked} in b2copy_requests waits, and so do all rows behind it: a transaction that has not ended"
            f" locks it for 5 s now (PostgreSQL process {pid}, user {user})"
        )

    assert take(ledger) == {"bulk": 1} | ({"money": 1} if has_rows_behind else {})
    assert requests_table._locked == {}


@on_postgresql
def test_a_row_that_many_transactions_lock_for_a_moment_is_not_logged(
    ledger: Ledger,
    insert: Insert,
    open_again: Callable[[], Ledger],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 1_000.0
    monkeypatch.setattr(requests_table, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(requests_table, "_locked", {})
    insert(kind="fees.process", payload=FEES % "W1")
    other = open_again()
    for _ in range(3):
        with other.writing() as connection:
            connection.execute(text("SELECT id FROM b2copy_requests FOR UPDATE"))
            assert take(ledger) == {}
        now += requests_table.LOCKED_LONG_S

    assert caplog.text == ""


def _take_and_die(url: str) -> None:
    """Take the rows, and die before the transaction commits."""
    from sqlalchemy import event

    own = open_ledger(url)

    @event.listens_for(own.engine, "commit")
    def die(_connection: Connection) -> None:
        os.kill(os.getpid(), 9)

    take(own)


def test_a_dispatcher_that_is_killed_leaves_its_rows_to_the_next(
    ledger: Ledger, ledger_url: str, insert: Insert
) -> None:
    insert(kind="fees.process", payload=FEES % "W1")
    insert(kind="fees.process", payload="{}")
    process = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(ledger_url,))
    process.start()
    process.join(20)
    assert process.exitcode == -9
    assert (rows_left(ledger), search(ledger)) == (2, [])

    assert take(ledger) == {"money": 1}
    assert len(search(ledger)) == 2


def test_the_status_view_shows_state_reason_and_the_servers_text(ledger: Ledger) -> None:
    key = fail_operation(ledger, "W1", message="no such account", batch="B", trace_id="T")

    [row] = status_rows(ledger, key)

    assert json.loads(row.pop("payload")) == {"account_login": "7", "request_id": "W1"}
    assert (row["state"], row["failure_reason"], row["server_message"]) == ("failed", "rejected", "no such account")
    assert row["requested_at"] <= row["state_since"] == row["ended_at"]
    assert row.keys() == {
        "key", "kind", "lane", "state", "wait_reason", "failure_reason", "server_message", "result", "batch",
        "trace_id", "requested_by", "requested_at", "state_since", "due_at", "deadline_at", "ended_at",
    }  # fmt: skip


def test_a_row_of_a_mistyped_kind_is_a_note_and_no_sign_that_no_worker_runs(ledger: Ledger, insert: Insert) -> None:
    row = insert(kind="fees.proces", payload=FEES % "W1")
    insert(kind="fees.process", payload=FEES % "W2")
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_requests SET requested_at = requested_at - 60000"))
    assert "no worker has taken a row for 60" in "".join(find_problems(overview(ledger)))

    for _ in range(2):
        take(ledger)

    seen = overview(ledger)
    assert (seen.requests_age_s, find_problems(seen)) == (None, [])
    [note] = [note for note in find_notes(seen) if "b2copy_requests" in note]
    assert note == (
        f"b2copy_requests: row {row} waits, because another worker may take it: 'fees.proces' is no kind that this"
        " version knows; refused after 5 min"
    )

    with ledger.writing() as connection:  # it was requested long before a worker saw it
        connection.execute(text("UPDATE b2copy_requests SET requested_at = requested_at - 3600000"))
    assert overview(ledger).requests_age_s is None


def test_a_row_is_left_for_no_other_worker_if_it_must_not_be(ledger: Ledger, insert: Insert) -> None:
    insert(kind="fees.proces", payload=FEES % "W1")
    take(ledger)
    assert rows_left(ledger) == 1

    for _ in take_requests(ledger, KINDS, crm_settings(), may_leave=False):
        pass

    assert rows_left(ledger) == 0
    assert [one.failure_reason for one in search(ledger)] == [FailureReason.BAD_PAYLOAD]


def test_the_status_view_shows_the_text_of_the_last_attempt(ledger: Ledger) -> None:
    key = succeed_after_a_replay(ledger, "no such account")

    assert [(row["state"], row["server_message"]) for row in status_rows(ledger, key)] == [("succeeded", None)]


@on_postgresql
def test_a_message_waits_a_second_for_a_transaction_that_holds_its_key(
    ledger: Ledger, inbox: ModuleType, open_again: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "LOCK_WAIT_MS", 50)
    with open_again().writing() as crm:
        record(ledger, [KINDS["fees.process"].new(FIELDS, crm_settings())], "crm", crm)
        with pytest.raises(Reject):
            inbox.take_in(KINDS["fees.process"], MESSAGE, (), FIELDS)

    assert [one.key for one in search(ledger)] == [key_of("W1")]


@on_postgresql
def test_a_role_that_may_not_change_operations_is_told_who_may(
    ledger: Ledger, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import enqueue

    key = record_operation(ledger, "W1").key
    roles = Path(__file__).parents[2] / "deploy" / "postgres" / "roles.sql"
    names = "b2copy_owner, b2copy_worker, b2copy_enqueue, b2copy_crm, b2copy_viewer"
    with ledger.writing() as connection:
        connection.exec_driver_sql(roles.read_text().replace("%", "%%"), ())
    try:
        url = make_url(ledger_url)
        as_enqueue = url.update_query_dict({"options": f"{url.query['options']} -crole=b2copy_enqueue"})
        monkeypatch.setenv("B2COPY_DATABASE_URL", as_enqueue.render_as_string(hide_password=False))
        forget()
        assert enqueue.fees(account_login="7", request_id="W2").created
        with pytest.raises(NotAllowed, match="b2copy-sync failed cancel"):
            enqueue.cancel(key, why="not wanted")
        instances.ledger().close()
    finally:
        with ledger.writing() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {names}; DROP ROLE {names}")
