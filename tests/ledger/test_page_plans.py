"""No query of the console's pages reads all of a table, on either database, however large the ledger is."""

from collections.abc import Iterator

import pytest

from tests.bench.console_pages import PAGES, addresses, client_on
from tests.bench.large_ledger import fill
from tests.bench.query_plans import Sent, statements_of, unbounded_parts
from worker.console import app
from worker.ledger import Ledger, open_ledger

COUNT = 2_000


@pytest.fixture
def filled(own_ledger_url: str) -> Iterator[Ledger]:
    ledger = open_ledger(own_ledger_url)
    fill(ledger, COUNT)
    yield ledger
    ledger.close()


def test_every_query_of_every_page_is_bounded(filled: Ledger) -> None:
    client = client_on(filled)
    queries: dict[str, Sent] = {}
    for page in addresses(filled, COUNT):
        with statements_of(filled.engine) as sent:
            assert client.get(page).status_code in (200, 303), page
        assert sent, page
        queries |= sent

    bad = [f"{parts}: {sql}" for sql, one in queries.items() if (parts := unbounded_parts(filled, one))]
    assert not bad, "\n".join(bad)
    # A list whose filter seldom matches would read on and on to fill its LIMIT: the check must see that.
    rare = "SELECT id FROM b2copy_operations WHERE requested_by = 'nobody' ORDER BY state_since LIMIT 50"
    assert unbounded_parts(filled, Sent(rare, ()))


def test_every_page_is_looked_at() -> None:
    looked_at = {page.partition("?")[0] for page in PAGES}
    paths = {page.path.replace("/operation/{action}", "/operation/poll-now") for page in app.PAGES}
    paths = {path.replace("/fleet/{action}", "/fleet/pause") for path in paths}
    paths = {path.replace("/imports/{action}", "/imports/pause") for path in paths}

    assert {path.replace("/approvals/{action}", "/approvals/approve") for path in paths} == looked_at
