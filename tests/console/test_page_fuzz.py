"""Any request to any route is answered: no fault of the console, and nothing of the request becomes markup.

`make fuzz` sends many more.
"""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.console.sample import fill
from tests.fuzz.pages import PATHS, Request, console_on, requests, send
from worker.ledger import Ledger

REQUESTS = 6  # in a row, to the same ledger
EXAMPLES = 120


@pytest.fixture
def client(console_url: str, ledger: Ledger) -> Iterator[TestClient]:
    fill(ledger)
    with console_on(console_url) as client:
        yield client


def test_no_request_makes_a_fault_or_markup(client: TestClient) -> None:
    statuses = Counter[int]()

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(requests(PATHS), min_size=REQUESTS, max_size=REQUESTS))
    def send_all(some: list[Request]) -> None:
        for one in some:
            statuses[send(client, one)] += 1

    send_all()

    assert {200, 303, 400, 401, 403, 404, 405, 409} <= set(statuses)
