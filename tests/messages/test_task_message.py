"""What a Celery message asks for, in both versions of the protocol, and what is refused."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from kombu.message import Message

from worker.messages.safe_envelope import UNUSABLE, Unusable
from worker.messages.task_message import TaskMessage, arguments_as_text, read_task_message

HEADERS = {"task": "b2copy.fees.process", "id": "m1"}
BODY = [["7"], {"request_id": "W1"}, {}]


def read(body: Any = BODY, headers: Any = HEADERS, content_type: str = "application/json") -> TaskMessage:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_task_message(
        Message(raw, content_type=content_type, content_encoding="utf-8", headers=headers)  # type: ignore[no-untyped-call]
    )


def test_the_second_version_names_task_and_id_in_its_headers() -> None:
    assert read() == TaskMessage("m1", "b2copy.fees.process", ["7"], {"request_id": "W1"}, None, None, None)


def test_the_first_version_has_everything_in_its_body() -> None:
    body = {"task": "t", "id": "m1", "args": ["7"], "kwargs": {"a": 1}, "expires": "2026-11-26T10:00:00", "origin": "o"}

    assert read(body, {}) == TaskMessage("m1", "t", ["7"], {"a": 1}, "o", datetime(2026, 11, 26, 10, tzinfo=UTC))
    assert read({"task": "t", "id": "m1", "args": []}, {}) == TaskMessage("m1", "t", [], {}, None, None)


def test_where_both_say_something_the_headers_count() -> None:
    assert read({"task": "t", "id": "x", "args": []}, HEADERS)[:2] == ("m1", "b2copy.fees.process")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"x": 1}, {}),
        ({"task": "t", "id": "m1"}, {}),
        ({"args": []}, {}),
        (BODY, {}),
        (BODY, {"id": "m1"}),
    ],
    ids=str,
)
def test_what_names_no_task_is_no_task_message(body: Any, headers: Any) -> None:
    with pytest.raises(Unusable, match="not a task message"):
        read(body, headers)


@pytest.mark.parametrize("wrong", [{"task": 7}, {"task": None}, {"id": 7}, {"id": None}, {"id": ""}], ids=str)
def test_task_and_id_are_text(wrong: dict[str, Any]) -> None:
    with pytest.raises(Unusable, match="task and id must be text"):
        read(headers=HEADERS | wrong)


def test_an_id_is_needed() -> None:
    with pytest.raises(Unusable, match="task and id must be text"):
        read(headers={"task": "t"})


@pytest.mark.parametrize(
    "body",
    [
        [], [[]], [[], {}], [[], {}, {}, {}], "abc", 7, None, {"x": 1},
        [{}, {}, {}], [[], [], {}], [[], {}, []], {"args": {}, "kwargs": {}}, {"args": [], "kwargs": []},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_body_of_another_shape_is_refused(body: Any) -> None:
    with pytest.raises(Unusable, match="three parts: a list of arguments"):
        read(body)


@pytest.mark.parametrize("follow_up", ["callbacks", "errbacks", "chain", "chord"])
def test_a_message_with_follow_ups_is_refused_in_either_version(follow_up: str) -> None:
    with pytest.raises(Unusable, match=f"^{follow_up}: "):
        read([[], {}, {follow_up: ["x"]}])
    with pytest.raises(Unusable, match=f"^{follow_up}: "):
        read({"args": [], "kwargs": {}, follow_up: ["x"]})
    nothing = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert read([[], {}, nothing]).args == []


def test_an_eta_is_refused() -> None:
    assert read(headers=HEADERS | {"eta": None}).id == "m1"
    with pytest.raises(Unusable, match="an eta or countdown"):
        read(headers=HEADERS | {"eta": "2026-11-26T10:00:00"})


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2026-11-26T10:00:00", datetime(2026, 11, 26, 10, tzinfo=UTC)),
        ("2026-11-26T10:00:00+02:00", datetime(2026, 11, 26, 10, tzinfo=timezone(timedelta(hours=2)))),
        ("2026-11-26T10:00:00Z", datetime(2026, 11, 26, 10, tzinfo=UTC)),
        (None, None),
    ],
)
def test_a_time_without_a_zone_is_utc(written: str | None, instant: datetime | None) -> None:
    found = read(headers=HEADERS | {"expires": written}).expires_at

    assert found == instant
    assert found is None or found.tzinfo is not None


@pytest.mark.parametrize("wrong", ["soon", 5, 1.5, ""], ids=repr)
def test_an_expiry_that_is_no_time_is_refused(wrong: Any) -> None:
    with pytest.raises(Unusable, match="expires must be a time"):
        read(headers=HEADERS | {"expires": wrong})


def test_sender_and_trace_are_short_lines() -> None:
    found = read(headers=HEADERS | {"origin": "crm\n" + "x" * 1000, "traceparent": "00\n" + "y" * 1000})

    assert (found.origin or "").startswith("crm\\nxxx")
    assert (found.traceparent or "").startswith("00\\nyyy")
    assert max(len(found.origin or ""), len(found.traceparent or "")) < 300
    assert read(headers=HEADERS | {"origin": 7}).origin == "7"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"{nope", "application/json"), (b"\xff", "application/json"), (b"x", "application/x-python-serialize"),
     (b"[[], {}, {}]", "text/plain"), (b"[[], {}, {}]", "application/x-yaml")],
)  # fmt: skip
def test_a_body_that_is_not_json_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(Unusable, match="the body cannot be decoded"):
        read(body, content_type=content_type)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'[[], {"account_login": "1", "account_login": "2"}, {}]', "'account_login' is given twice"),
        (b'[[], {"payload": {"a": 1, "a": 2}}, {}]', "'a' is given twice"),
        (b'[["7", "W1"], {}, {"chain": ["x"], "chain": null}]', "'chain' is given twice"),
        (b'{"args": ["7", "W1"], "args": ["8", "W1"], "kwargs": {}}', "'args' is given twice"),
        (b'[[], {"payload": {"a": 12345678901234567.891}}, {}]', "has more digits than a JSON number keeps"),
        (b'[[], {"payload": {"a": NaN}}, {}]', "NaN is no JSON"),
    ],
)  # fmt: skip
def test_a_body_that_python_would_read_as_something_else_is_refused(body: bytes, problem: str) -> None:
    with pytest.raises(Unusable, match=problem):
        read(body)


def test_values_in_the_form_of_kombu_are_no_objects_of_the_senders() -> None:
    body = b'[[{"__type__": "uuid", "__value__": {"hex": "12345678123456781234567812345678"}}], {}, {}]'

    assert str(read(body).args[0]) == "12345678-1234-5678-1234-567812345678"


def test_an_unusable_envelope_says_why() -> None:
    with pytest.raises(Unusable, match=r"^it is broken$"):
        read(b"", {"id": "m1", "problem": "it is broken"}, UNUSABLE)
    with pytest.raises(Unusable, match="no message of Celery's"):
        read(b"", {}, UNUSABLE)


def test_arguments_of_any_kind_become_evidence() -> None:
    text = arguments_as_text(("7",), {"at": datetime(2026, 11, 26, tzinfo=UTC)})

    assert json.loads(text) == {"args": ["7"], "kwargs": {"at": "2026-11-26 00:00:00+00:00"}}
