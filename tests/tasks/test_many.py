"""Many operations at once: flat memory, no row recorded before all are checked, and enough wake-ups."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tasks import enqueue
from tests.operations import find_operation
from worker.errors import BadPayload
from worker.instances import ledger
from worker.ledger import search
from worker.messages import wake_up
from worker.messages.wake_up import wake_ups_for
from worker.operation import OnUnknown
from worker.spooled_list import BLOCK, SpooledList
from worker.testbed.local_system import Environment

ROWS = 20_000  # of 2 KB: 40 MB if they stayed in memory
MEASURE = f"""
import re
from tasks import enqueue

def peak_mb():  # not ru_maxrss, which is at least what the process that started this one had
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024

def rows():
    for number in range({ROWS}):
        yield {{"path": "/api/admin/a/v2/a/a/a", "key": f"K{{number}}", "payload": {{"text": f"{{number:2000}}"}}}}
    raise KeyboardInterrupt  # all are checked and spooled by now; recording them takes longer than a test should

enqueue.many("call", [{{"path": "/api/admin/a/v2/a/a/a", "key": "first", "payload": {{"text": "x" * 2000}}}}])
before = peak_mb()
try:
    enqueue.many("call", rows())
except KeyboardInterrupt:
    print(peak_mb() - before)
"""


def fee_rows(count: int) -> Iterator[dict[str, Any]]:
    return ({"account_login": "7", "request_id": f"W{number}"} for number in range(count))


def test_rows_that_were_checked_wait_in_a_file(active_environment: Environment) -> None:
    grown = subprocess.run(
        [sys.executable, "-c", MEASURE],
        env=active_environment.variables,
        capture_output=True,
        text=True,
        timeout=55,
        check=True,
    )

    assert float(grown.stdout) < 20  # MB


def test_no_row_is_recorded_before_the_last_is_checked(active_environment: Environment) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from fee_rows(enqueue.BATCH + 10)
        assert search(ledger()) == []
        yield {"account_login": "7", "request_id": "two words"}

    with pytest.raises(BadPayload, match=f"row {enqueue.BATCH + 11}: fees.process: request_id"):
        enqueue.many("fees.process", rows())

    assert search(ledger()) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"payload": {"text": "x" * 70_000}}, "characters of JSON"),
        ({"payload": {"when": float("nan")}}, "not JSON"),
        ({"key": "K" * 129}, "key"),
        ({"parent": "call:bad"}, "cannot be its own parent"),
    ],
    ids=["too long", "no JSON", "long key", "own parent"],
)
def test_what_the_ledger_would_refuse_is_found_before_anything_is_recorded(
    active_environment: Environment, bad: dict[str, Any], message: str
) -> None:
    path = "/api/admin/clients/v2/client/clientservice/update"
    good = [{"path": path, "payload": {}, "key": f"K{number}"} for number in range(3)]

    with pytest.raises(BadPayload, match=f"row 4: .*{message}"):
        enqueue.many("call", [*good, {"path": path, "payload": {}, "key": "bad"} | bad])

    assert search(ledger()) == []


def test_the_result_is_a_sequence_and_counts_what_was_new(active_environment: Environment) -> None:
    enqueue.many("fees.process", fee_rows(2))

    recorded = enqueue.many("fees.process", fee_rows(BLOCK + 5))

    assert (len(recorded), recorded.created, recorded.known) == (BLOCK + 5, BLOCK + 3, 2)
    assert [one.created for one in recorded[:3]] == [False, False, True]
    assert recorded[-1].key == f"fees.process:W{BLOCK + 4}"
    assert recorded[BLOCK].key == f"fees.process:W{BLOCK}"
    assert [one.key for one in recorded] == [f"fees.process:W{number}" for number in range(BLOCK + 5)]
    with pytest.raises(IndexError):
        recorded[BLOCK + 5]


def test_texts_may_be_of_a_class_that_is_derived_from_str(active_environment: Environment) -> None:
    class Text(str):
        """As Django's SafeString and markupsafe's Markup."""

        def __getitem__(self, part: Any) -> "Text":
            return Text(super().__getitem__(part))

    rows = ({"account_login": Text("7"), "request_id": Text(f"W{number}")} for number in range(BLOCK))
    recorded = enqueue.many("fees.process", rows, lane=Text("bulk"), by=Text("me"), batch=Text("book"))

    assert (recorded.created, type(recorded[0].key)) == (BLOCK, str)
    found = find_operation(ledger(), "W0")
    assert (found.lane, found.requested_by, found.batch) == ("bulk", "me", "book")


def test_what_a_row_permits_is_recorded(active_environment: Environment) -> None:
    row = {"path": "/api/admin/clients/v2/client/clientservice/update", "payload": {}, "key": "K", "repeatable": True}
    enqueue.many("call", [row, row | {"key": "L", "repeatable": False}], lane="bulk")

    assert find_operation(ledger(), "K", "call").on_unknown is OnUnknown.REPEAT
    assert find_operation(ledger(), "L", "call").on_unknown is OnUnknown.STOP
    assert {one.lane for one in search(ledger())} == {"bulk"}


@pytest.mark.parametrize(("due", "wake_ups"), [(0, 0), (1, 1), (100, 1), (101, 2), (1_000, 10), (1_000_000, 16)])
def test_many_due_operations_are_worth_more_wake_ups(due: int, wake_ups: int) -> None:
    assert wake_ups_for(due) == wake_ups


def test_many_wakes_as_many_workers_as_dispatch_would(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake_up, "_sent_at", {})
    enqueue.many("fees.process", fee_rows(350))

    with active_environment.broker.client as client:
        assert client.llen("b2copy.money") == 4


def test_a_list_in_a_file_may_be_read_while_it_grows() -> None:
    lines = SpooledList()
    for number in range(3 * BLOCK):
        lines.append([number, "text"])
        if number % 700 == 0:
            assert next(lines.read(number)) == [number, "text"]

    assert len(lines) == 3 * BLOCK
    assert [value[0] for value in lines.read()] == list(range(3 * BLOCK))
    assert [value[0] for value in lines.read(2 * BLOCK - 1)] == list(range(2 * BLOCK - 1, 3 * BLOCK))


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        (["fees.process"], {}, "is not a kind: there are"),
        ("fees.process", {"batch": 5}, "batch: 5 must be text"),
        ("fees.process", {"by": 5}, "by must be the name of who asks"),
        ("fees.process", {"lane": []}, "lane: .. is none of"),
    ],
)
def test_what_is_no_text_is_refused_by_its_name(
    active_environment: Environment, kind: Any, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadPayload, match=problem):
        enqueue.many(kind, [{"account_login": "7", "request_id": "odd"}], **options)
    assert enqueue.status("fees.process:odd") is None


@pytest.mark.parametrize("payload", [None, [1, 2], "x"])
def test_a_calls_payload_must_be_an_object(active_environment: Environment, payload: Any) -> None:
    with pytest.raises(BadPayload, match="payload: Input should be a valid dictionary"):
        enqueue.call("/api/admin/a/v2/a/a/a", payload, key="odd")


@pytest.mark.parametrize(("name", "value"), [("why", ""), ("why", " "), ("why", None), ("why", "\0"), ("by", "\ud800")])
def test_a_reason_that_cannot_be_stored_is_refused(active_environment: Environment, name: str, value: Any) -> None:
    enqueue.many("fees.process", [{"account_login": "7", "request_id": "reason"}])

    with pytest.raises(BadPayload, match=f"^{name}: .* must be a text that says it"):
        enqueue.cancel("fees.process:reason", **{"why": "mistyped", name: value})

    status = enqueue.status("fees.process:reason")
    assert status is not None
    assert status.state == "queued"
