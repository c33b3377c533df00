"""Beat's renewal while B2COPY, its login or Redis is unavailable: one line, and the next tick tries again."""

import logging

import pytest

from tasks import housekeeping
from worker.sandbox.control_client import SandboxControl
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment


@pytest.mark.parametrize("outage", [429, 503, 401, "redis"])
def test_an_outage_is_one_warning_without_a_traceback(
    outage: int | str,
    active_environment: Environment,
    sandbox: SandboxControl,
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if outage == "redis":
        broker.kill()
    else:
        sandbox.faults({"what": "status", "status": outage, "route": "token", "retry_after": "5"})

    housekeeping.refresh.run()

    lines = [record for record in caplog.records if record.name == "tasks.housekeeping"]
    assert [record.levelno for record in lines] == [logging.WARNING]
    assert "the session of service_admin was not renewed" in caplog.text
    assert "Traceback" not in caplog.text
