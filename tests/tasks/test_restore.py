"""A ledger from a backup: what a worker with these settings will go by is told kind by kind."""

import pytest

from tasks.restore import distrust
from tests.conftest import forget
from tests.operations import fail_operation, record_operations
from worker.instances import ledger
from worker.operation import OnUnknown
from worker.testbed.local_system import Environment

CLIENT = {"login": "700200", "platform": 1, "crm_id": None}


@pytest.mark.parametrize(("duplicates", "goes_by"), [("unknown", OnUnknown.STOP), ("refused", OnUnknown.REPEAT)])
def test_open_operations_go_by_the_settings_and_others_by_what_is_stored(
    active_environment: Environment, monkeypatch: pytest.MonkeyPatch, duplicates: str, goes_by: str
) -> None:
    monkeypatch.setenv("B2COPY_DUPLICATE_CLIENTS", duplicates)
    forget()
    kind = "clients.register"
    record_operations(ledger(), "1/700200", kind=kind, payload=CLIENT, lane="default", on_unknown=OnUnknown.READ_BACK)
    failed = CLIENT | {"login": "700300"}
    fail_operation(ledger(), "1/700300", kind=kind, payload=failed, lane="default", on_unknown=OnUnknown.READ_BACK)
    record_operations(ledger(), "N1", kind="of.a.newer.version", lane="default", on_unknown=OnUnknown.READ_BACK)

    counted = distrust(ledger(), "ada", "restored from the backup of 02:00")

    assert {(one.kind, one.failed): one.on_unknown for one in counted} == {
        (kind, False): goes_by,
        (kind, True): OnUnknown.READ_BACK,  # a replay goes by what is stored
        ("of.a.newer.version", False): OnUnknown.READ_BACK,
    }
