"""What the session's metrics are called, and that they tell what happened."""

import time
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from tests.conftest import Member
from worker.errors import Unavailable
from worker.sandbox.control_client import SandboxControl

NAMES = """
    generation expires_timestamp_seconds renewals_total renewal_seconds lease_wait_seconds lease_lost_total
    unauthorized_total refresh_rejected_total store_unavailable_total clock_offset_seconds
    cooldown_active unreadable_total
"""


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"b2copy_session_{name}", labels) or 0.0


@pytest.fixture
def added() -> Callable[..., float]:
    """How much a counter has grown since it was first asked for."""
    before: dict[str, float] = {}

    def growth(name: str, **labels: str) -> float:
        now = value(name, **labels)
        return now - before.setdefault(f"{name}{labels}", now)

    return growth


def test_the_names_that_dashboards_rely_on_exist() -> None:
    exported = {metric.name for metric in REGISTRY.collect()}

    assert [n for n in NAMES.split() if f"b2copy_session_{n.removesuffix('_total')}" not in exported] == []


def test_the_metrics_count_what_happened_to_a_session(
    member: Member, sandbox: SandboxControl, added: Callable[..., float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    session = member()
    counted = [
        ("renewals_total", {"login": "service_admin", "trigger": "missing", "outcome": "login"}),
        ("renewals_total", {"login": "service_admin", "trigger": "unauthorized", "outcome": "login"}),
        ("renewals_total", {"login": "service_admin", "trigger": "beat", "outcome": "failed"}),
        ("unauthorized_total", {}),
        ("refresh_rejected_total", {}),
    ]
    assert [added(name, **labels) for name, labels in counted] == [0] * 5
    timed = [("renewal_seconds", 3), ("lease_wait_seconds", 2)]
    assert [added(f"{name}_{what}") for name, _ in timed for what in ("count", "sum")] == [0] * 4

    token = session.current()
    sandbox.revoke_all()
    token = session.rejected(token)
    sandbox.faults({"what": "status", "status": 503, "route": "token"})
    with pytest.raises(Unavailable):
        session.renew(force=True, wait=15)

    assert [added(name, **labels) for name, labels in counted] == [1] * 5
    assert [added(f"{name}_count") for name, _ in timed] == [count for _, count in timed]
    assert all(0 < added(f"{name}_sum") < 60 for name, _ in timed)
    assert value("generation", login="service_admin") == token.generation
    ends_at = time.time() + (session.state().expires_in or 0)
    assert value("expires_timestamp_seconds", login="service_admin") == pytest.approx(ends_at, abs=0.3)
    lines = [
        record.getMessage() for record in caplog.records if record.levelname == "INFO" and "session" in record.name
    ]
    assert len(lines) == 2  # one for each renewal
    assert f"generation {token.generation}, by login, trigger unauthorized" in lines[1]
    assert token.fingerprint in lines[1]


def test_a_session_that_was_forgotten_has_no_generation(member: Member) -> None:
    session, other = member(), member(recheck=0.0)
    session.current()
    other.current()
    session.forget()

    other._member()._show(other._member().store.look())

    assert value("generation", login="service_admin") == 0


def test_a_rest_shows_its_class(member: Member, sandbox: SandboxControl) -> None:
    session = member()
    sandbox.faults({"what": "status", "status": 401, "route": "token"})

    with pytest.raises(Exception, match="our login fails"):
        session.current()

    assert value("cooldown_active", **{"login": "service_admin", "class": "terminal"}) == 1
    sandbox.faults()
    session.renew(force=True, wait=15)
    session.current()
    assert value("cooldown_active", **{"login": "service_admin", "class": "terminal"}) == 0
