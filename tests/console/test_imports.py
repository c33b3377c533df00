"""The page Imports: how far each import is, and pause, resume and cancel by the functions of the command line."""

import html
import re
from collections.abc import Callable

import pytest

from tests.console.conftest import client_of
from tests.console.forms import fields_of, fill_and_send
from tests.operations import claim_due, fail, find_operation, make_wait, record_operations
from worker.console.process_state import Console
from worker.ledger import Ledger, audit_of
from worker.ledger.approvals import open_approvals
from worker.ledger.batches import begin_batch, cancel_batch, find_batch, pause_batch
from worker.ledger.restore import distrust_restored
from worker.operation import State

OpenConsole = Callable[..., Console]


def record_book(ledger: Ledger, name: str = "book", count: int = 5) -> None:
    begin_batch(ledger, name, kind="fees.process", lane="bulk", source="book.csv", rows=count, by="ann@desk")
    record_operations(ledger, *(f"{name}{number}" for number in range(count)), lane="bulk", batch=name)


def test_the_page_tells_how_far_each_import_is(open_console: OpenConsole, ledger: Ledger) -> None:
    record_book(ledger)
    failed, _ = claim_due(ledger, lane="bulk", limit=2)
    fail(ledger, failed)
    record_book(ledger, "march", 3)
    pause_batch(ledger, "march", "bob", "the amounts are February's")

    page = client_of(open_console()).get("/imports").text

    assert "3 queued" in page
    assert "1 running" in page
    assert '<a href="/operations?batch=book&amp;state=failed">1 failed</a>' in page
    assert "by bob: the amounts are February&#39;s" in page
    assert page.index("march") < page.index("book"), "the newest first"
    assert 'href="/imports/resume?batch=march"' in page
    assert 'href="/imports/pause?batch=march"' not in page
    assert "/imports/pause" not in client_of(open_console(), "viewer").get("/imports").text


def test_an_import_is_paused_resumed_and_cancelled_with_a_reason(open_console: OpenConsole, ledger: Ledger) -> None:
    record_book(ledger)
    begun, _ = claim_due(ledger, lane="bulk", limit=2)
    make_wait(ledger, begun)
    client = client_of(open_console())

    assert "3 operations wait" in client.get("/imports/pause?batch=book").text
    assert fill_and_send(client, "/imports/pause?batch=book", note="looks like the wrong file").status_code == 303
    assert claim_due(ledger, lane="bulk") == []
    standing = client.get("/operation?key=fees.process:book4").text
    assert "its import is paused since" in standing
    assert "looks like the wrong file" in standing
    assert fill_and_send(client, "/imports/resume?batch=book", note="it was the right file").status_code == 303
    assert len(claim_due(ledger, lane="bulk", limit=1)) == 1
    page = client.get("/imports/cancel?batch=book").text
    assert "3 may have been sent already. These cannot be cancelled and continue." in page
    assert fill_and_send(client, "/imports/cancel?batch=book", note="no, it was the wrong one").status_code == 303

    assert find_operation(ledger, "book4").state == State.CANCELLED
    assert "cancel import" in client.get("/operation?key=fees.process:book4").text
    assert [(entry.action, entry.actor) for entry in audit_of(ledger, "batch:book")] == [
        ("pause import", "ann"), ("resume import", "ann"), ("cancel import", "ann"),
    ]  # fmt: skip


def test_after_a_restore_the_form_says_what_may_have_been_done(open_console: OpenConsole, ledger: Ledger) -> None:
    record_book(ledger)
    distrust_restored(ledger, {}, "ada", "restored")

    page = client_of(open_console()).get("/imports/cancel?batch=book").text

    assert "5 of them may have been done before the ledger was restored. These end as unresolved" in page


def test_a_decision_about_an_import_that_has_changed_is_not_made(open_console: OpenConsole, ledger: Ledger) -> None:
    record_book(ledger)
    client = client_of(open_console())
    form = fields_of(client.get("/imports/pause?batch=book").text) | {"note": "this page is an old one"}
    cancel_batch(ledger, "book", "bob", "meanwhile")

    answer = client.post("/imports/pause?batch=book", data=form)

    assert answer.status_code == 409
    assert "has changed since you looked" in answer.text
    assert client.post("/imports/pause?batch=book", data={"note": "a form of our own"}).status_code == 409


def test_without_a_reason_or_an_import_nothing_is_done(open_console: OpenConsole, ledger: Ledger) -> None:
    record_book(ledger)
    client = client_of(open_console())

    assert fill_and_send(client, "/imports/pause?batch=book", note="short").status_code == 400
    assert client.get("/imports/pause?batch=nobody").status_code == 404
    assert client.get("/imports/delete?batch=book").status_code == 404
    assert client.get("/imports/pause").status_code == 400
    found = find_batch(ledger, "book")
    assert found is not None
    assert found.decision is None


def test_four_eyes_make_a_proposal_of_a_cancellation(open_console: OpenConsole, ledger: Ledger) -> None:
    record_book(ledger)
    client = client_of(open_console(four_eyes="all"))

    assert "second person" in client.get("/imports/cancel?batch=book").text
    answer = fill_and_send(client, "/imports/cancel?batch=book", note="it was the wrong file")

    assert answer.headers["location"] == "/approvals?made=A1"
    [proposal] = open_approvals(ledger)
    assert (proposal.action, proposal.subject) == ("cancel import", "batch:book")
    other = client_of(open_console(four_eyes="all"), "bob")
    approved = fill_and_send(other, "/approvals/approve?id=1", note="it was the wrong file indeed")
    assert approved.headers["location"] == "/imports"
    found = find_batch(ledger, "book")
    assert found is not None
    assert found.decision == "cancelled"


def test_a_count_that_took_long_is_shown_again_until_an_import_changes(
    open_console: OpenConsole, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.console.process_state.COUNT_LONG_S", 0.0)
    monkeypatch.setattr("worker.console.process_state.PAUSE_FACTOR", 1e9)
    record_book(ledger)
    client = client_of(open_console())
    assert "5 queued" in client.get("/imports").text

    claim_due(ledger, lane="bulk", limit=2)
    assert "5 queued" in client.get("/imports").text
    pause_batch(ledger, "book", "bob", "the amounts are February's")

    assert "3 queued" in client.get("/imports").text


def test_no_import_is_left_out_between_two_pages(open_console: OpenConsole, ledger: Ledger) -> None:
    names = [f"book{number:02}" for number in range(45)]
    for name in names:
        begin_batch(ledger, name, kind="fees.process", lane="bulk", source="a.csv", rows=1, by="ann")
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_batches SET requested_at = 1700000000000")
    client = client_of(open_console())

    address: str | None = "/imports"
    shown: list[str] = []
    while address:
        page = client.get(address).text
        shown += re.findall(r'class="key" href="[^"]*">(book\d\d)<', page)
        more = re.search(r'rel="next" href="([^"]+)"', page)
        address = html.unescape(more[1]) if more else None

    assert sorted(shown) == names
