"""What ends without an attempt is in the metrics too: what a claim ends, because its time is over or its row cannot be
read, and a message that cannot be used.
"""

from contextlib import suppress
from time import monotonic

from prometheus_client import REGISTRY
from sqlalchemy import Connection, text

from tests.operations import OWNER, LedgerClock, claim_due, fail_operation, record_operation
from worker.ledger import Ledger, fail_message
from worker.ledger.claims import claim_within
from worker.watch.observe import observe_transactions


def ended(reason: str) -> float:
    labels = {"kind": "fees.process", "lane": "money", "state": "failed", "reason": reason}
    return REGISTRY.get_sample_value("b2copy_operations_ended_total", labels) or 0.0


def test_operations_that_a_claim_ends_are_counted_once_they_are_committed(ledger: Ledger, clock: LedgerClock) -> None:
    observe_transactions(ledger.engine)
    fail_operation(ledger, "parent")
    for name in ("child 1", "child 2"):
        record_operation(ledger, name, parent="fees.process:parent", time_allowed_s=3600.0)
    record_operation(ledger, "unreadable")
    clock.advance(3601)
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET payload = '{' WHERE key = 'fees.process:unreadable'"))
    before = {reason: ended(reason) for reason in ("expired", "bad_payload")}

    with suppress(ZeroDivisionError), ledger.writing() as connection:
        assert claim_within(connection, "money", OWNER, 10, monotonic()) == []
        raise ZeroDivisionError
    rolled_back = {reason: ended(reason) for reason in before}
    assert claim_due(ledger) == []
    assert claim_due(ledger) == []

    assert rolled_back == before
    assert {reason: ended(reason) - count for reason, count in before.items()} == {"expired": 2, "bad_payload": 1}


def test_a_message_that_cannot_be_used_is_counted_once_it_is_committed(ledger: Ledger) -> None:
    def count() -> float:
        labels = {"kind": "message", "lane": "default", "state": "failed", "reason": "bad_payload"}
        return REGISTRY.get_sample_value("b2copy_operations_ended_total", labels) or 0.0

    def store(name: str, connection: Connection | None = None) -> None:
        fail_message(ledger, name, "b2copy.call", "no path", "crm", "{}", connection)

    observe_transactions(ledger.engine)
    before = count()

    with suppress(ZeroDivisionError), ledger.writing() as connection:
        store("m-1", connection)
        raise ZeroDivisionError
    rolled_back = count()
    for name in ("m-1", "m-1", "m-2"):  # the first one is delivered twice
        store(name)

    assert rolled_back == before
    assert count() - before == 2
