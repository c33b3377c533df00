"""Four eyes and the CRM: what it requested and B2COPY never heard of, it takes back by itself."""

import pytest

from tasks import enqueue
from worker.errors import NotAllowed
from worker.instances import ledger
from worker.ledger import cancel
from worker.ledger.migrations import migrate
from worker.operation import State
from worker.testbed.local_system import Environment


def test_a_crm_cancels_its_own_request_although_people_need_a_second_person(active_environment: Environment) -> None:
    migrate(active_environment.database_url, "all")
    key = enqueue.fees(account_login="7", request_id="W1").key
    with pytest.raises(NotAllowed, match="second person"):
        cancel(ledger(), key, "ann", "alone")

    assert enqueue.cancel(key, why="the client has taken it back", by="crm").state == State.CANCELLED
