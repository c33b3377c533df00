"""Members of a fleet, all in this process but each with a store, a lock and a copy of its own."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.http.raw_server import Wire
from worker.session.shared import SharedSession
from worker.session.timings import Timings
from worker.settings import Settings, variable, worker_settings
from worker.testbed.environment import Stage

Configure = Callable[..., Settings]
Member = Callable[..., SharedSession]

QUICK = {"login_backoff": 0.02, "login_backoff_max": 0.05, "pace": 0.02, "cooldown": 0.1, "cooldown_max": 0.2}


@pytest.fixture
def configure(in_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Settings as the environment gives them, with changes."""

    def settings(**changes: Any) -> Settings:
        for name, value in changes.items():
            monkeypatch.setenv(variable(name), str(value))
        worker_settings.cache_clear()
        return worker_settings()

    return settings


@pytest.fixture
def settings(configure: Configure) -> Settings:
    return configure()


@pytest.fixture
def member(configure: Configure) -> Member:
    """Another member of the fleet: `member(wall=..., settings=..., lease=...)`."""

    def join(
        settings: Settings | None = None, wall: Callable[[], float] | None = None, **timings: float
    ) -> SharedSession:
        changes = {"wall": wall} if wall else {}
        return SharedSession(settings or configure(), Timings(**(QUICK | timings)), **changes)

    return join


@pytest.fixture
def wire() -> Any:
    with Wire() as wire:
        yield wire
