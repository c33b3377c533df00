"""Record: once per key, a batch completely or not at all, inside the CRM's own transaction or not."""

import json
import random
import re
import string
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import create_engine, event, select, text

from tests.ledger.databases import on_postgresql, on_sqlite
from tests.operations import claim_due, claim_one, fail, find_operation, new_operation, record_operations, succeed
from worker.console.template_values import key_url, printable
from worker.errors import BadPayload, PayloadConflict
from worker.ledger import Ledger, cancel, fail_message, find, leave_request, record, search
from worker.ledger.insert_operations import encode, row_of
from worker.ledger.record_operations import known_among, record_rows
from worker.ledger.schema import now_ms, operations
from worker.operation import FailureReason, New, OnUnknown, State
from worker.watch.redact import redacted, redacted_value


@on_postgresql
@pytest.mark.parametrize(
    ("isolation", "paramstyle"),
    [("READ COMMITTED", "pyformat"), ("SERIALIZABLE", "pyformat"), ("READ COMMITTED", "format")],
)
def test_a_crm_whose_engine_has_another_driver_records_in_its_transaction(
    ledger: Ledger, ledger_url: str, isolation: Any, paramstyle: str
) -> None:
    """Parameters by name (`pyformat`), or by position as pg8000 takes them (`format`)."""
    url = ledger_url.replace("+psycopg:", "+psycopg2:")
    crm = create_engine(url, isolation_level=isolation, paramstyle=paramstyle)
    odd = {"note": "100 % :name %(name)s \u00fcn\u00ef \u0001", "n": 1.10}
    news = [
        new_operation("W1", entity="7"),
        new_operation("C1", kind="call", payload=odd, parent="fees.process:W1", batch="book"),
    ]

    with crm.connect() as transaction:
        record(ledger, news, "the CRM", transaction)
        transaction.rollback()
        assert [find(ledger, one.key) for one in news] == [None, None]
        created = record(ledger, news, "the CRM", transaction)
        again = record(ledger, news, "the CRM", transaction)
        transaction.commit()
    crm.dispose()

    assert [one.created for one in (*created, *again)] == [True, True, False, False]
    assert find_operation(ledger, "C1", kind="call").payload == odd


def test_the_schema_map_of_a_crms_connection_holds_for_all_statements(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        is_sqlite = ledger.engine.dialect.name == "sqlite"
        schema = "main" if is_sqlite else connection.execute(text("SELECT current_schema()")).scalar_one()
    sent: list[str] = []
    event.listen(ledger.engine, "before_cursor_execute", lambda _c, _cursor, sql, *_: sent.append(sql))

    with ledger.engine.connect().execution_options(schema_translate_map={None: schema}) as crm, crm.begin():
        for _ in range(2):
            record(ledger, [new_operation("W1")], "the CRM", crm)

    naming = [sql for sql in sent if "b2copy_operations" in sql]
    assert len(naming) == 3
    assert all(f"{schema}.b2copy_operations" in sql for sql in naming)


@on_postgresql
def test_one_operation_is_recorded_in_one_round_trip(ledger: Ledger) -> None:
    sent: list[str] = []
    record_operations(ledger, "W0")
    event.listen(ledger.engine, "before_cursor_execute", lambda _c, _cursor, sql, *_: sent.append(sql.split()[0]))

    [created] = record_operations(ledger, "W1")
    [known] = record_operations(ledger, "W1")

    assert (created.created, known.created) == (True, False)
    assert sent == ["INSERT", "INSERT", "SELECT"]
    assert len(search(ledger)) == 2
    sent.clear()
    with pytest.raises(PayloadConflict):
        record_operations(ledger, "W1", payload={"other": 1})
    sent.clear()
    record_operations(ledger, "W2", "W3")
    record_operations(ledger, "W4", batch="book")
    assert sent.count("BEGIN") == 2, "what is more than one statement is a transaction"


def test_operations_that_share_nothing_are_recorded_in_their_order_by_one_statement(ledger: Ledger) -> None:
    sent: list[str] = []
    event.listen(ledger.engine, "before_cursor_execute", lambda _c, _cursor, sql, *_: sent.append(sql.split()[0]))
    news = [
        new_operation("W1", lane="money", trace_id="t1"),
        new_operation("C1", kind="call", lane="bulk", entity="7", batch="book"),
        new_operation("W2", lane="money", requested_at=1_700_000_000_000, time_allowed_s=60.0),
        new_operation("C2", kind="call", lane="bulk", entity="7", parent="call:C1", on_unknown=OnUnknown.REPEAT),
        new_operation("W3", lane="default", destination="crm"),
    ]

    recorded = record(ledger, [*news, news[0]], by="a test")

    assert sent.count("INSERT") == 1
    ids = [one.id for one in recorded]
    assert ids == [*sorted(ids[:5]), ids[0]]
    assert [one.created for one in recorded] == [True] * 5 + [False]
    for new in news:
        found = find(ledger, new.key)
        assert found is not None
        names = ("kind", "payload", "lane", "entity", "parent", "destination", "on_unknown", "batch", "trace_id")
        assert [getattr(found, name) for name in names] == [getattr(new, name) for name in names]
    dated = find_operation(ledger, "W2")
    assert (dated.requested_at, dated.deadline_at) == (1_700_000_000_000, 1_700_000_060_000)


def test_a_request_is_never_recorded_as_later_than_now(ledger: Ledger) -> None:
    record_operations(ledger, "W1", requested_at=2**52)

    found = find_operation(ledger, "W1")
    assert found.requested_at == found.state_since


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_payload_is_encoded_as_the_json_module_does_it(value: Any) -> None:
    assert encode(value) == json.dumps(value, sort_keys=True, separators=(",", ":"))


def test_a_recorded_operation_is_queued(ledger: Ledger) -> None:
    [recorded] = record_operations(ledger, "W1", entity="123456", time_allowed_s=60.0, on_unknown=OnUnknown.REPEAT)

    found = find_operation(ledger, "W1")
    assert (recorded.id, recorded.state, recorded.created) == (found.id, State.QUEUED, True)
    assert (found.payload, found.entity) == ({"account_login": "7", "request_id": "W1"}, "123456")
    assert (found.on_unknown, found.destination) == (OnUnknown.REPEAT, "b2copy")
    assert found.deadline_at == found.requested_at + 60_000
    assert found.requested_by == "a test"


EMPTY: dict[str, Any] = dict.fromkeys(
    ("wait_reason", "failure_reason", "position", "lease_owner", "unknown_step", "progress", "deadline_at",
     "time_allowed_ms", "ended_at", "result", "last_answer", "last_answer_fence", "entity", "parent", "batch",
     "trace_id")
) | dict.fromkeys(
    ("fence", "counted_attempts", "polls", "replays", "last_wait_ms", "external_wait_ms", "notice_sequence"), 0
)  # fmt: skip


def row_and_now(ledger: Ledger, key: str) -> tuple[dict[str, Any], int]:
    """Return all columns of an operation but its id, and the database's clock."""
    with ledger.reading() as connection:
        found = connection.execute(select(operations, now_ms().label("now")).where(operations.c.key == key)).one()
    row = found._asdict()
    del row["id"]
    return row, row.pop("now")


@pytest.mark.parametrize("requested_ago_ms", [None, 50_000, -50_000], ids=["now", "before", "by a clock that is ahead"])
def test_a_recorded_operation_holds_what_was_requested_and_nothing_else(
    ledger: Ledger, requested_ago_ms: int | None
) -> None:
    _, now = row_and_now(ledger, record_operations(ledger, "W0")[0].key)
    fields: dict[str, Any] = {
        "kind": "call", "key": "call:1", "lane": "bulk", "entity": "7", "parent": "fees.process:W0",
        "destination": "crm", "on_unknown": OnUnknown.REPEAT, "batch": "book", "trace_id": "t" * 32,
    }  # fmt: skip
    asked_at = None if requested_ago_ms is None else now - requested_ago_ms
    new = New(**fields, payload={"b": "ü", "a": 1}, time_allowed_s=60.0, requested_at=asked_at)

    record(ledger, [new], by="a test")

    row, now = row_and_now(ledger, "call:1")
    requested_at, since = row.pop("requested_at"), row.pop("state_since")
    assert 0 <= now - since < 60_000
    assert requested_at == asked_at if requested_ago_ms == 50_000 else 0 <= now - requested_at < 60_000
    assert row == EMPTY | fields | {
        "payload": '{"a":1,"b":"\\u00fc"}', "state": "queued", "phase": "submit", "due_at": since, "sent": False,
        "outcome_unknown": False, "requested_by": "a test", "time_allowed_ms": 60_000,
        "deadline_at": requested_at + 60_000,
    }  # fmt: skip


def test_texts_are_as_long_as_the_database_takes(ledger: Ledger) -> None:
    longest = New("call", "k" * 255, {"text": "x" * (65_536 - len('{"text":""}'))}, "money", entity="7", parent="p")
    too_long = [
        longest._replace(key="k" * 256),
        longest._replace(key="k", payload={"text": longest.payload["text"] + "x"}),
    ]

    record(ledger, [longest], by="a test")
    for one in too_long:
        with pytest.raises(BadPayload, match=r"255|65536"):
            record(ledger, [one], by="a test")

    assert find(ledger, longest.key) is not None


def test_a_request_row_holds_what_was_requested(ledger: Ledger) -> None:
    leave_request(ledger, "fees.process", '{"request_id": "W1"}', "crm", "t1")

    with ledger.reading() as connection:
        [row] = connection.execute(
            text("SELECT kind, payload, lane, requested_by, batch, trace_id FROM b2copy_requests")
        )
    assert tuple(row) == ("fees.process", '{"request_id": "W1"}', None, "crm", None, "t1")


def test_before_recording_it_can_be_asked_what_is_known_already(ledger: Ledger) -> None:
    record_operations(ledger, "W1", "W2", "W3", "W4")
    cancel(ledger, "fees.process:W1", "ada", "no")
    other = {"account_login": "8", "request_id": "W2", "amount": 1}
    asked = [
        new_operation("W1"),
        new_operation("W2", payload=other),
        new_operation("W3")._replace(kind="call"),
        new_operation("W5"),
    ]

    assert known_among(ledger, {new.key: row_of(new, "a test") for new in asked}) == {
        "fees.process:W1": (State.CANCELLED, ""),
        "fees.process:W2": (State.QUEUED, "account_login, amount"),
        "fees.process:W3": (State.QUEUED, "kind"),
    }
    with pytest.raises(BadPayload):
        row_of(New("call", "", {}, "money"), "a test")


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_known_key_returns_the_existing_operation_in_any_state(ledger: Ledger, state: State) -> None:
    [first] = record_operations(ledger, "W1")
    match state:
        case State.RUNNING:
            claim_due(ledger)
        case State.SUCCEEDED:
            succeed(ledger, claim_one(ledger))
        case State.FAILED:
            fail(ledger, claim_one(ledger))
        case State.CANCELLED:
            cancel(ledger, first.key, "ada", "not wanted")

    [again] = record_operations(ledger, "W1")

    assert again == (first.id, first.key, state, False)
    assert len(search(ledger)) == 1


def test_a_known_key_with_another_payload_is_refused_and_both_payloads_are_shown(ledger: Ledger) -> None:
    record_operations(ledger, "W1")

    with pytest.raises(PayloadConflict) as refused:
        record(
            ledger,
            [new_operation("W2"), New("fees.process", "fees.process:W1", {"request_id": "X"}, "money")],
            by="a test",
        )

    assert '{"account_login":"7","request_id":"W1"}' in str(refused.value)
    assert '{"request_id":"X"}' in str(refused.value)
    assert find(ledger, "fees.process:W2") is None, "the batch was recorded in part"


def test_a_known_key_of_another_kind_is_refused(ledger: Ledger) -> None:
    record_operations(ledger, "W1")

    with pytest.raises(PayloadConflict):
        record(
            ledger, [New("call", "fees.process:W1", {"account_login": "7", "request_id": "W1"}, "money")], by="a test"
        )


def test_the_order_of_a_payloads_fields_does_not_matter(ledger: Ledger) -> None:
    record(ledger, [New("call", "call:1", {"a": 1, "b": {"c": 2, "d": 3}}, "money")], by="a test")

    [again] = record(ledger, [New("call", "call:1", {"b": {"d": 3, "c": 2}, "a": 1}, "money")], by="a test")

    assert not again.created


def test_a_key_twice_in_one_batch_is_one_operation(ledger: Ledger) -> None:
    first, second, other = record_operations(ledger, "W1", "W1", "W2")

    assert second == first._replace(created=False), "it was created once"
    assert other.id > first.id
    assert len(search(ledger)) == 2


def test_a_key_twice_in_one_batch_with_two_payloads_is_refused(ledger: Ledger) -> None:
    with pytest.raises(PayloadConflict):
        record(
            ledger, [New("call", "call:1", {"a": 1}, "money"), New("call", "call:1", {"a": 2}, "money")], by="a test"
        )

    assert search(ledger) == []


def test_a_large_batch_keeps_its_order(ledger: Ledger) -> None:
    recorded = record_operations(ledger, *(f"W{number}" for number in range(3000)))

    assert [one.key for one in recorded] == [f"fees.process:W{number}" for number in range(3000)]
    assert [one.id for one in recorded] == sorted(one.id for one in recorded)


def test_an_empty_batch_records_nothing(ledger: Ledger) -> None:
    assert record(ledger, [], by="a test") == []


def test_a_key_recorded_by_many_threads_at_once_is_created_once(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as threads:
        recorded = [one for [one] in threads.map(lambda _: record_operations(ledger, "W1"), range(32))]

    assert sum(one.created for one in recorded) == 1
    assert len({one.id for one in recorded}) == 1


def test_recording_commits_with_the_crms_own_transaction(ledger: Ledger) -> None:
    with ledger.engine.begin() as crm:
        crm.execute(text("CREATE TABLE IF NOT EXISTS withdrawals (id TEXT)"))
        crm.execute(text("INSERT INTO withdrawals VALUES ('W1')"))
        record(ledger, [new_operation("W1")], by="the CRM", connection=crm)
        assert find(ledger, "fees.process:W1") is None, "visible before the CRM committed"

    assert find_operation(ledger, "W1").state == State.QUEUED


def test_recording_rolls_back_with_the_crms_own_transaction(ledger: Ledger) -> None:
    with ledger.engine.connect() as crm:
        record(ledger, [new_operation("W1")], by="the CRM", connection=crm)
        crm.rollback()

    assert find(ledger, "fees.process:W1") is None


@on_sqlite
@pytest.mark.parametrize(
    ("flawed", "field"),
    [
        (New("call", "", {}, "money"), "key"),
        (New("call", "call:\n", {}, "money"), "key"),
        (New("call", "call:" + "x" * 300, {}, "money"), "key"),
        (New("call", "call:1", {}, "money", entity="\0"), "entity"),
        (New("call", "call:1", {}, "money", parent="call:1"), "parent"),
        (New("call", "call:1", {"amount": float("nan")}, "money"), "payload"),
        (New("call", "call:1", {"when": object()}, "money"), "payload"),
        (New("call", "call:1", {"text": "x" * 70_000}, "money"), "payload"),
    ],
)
def test_an_operation_with_an_unusable_field_is_refused(ledger: Ledger, flawed: New, field: str) -> None:
    with pytest.raises(BadPayload, match=field):
        record(ledger, [new_operation("W1"), flawed], by="a test")

    assert search(ledger) == []


SECRET_LIKE = [
    "reset-password:4711", "api-key:17", "change-pass:W1", "pwd:5", "cookie:9", "token:abcdefgh12345678", "by-pass:12",
    "token:17", "kyc/pass=1", "eyJhbGciOiJFUzI1NiJ9", "a://b:c@d",
]  # fmt: skip


@on_sqlite
@pytest.mark.parametrize("name", SECRET_LIKE)
def test_what_would_be_blanked_names_no_operation(ledger: Ledger, name: str) -> None:
    key = f"call:{name}"
    flawed = {
        "key": New("call", key, {}, "money"),
        "entity": New("call", "call:1", {}, "money", entity=name),
        "parent": New("call", "call:1", {}, "money", parent=key),
        "batch": New("call", "call:1", {}, "money", batch=name),
    }
    for field, new in flawed.items():
        with pytest.raises(BadPayload, match=f"^{field} reads like a secret"):
            record(ledger, [new], by="a test")

    assert search(ledger) == []


names = st.lists(
    st.sampled_from([
        "reset", "password", "pass", "token", "otp", "key", "api_key", "cookie", "eyJ", "Basic", "http://", "call",
        "17", "abcdefgh12345678", ":", "=", "-", "_", "/", ".", ",", "@", "'", '"', "[", "]", "{", "}", "<", ">", "\\",
        "%3A", "&",
    ])
    | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=3),
    min_size=1,
    max_size=7,
).map("".join)  # fmt: skip


def test_random_ids_do_not_read_like_a_secret() -> None:
    """As nanoid makes them: 21 of 64 characters. `eyJ`, as a JWT begins, is among them now and then."""
    chosen = random.Random(7)
    alphabet = string.ascii_letters + string.digits + "-_"
    ids = ["".join(chosen.choices(alphabet, k=21)) for _ in range(100_000)]
    with_eyj = [f"{one[:number]}eyJ{one[number + 3 :]}" for number, one in enumerate(ids[:18], 1)]

    assert [one for one in [*ids, *with_eyj, "heyJude.csv"] if redacted(f"call:{one}") != f"call:{one}"] == []


@given(names)
@example("keyJob")
@example("heyJude")
@example("passport-check:4711")
@example("reset-password-4711")
def test_the_key_of_an_operation_is_shown_as_it_is(name: str) -> None:
    key = f"call:{name}"
    try:
        row_of(New("call", key, {"key": name}, "default"), "a test")
    except BadPayload:
        return

    document = json.dumps({"key": key, "state": "queued"})
    address = key_url(key)
    assert redacted(key) == key
    assert redacted(f"{key}: there is no such operation").startswith(key)
    assert redacted(document) == document
    assert redacted_value({"key": key}) == {"key": key}
    assert json.dumps(key) in redacted(f"B2COPY was asked for {document}")
    assert printable(address) == address


@on_sqlite
def test_a_message_is_stored_whatever_its_id_and_batch_read_like(ledger: Ledger) -> None:
    for _ in range(2):
        fail_message(ledger, "reset-password:4711", "task", "wrong", by="crm", raw="raw", batch="pwd:5")

    [stored] = search(ledger)
    assert re.fullmatch("message:[0-9a-f]{32}", stored.key)
    assert re.fullmatch("[0-9a-f]{32}", stored.batch or "")
    assert stored.payload["message"] == "raw"


def test_operations_that_wait_for_each_other_are_refused(ledger: Ledger) -> None:
    with pytest.raises(BadPayload, match="wait for itself") as refused:
        record(
            ledger,
            [
                new_operation("W1", parent="fees.process:W3"),
                new_operation("W2", parent="fees.process:W1"),
                new_operation("W3", parent="fees.process:W2"),
            ],
            by="a test",
        )

    assert "fees.process:W1 waits for fees.process:W3 waits for fees.process:W2" in str(refused.value)
    assert search(ledger) == []


def test_a_cycle_through_recorded_operations_is_refused(ledger: Ledger) -> None:
    record_operations(ledger, "W1", parent="fees.process:W3")
    record_operations(ledger, "W2", parent="fees.process:W1")

    with pytest.raises(BadPayload, match="wait for itself"):
        record_operations(ledger, "W3", parent="fees.process:W2")

    assert len(search(ledger)) == 2


def test_a_circle_that_two_transactions_closed_stops_nobody(ledger: Ledger) -> None:
    record_operations(ledger, "W1", parent="fees.process:W9")  # so that the parents of W9 are looked up
    record_operations(ledger, "A1", "A2")
    with ledger.writing() as connection:
        for name, parent in (("A1", "A2"), ("A2", "A1")):
            named = operations.c.key == f"fees.process:{name}"
            connection.execute(operations.update().where(named).values(parent=f"fees.process:{parent}"))

    record_operations(ledger, "W9", parent="fees.process:A1")

    assert len(search(ledger)) == 4


def test_a_long_chain_of_parents_is_recorded(ledger: Ledger) -> None:
    record_operations(ledger, "W9", parent="fees.process:W8")
    chain = [new_operation(f"W{number}", parent=f"fees.process:W{number - 1}") for number in range(1, 10)]

    recorded = record(ledger, chain, by="a test")

    assert [one.created for one in recorded] == [True] * 8 + [False]


def test_an_operation_that_leads_to_a_cycle_does_not_hide_it(ledger: Ledger) -> None:
    with pytest.raises(BadPayload, match=r"process:W2 waits for fees\.process:W3 waits for fees\.process:W2\)"):
        record(
            ledger,
            [
                new_operation("W1", parent="fees.process:W2"),
                new_operation("W2", parent="fees.process:W3"),
                new_operation("W3", parent="fees.process:W2"),
            ],
            by="a test",
        )
    record_operations(ledger, "W4", parent="fees.process:W5")
    with pytest.raises(BadPayload, match=r"process:W5 waits for fees\.process:W4 waits for fees\.process:W5\)"):
        record(
            ledger,
            [new_operation("W6", parent="fees.process:W4"), new_operation("W5", parent="fees.process:W4")],
            by="a test",
        )

    assert [one.key for one in search(ledger)] == ["fees.process:W4"]


class CountedKey(str):
    """A key that counts how often one is compared with another text."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        CountedKey.compared += 1
        return str.__eq__(self, other)


def test_a_chain_of_parents_costs_each_operation_the_same_however_long_it_is(ledger: Ledger) -> None:
    length = 100
    rows = [
        row_of(new_operation(f"W{number}", parent="fees.process:W0"), "a test")._replace(
            key=CountedKey(f"fees.process:W{number}"), parent=CountedKey(f"fees.process:W{number - 1}")
        )
        for number in range(1, length + 1)
    ]
    CountedKey.compared = 0

    recorded = record_rows(ledger, rows)

    assert sum(one.created for one in recorded) == length
    assert CountedKey.compared <= 50 * length


def test_any_text_in_a_payload_is_read_back_unchanged(ledger: Ledger) -> None:
    payload = {"name": "Ада \0 \U0001f600", "amount": "100.10"}

    record(ledger, [New("call", "call:1", payload, "money")], by="line\0break\n")

    found = find(ledger, "call:1")
    assert found is not None
    assert found.payload == payload
    assert found.requested_by == "line?break?"


def test_an_unusable_message_is_stored_once_as_a_failed_operation(ledger: Ledger) -> None:
    first = fail_message(ledger, "m-1", "b2copy.fees.process", "no request_id", by="crm", raw='{"args": []}\0')
    again = fail_message(ledger, "m-1", "b2copy.fees.process", "no request_id", by="crm", raw='{"args": []}\0')

    [stored] = search(ledger, state=State.FAILED)
    assert (first.created, again.created, again.id) == (True, False, first.id)
    assert (stored.key, stored.failure_reason) == ("message:m-1", FailureReason.BAD_PAYLOAD)
    assert stored.payload == {"task": "b2copy.fees.process", "message": '{"args": []}\0'}
    assert stored.result == {"error": "no request_id"}
    assert claim_due(ledger, lane="default") == []


def test_of_a_long_unusable_message_the_beginning_is_stored(ledger: Ledger) -> None:
    fail_message(ledger, "m-1", "task", "too long", by="crm", raw="x" * 10_000, trace_id="t1")

    row, now = row_and_now(ledger, "message:m-1")
    for instant in ("requested_at", "state_since", "ended_at"):
        assert 0 <= now - row.pop(instant) < 60_000
    expected = {
        "key": "message:m-1", "kind": "message", "lane": "default", "payload": json.dumps(
            {"message": "x" * 8192, "task": "task"}, separators=(",", ":")
        ), "state": "failed", "failure_reason": "bad_payload", "phase": "submit", "due_at": None, "sent": False,
        "outcome_unknown": False, "requested_by": "crm", "destination": "b2copy", "on_unknown": "stop",
        "trace_id": "t1", "result": '{"error":"too long"}',
    }  # fmt: skip
    assert row == {name: value for name, value in (EMPTY | expected).items() if name in row}


@pytest.mark.parametrize("key", ["fees.process:W\0", "fees.process:\ud800", 5, None, b"x", ["x"]], ids=repr)
def test_a_key_that_no_operation_can_have_is_not_found(ledger: Ledger, key: Any) -> None:
    assert find(ledger, key) is None


def test_half_a_character_is_refused_wherever_it_stands_in_a_payload(ledger: Ledger) -> None:
    for payload in ({"a": "\ud800"}, {"a": [{"\udfff": 1}]}):
        with pytest.raises(BadPayload, match="half of a surrogate pair"):
            record(ledger, [new_operation("C1", payload=payload)], by="test")
    record(ledger, [new_operation("C1", payload={"a": "\U0001f600 \\ud800"})], by="test")


@pytest.mark.parametrize(
    ("change", "by", "problem"),
    [({"batch": 5}, "test", "batch must be"), ({"trace_id": b"x"}, "test", "trace_id must be"), ({}, 5, "by must be")],
)
def test_what_is_no_text_is_refused_by_its_name(ledger: Ledger, change: dict[str, Any], by: Any, problem: str) -> None:
    with pytest.raises(BadPayload, match=problem):
        record(ledger, [new_operation("C1")._replace(**change)], by=by)


@pytest.mark.parametrize(
    ("stored", "asked"), [({"a": "1"}, {"a": "1", "b": None}), ({"b": None, "a": "1"}, {"a": "1"})]
)
def test_a_field_without_a_value_makes_no_other_request(
    ledger: Ledger, stored: dict[str, Any], asked: dict[str, Any]
) -> None:
    """As a version with one more field would ask for what an earlier version has recorded."""
    record_operations(ledger, "C1", kind="call", payload=stored)

    [again] = record_operations(ledger, "C1", kind="call", payload=asked)

    assert not again.created
    with pytest.raises(PayloadConflict, match="another b"):
        record_operations(ledger, "C1", kind="call", payload=asked | {"b": "2"})
