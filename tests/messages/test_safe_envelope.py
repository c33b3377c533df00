"""Each item of a queue becomes an envelope that kombu can deliver, whatever another program has put there."""

import base64
import json
from typing import Any

import pytest

from tests.conftest import forget
from tests.ledger.conftest import database, ledger_url, migrated_schema, postgres_server  # noqa: F401
from tests.messages.delivered import Delivered
from worker.instances import ledger
from worker.ledger import search
from worker.messages.bad_message_text import EVIDENCE_LIMIT, NAME_LIMIT, PROBLEM_LIMIT, bounded_ascii
from worker.messages.consumer import _storing
from worker.messages.inbox import store_failed
from worker.messages.safe_envelope import ENVELOPE_LIMIT, UNUSABLE, deliverable, restorable

BODY = b'[["7", "W1"], {}, {}]'


def item(**changes: Any) -> dict[str, Any]:
    """Return what Celery puts into a queue."""
    return {
        "body": base64.b64encode(BODY).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "b2copy.fees.process", "id": "m1"},
        "properties": {"body_encoding": "base64", "delivery_tag": "theirs", "priority": 9, "reply_to": "celery"},
    } | changes


def delivered(what: dict[str, Any] | bytes, queue: str = "b2copy.inbox") -> dict[str, Any]:
    return dict(json.loads(deliverable(what if isinstance(what, bytes) else json.dumps(what).encode(), queue)))


def body_of(envelope: dict[str, Any]) -> bytes:
    return base64.b64decode(envelope["body"])


def problem_of(envelope: dict[str, Any]) -> str:
    """Return why an item is unusable."""
    assert (envelope["content-type"], envelope["content-encoding"]) == (UNUSABLE, "binary")
    return str(envelope["headers"]["problem"])


def test_a_message_is_delivered_with_what_we_use_and_nothing_else() -> None:
    headers = {
        "task": "t", "id": "m1", "origin": "crm@host", "eta": "soon", "expires": 5.5, "problem": "p", "traceparent": "0"
    }  # fmt: skip
    others = {"compression": None, "shadow": None, "reply_to": "celery", "retries": 3}

    found = delivered(item(headers=headers | others))

    tag = found["properties"].pop("delivery_tag")
    assert found == {
        "body": base64.b64encode(BODY).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {
            "correlation_id": "m1",
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "b2copy.inbox"},
            "priority": 0,
        },
    }
    assert tag not in {"theirs", delivered(item())["properties"]["delivery_tag"]}, "each delivery has a tag of its own"


def test_a_rejected_message_goes_back_to_the_queue_that_it_came_from() -> None:
    elsewhere = {"body_encoding": "base64", "delivery_info": {"exchange": "x", "routing_key": "celery"}}

    found = delivered(item(properties=elsewhere), "b2copy.reads")

    assert found["properties"]["delivery_info"] == {"exchange": "", "routing_key": "b2copy.reads"}


@pytest.mark.parametrize("missing", ["headers", "properties", "body", "content-type", "content-encoding"])
def test_what_a_message_does_not_have_is_empty(missing: str) -> None:
    found = delivered({name: value for name, value in item().items() if name != missing})

    assert found["headers"] == ({} if missing == "headers" else item()["headers"])
    assert found["properties"]["correlation_id"] == (None if missing == "headers" else "m1")
    assert body_of(found) == {"body": b"", "properties": item()["body"].encode()}.get(missing, BODY)
    assert found["content-type"] == (None if missing == "content-type" else "application/json")
    assert found["content-encoding"] == (None if missing == "content-encoding" else "utf-8")


@pytest.mark.parametrize("properties", [{}, {"body_encoding": None}, {"body_encoding": "utf-8"},
                                        {"body_encoding": "utf8"}, 7, "x"], ids=str)  # fmt: skip
def test_a_body_may_come_as_plain_text(properties: Any) -> None:
    assert body_of(delivered(item(body="é \ud800", properties=properties))) == "é \ud800".encode(
        "utf-8", "surrogatepass"
    )


def test_a_content_type_that_is_no_text_is_none() -> None:
    found = delivered(item(**{"content-type": 7, "content-encoding": ["utf-8"]}))

    assert (found["content-type"], found["content-encoding"], body_of(found)) == (None, None, BODY)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"headers": ["task"]}, "named values"),
        ({"headers": "task"}, "named values"),
        ({"headers": {"id": "m1", "compression": "gzip"}}, "without compression"),
        ({"headers": {"id": 7}}, "header id must be text"),
        ({"headers": {"task": 1.5}}, "header task must be text"),
        ({"headers": {"problem": 1}}, "header problem must be text"),
        ({"headers": {"traceparent": 1}}, "header traceparent must be text"),
        ({"headers": {"origin": ["x"]}}, "header origin must be text"),
        ({"headers": {"expires": {"x": 1}}}, "header expires must be text"),
        ({"body": 7}, "body must be text"),
        ({"body": ["x"]}, "body must be text"),
        ({"body": "a"}, "not base64"),
        ({"properties": {"body_encoding": "hex"}}, "body_encoding hex is unknown"),
    ],
    ids=str,
)
def test_an_unusable_message_is_replaced_by_one_that_says_why(changes: dict[str, Any], problem: str) -> None:
    original = json.dumps(item(**changes))

    found = delivered(original.encode())

    assert problem in problem_of(found)
    assert body_of(found).decode() == original, "the evidence"
    assert found["properties"]["correlation_id"] == found["headers"]["id"]


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "no message of Celery's"),
        (b"{", "no message of Celery's"),
        (b"[1]", "no message of Celery's"),
        (b"null", "no message of Celery's"),
        (b"[" * 100_000, "no message of Celery's"),
        (b"\xff", "no message of Celery's"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_bytes_that_are_no_message_are_replaced_too(raw: bytes, problem: str) -> None:
    found = delivered(raw)

    assert problem in problem_of(found)
    assert found["headers"].keys() == {"id", "problem"}
    assert found["headers"]["id"] != delivered(raw)["headers"]["id"], "two such items are two operations"
    assert len(body_of(found)) <= EVIDENCE_LIMIT + 100


@pytest.mark.parametrize("name", ["body", "headers"])
def test_an_envelope_that_gives_two_values_to_one_name_is_refused(name: str) -> None:
    raw = json.dumps(item())[:-1] + f', "{name}": {json.dumps(item()[name])}}}'

    assert problem_of(delivered(raw.encode())) == f"no message of Celery's: '{name}' is given twice"


def test_an_unusable_message_keeps_its_names_in_short() -> None:
    found = delivered(
        item(headers={"id": "m1", "task": "t" * 1000, "origin": "crm\n", "eta": "x", "compression": "gzip"})
    )

    assert found["headers"].keys() == {"id", "task", "origin", "problem"}
    assert (found["headers"]["id"], found["headers"]["origin"]) == ("m1", "crm\\n")
    assert found["headers"]["task"].startswith("t" * NAME_LIMIT + " ... (1000 bytes")


def test_a_problem_is_short() -> None:
    long = "x" * 10_000

    assert len(problem_of(delivered(item(properties={"body_encoding": long})))) <= PROBLEM_LIMIT + 100


def test_a_message_may_be_as_long_as_the_limit_and_not_longer() -> None:
    raw = json.dumps(item())
    longest = raw.ljust(ENVELOPE_LIMIT).encode()

    assert "problem" not in delivered(longest)["headers"]
    assert "it has 1048577 bytes, 1048576 are allowed" in problem_of(delivered(longest + b" "))


@pytest.mark.parametrize("queue", ["b2copy.inbox", "b2copy.money", "b2copy.reads"])
def test_a_delivery_that_was_not_acknowledged_goes_back_to_its_queue(queue: str) -> None:
    note = json.dumps([item(), "", queue]).encode()

    assert restorable(note) == (queue, json.dumps(item()).encode())


@pytest.mark.parametrize(
    "note",
    [b"garbage", b"[]", b"7", b'["x", "", "b2copy.money"]', b'[{}, "", "celery"]', b'[{}, "", ["b2copy.money"]]'],
    ids=repr,
)
def test_a_note_that_is_not_kombus_goes_to_the_inbox_as_it_is(note: bytes) -> None:
    assert restorable(note) == ("b2copy.inbox", note)


@pytest.mark.parametrize("raw", [b"short", b"\xff\0" * 50_000, b"x" * EVIDENCE_LIMIT + b"x"], ids=len)
def test_an_unusable_message_that_was_put_back_keeps_its_problem_and_its_evidence(raw: bytes) -> None:
    first = delivered(raw)

    again = delivered(first)

    assert problem_of(again) == problem_of(first)
    assert (again["headers"], body_of(again)) == (first["headers"], body_of(first))


@pytest.mark.parametrize(
    "body", [b"\0" + b"x" * 100_000, b"\0", b"\xe9", b"\x7f", b"x" * (EVIDENCE_LIMIT + 101)], ids=len
)
def test_a_sender_that_claims_our_content_type_does_not_decide_what_is_stored(
    body: bytes,
    active_environment: object,
    ledger_url: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", ledger_url)
    forget()
    claim = item(**{"body": base64.b64encode(body).decode(), "content-type": UNUSABLE})

    found = delivered(claim)
    message = Delivered(body_of(found), found["headers"], content_type=found["content-type"])
    assert store_failed(**_storing(message, problem_of(found)).kwargs)

    [stored] = search(ledger())
    evidence = stored.payload["message"]
    assert (stored.key, "no sender may use" in (stored.result or {})["error"]) == ("message:m1", True)
    assert evidence == bounded_ascii(json.dumps(claim))
    assert evidence.isprintable()
    assert len(evidence) <= EVIDENCE_LIMIT + 100
