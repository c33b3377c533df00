"""The shared session under every fault we know of: 16 processes, 5 calls/s each, tokens that live 3 s."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import redis

from tests.faults.session.fleet import Fleet
from tests.faults.table import Scenario
from tests.support import until
from worker.testbed.local_system import Environment

TITLE = "The shared session: 16 processes, 5 calls/s each, tokens of 3 s, a lease of 2 s"
TOKEN_LIFE_S = 3.0


@contextmanager
def short_lived_tokens(**switches: Any) -> Iterator[Environment]:
    """An environment of its own whose tokens live `TOKEN_LIFE_S`."""
    with Environment(access_lifetime=TOKEN_LIFE_S, **switches) as environment:
        environment.settings["B2COPY_TOKEN_TTL"] = str(TOKEN_LIFE_S)
        yield environment


def leader_killed(fleet: Fleet, environment: Environment, after: float = 5.0) -> None:
    """SIGKILL the process that holds the renewal lease, during its token call."""
    environment.sandbox.control.switches(latency={"token": 0.3})
    pid = fleet.wait_for_leader()
    with fleet.fault():
        fleet.send(pid, signal.SIGKILL)
    environment.sandbox.control.switches(latency={})
    fleet.wait_for_renewal()
    fleet.recover(after)


def leader_stopped(fleet: Fleet, environment: Environment, seconds: float = 3.5, after: float = 3.0) -> None:
    """SIGSTOP the process that holds the renewal lease, for longer than the lease. The others must not notice."""
    environment.sandbox.control.switches(latency={"token": 0.3})
    pid = fleet.wait_for_leader()
    with fleet.fault():
        fleet.send(pid, signal.SIGSTOP)
    environment.sandbox.control.switches(latency={})
    fleet.go_on(seconds)
    fleet.send(pid, signal.SIGCONT)
    fleet.recover(after)


def answers_lost(fleet: Fleet, environment: Environment, times: int = 3, after: float = 1.0) -> None:
    """B2COPY rotates the refresh token, and the answer is lost."""
    for _ in range(times):
        with fleet.fault():
            environment.sandbox.control.faults({"what": "drop", "route": "refreshtoken", "next": 1, "effect": "done"})
            before = environment.sandbox.control.counters()["faults"].get("drop", 0)
            until(partial(_dropped_more_than, environment, before))
        fleet.recover(after)


def _dropped_more_than(environment: Environment, before: int) -> bool:
    return int(environment.sandbox.control.counters()["faults"].get("drop", 0)) > before


def redis_killed(fleet: Fleet, environment: Environment, seconds: float = 4.0, after: float = 5.0) -> None:
    """SIGKILL Redis. It starts again with the data of its AOF."""
    with fleet.fault():
        environment.broker.kill()
        fleet.go_on(seconds)
        environment.broker.start()
    fleet.recover(after)


def redis_silent(fleet: Fleet, environment: Environment, seconds: float = 2.0, after: float = 4.0) -> None:
    """Freeze Redis: it accepts connections and answers nothing."""
    with fleet.fault():
        fleet.send(environment.broker.pid, signal.SIGSTOP)
        fleet.go_on(seconds)
        fleet.send(environment.broker.pid, signal.SIGCONT)
    fleet.recover(after)


def redis_flushed(fleet: Fleet, environment: Environment, times: int = 3, after: float = 2.5) -> None:
    """Redis loses all its data."""
    for _ in range(times):
        with fleet.fault():
            environment.broker.flush()
        fleet.recover(after)


def redis_restored(fleet: Fleet, environment: Environment, after: float = 4.0) -> None:
    """Restore the session's key, with its refresh token, as it was two generations before."""

    def refreshes() -> int:
        return int(environment.sandbox.control.counters()["refreshes"])

    with redis.Redis.from_url(environment.broker.url) as client:
        key = next(iter(client.scan_iter("b2copy:*:session")))
        old, generation = client.dump(key), client.hget(key, "generation")
        before = refreshes()
        until(lambda: refreshes() >= before + 2, within=15)
        with fleet.fault():
            client.restore(key, 0, old, replace=True)
        until(lambda: client.hget(key, "generation") != generation, within=5)
    fleet.recover(after)


def endpoints_down(fleet: Fleet, environment: Environment, seconds: float = 5.0, after: float = 5.0) -> None:
    """503 from both token endpoints, for longer than a token lives."""
    with fleet.fault():
        environment.sandbox.control.faults({"what": "status", "status": 503, "route": "token"})
        fleet.go_on(seconds)
        environment.sandbox.control.faults()
    fleet.recover(after)


def revoked(fleet: Fleet, environment: Environment, times: int = 3, after: float = 2.5) -> None:
    """B2COPY ends all access tokens and the sessions behind them."""
    for _ in range(times):
        with fleet.fault():
            environment.sandbox.control.revoke_all()
        fleet.recover(after)


def unreachable(fleet: Fleet, environment: Environment, seconds: float = 4.0, after: float = 5.0) -> None:
    """B2COPY cuts every connection and refuses new ones."""
    with fleet.fault():
        environment.sandbox.control.go_away(seconds)
        fleet.go_on(seconds)
    fleet.recover(after)


def everything(fleet: Fleet, environment: Environment) -> None:
    """All faults, one after the other, on the same fleet."""
    leader_killed(fleet, environment, after=1.0)
    leader_stopped(fleet, environment, after=1.0)
    answers_lost(fleet, environment, times=2)
    redis_killed(fleet, environment, after=1.0)
    redis_silent(fleet, environment, after=1.0)
    redis_flushed(fleet, environment, times=2, after=1.0)
    redis_restored(fleet, environment, after=1.0)
    endpoints_down(fleet, environment, after=1.0)
    unreachable(fleet, environment, after=1.0)
    revoked(fleet, environment, times=2, after=1.0)


def nothing(fleet: Fleet, environment: Environment, seconds: float = 10.0) -> None:
    fleet.go_on(seconds)


def run_fault(
    fault: Callable[[Fleet, Environment], None],
    count: int = 16,
    switches: Mapping[str, Any] | None = None,
    **fleet: Any,
) -> dict[str, Any]:
    """Start an environment and a fleet, wait until every process has called, run the fault, and return the figures."""
    with short_lived_tokens(**(switches or {})) as environment, Fleet(environment, count, **fleet) as calling:
        calling.all_call()
        fault(calling, environment)
        return calling.figures()


def safe(figures: Mapping[str, Any]) -> Sequence[str]:
    """Return what must hold in every scenario and does not."""
    problems = []
    if figures["reuses"]:
        problems.append(f"{figures['reuses']} refresh tokens presented twice")
    if figures["old tokens"]:
        problems.append("tokens of an older generation were used")
    if figures["success %"] < 98:
        problems.append(
            f"only {figures['success %']:.1f} % of the calls outside the fault succeeded: {figures['failures']}"
        )
    if figures["recovery s"] > 5:
        problems.append(f"recovered only {figures['recovery s']:.1f} s after the fault")
    return problems


def flawless(figures: Mapping[str, Any]) -> Sequence[str]:
    """Return what must hold without any fault and does not."""
    wanted = {"logins": 1, "reuses": 0, "at once": 1, "401s visible": 0, "old tokens": 0, "success %": 100.0}
    return [f"{name} is {figures[name]}, not {value}" for name, value in wanted.items() if figures[name] != value]


SCENARIOS = [
    Scenario("64 processes, 30 s", lambda: run_fault(partial(nothing, seconds=30.0), 64), flawless),
    Scenario("opaque tokens", lambda: run_fault(nothing), flawless),
    Scenario("JWT tokens", lambda: run_fault(nothing, switches={"access_format": "jwt"}), flawless),
    Scenario("one session per admin", lambda: run_fault(nothing, switches={"one_session": True}), flawless),
    Scenario("renewal lease holder killed", lambda: run_fault(leader_killed), safe),
    Scenario("renewal lease holder stopped 3.5 s", lambda: run_fault(leader_stopped), safe),
    Scenario("answer lost after rotation x3", lambda: run_fault(answers_lost), safe),
    Scenario("Redis killed 4 s", lambda: run_fault(redis_killed), safe),
    Scenario("Redis silent 2 s", lambda: run_fault(redis_silent), safe),
    Scenario("Redis flushed x3", lambda: run_fault(redis_flushed), safe),
    Scenario("Redis restored from older data", lambda: run_fault(redis_restored), safe),
    Scenario("token endpoints 503 for 5 s", lambda: run_fault(endpoints_down), safe),
    Scenario("B2COPY unreachable for 4 s", lambda: run_fault(unreachable), safe),
    Scenario("all tokens revoked x3", lambda: run_fault(revoked), safe),
    Scenario("all of these in a row, clocks wrong", lambda: run_fault(everything, clocks=(0.0, 3600.0, -3600.0)), safe),
    Scenario("half the clocks 1 h ahead", lambda: run_fault(nothing, clocks=(0.0, 3600.0)), safe),
    Scenario("half the clocks 1 h behind", lambda: run_fault(nothing, clocks=(0.0, -3600.0)), safe),
    Scenario(
        "lease shorter than the call",
        lambda: run_fault(nothing, switches={"latency": {"token": 0.9}}, timings={"lease": 0.4, "pace": 0.001}),
        safe,
    ),
    Scenario(
        "lease shorter than the call, one session per admin",
        lambda: run_fault(nothing, switches={"latency": {"token": 0.9}, "one_session": True}, timings={"lease": 0.4}),
        safe,
    ),
]
