"""The plan of a random run: everything that happens in it and when, drawn from the seed alone."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from tests.faults.ledger import b2copy_faults, process_faults, store_faults
from tests.faults.ledger.crm import MIX
from tests.faults.ledger.system import DATABASES, System

Draw = random.Random
ENTITIES = 5  # lines form, and after several faults in a row they still end within DRAINED_S


@dataclass(frozen=True)
class Event:
    """Something that happens `after_s` after the event before it.

    `costs_session`: the fleet may have to log in again. `may_lose`: so many messages that no worker has recorded yet.
    """

    after_s: float
    name: str
    run: Callable[[System], None]
    costs_session: bool = False
    may_lose: float = 0


@dataclass(frozen=True)
class OperatorAction:
    after_s: float
    action: str  # pause, cancel, stop_asking, replay
    choice: float  # 0 to 1: which of the possible operations or lanes
    seconds: float  # how long a pause lasts


@dataclass(frozen=True)
class Plan:
    """`ours` and `theirs` are faults of our side and of B2COPY. Both lists and the operator's run at the same time."""

    seed: int
    database: str
    options: dict[str, Any]
    ours: tuple[Event, ...]
    theirs: tuple[Event, ...]
    operator: tuple[OperatorAction, ...]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.database}, {self.options}"]
        for title, events in (("our side", self.ours), ("B2COPY", self.theirs)):
            lines.append(f"    {title}: " + ", ".join(f"+{event.after_s:.1f} s {event.name}" for event in events))
        actions = ", ".join(f"+{action.after_s:.1f} s {action.action}" for action in self.operator)
        return "\n".join([*lines, f"    operator: {actions}"])


def draw_plan(seed: int, ours: int = 3, theirs: int = 4, actions: int = 10) -> Plan:
    """Draw a plan. The same seed always gives the same plan."""
    draw = Draw(seed)
    mix = list(MIX)
    draw.shuffle(mix)
    options = {
        "per_second": round(draw.uniform(4, 8), 1),
        "latency": round(draw.uniform(0.02, 0.3), 2),
        "mix": tuple(mix),
        "entities": ENTITIES,
        "B2COPY_CONCURRENCY": str(draw.choice([5, 10, 20])),
    }
    database = DATABASES[seed % len(DATABASES)]
    return Plan(
        seed=seed,
        database=database,
        options=options,
        ours=tuple(draw.choice(OUR_FAULTS)(draw) for _ in range(ours)),
        theirs=tuple(draw.choice(THEIR_FAULTS)(draw) for _ in range(theirs)),
        operator=tuple(
            OperatorAction(
                draw.uniform(0.5, 2.5),
                draw.choice(["pause", "cancel", "cancel", "stop_asking", "replay"]),
                draw.random(),
                draw.uniform(0.5, 3),
            )
            for _ in range(actions)
        ),
    )


def _event(
    draw: Draw, fault: Callable[..., None], costs_session: bool = False, may_lose: float = 0, **how: Any
) -> Event:
    shown = ", ".join(f"{name}={value:g}" for name, value in how.items())
    return Event(draw.uniform(0.5, 3), f"{fault.__name__}({shown})", partial(fault, **how), costs_session, may_lose)


def _seconds(draw: Draw, low: float, high: float) -> float:
    return round(draw.uniform(low, high), 1)


def beat_killed(system: System) -> None:
    """SIGKILL a beat, which is started again."""
    with system.fault():
        system.beats[0].kill()


OUR_FAULTS: list[Callable[[Draw], Event]] = [
    lambda draw: _event(draw, process_faults.worker_killed, times=1, may_lose=1),
    lambda draw: _event(draw, process_faults.worker_frozen, seconds=_seconds(draw, 3, 13)),
    lambda draw: _event(draw, beat_killed),
    lambda draw: _event(
        draw, store_faults.redis_killed, seconds=_seconds(draw, 0.5, 4), costs_session=True, may_lose=inf
    ),
    lambda draw: _event(draw, store_faults.redis_flushed, times=1, costs_session=True, may_lose=inf),
    lambda draw: _event(draw, store_faults.redis_full, seconds=_seconds(draw, 2, 6), costs_session=True),
    lambda draw: _event(draw, store_faults.redis_read_only, seconds=_seconds(draw, 2, 6), costs_session=True),
    lambda draw: _event(draw, store_faults.database_unavailable, seconds=_seconds(draw, 2, 12)),
]


def answers_fail(system: System, for_s: float, **fault: Any) -> None:
    """B2COPY gives this fault for some seconds to a share of the calls."""
    with system.fault():
        system.environment.sandbox.control.faults({"route": "api"} | fault)
        system.go_on(for_s)
        system.environment.sandbox.control.faults()


def tokens_revoked(system: System) -> None:
    """B2COPY ends all access tokens and the sessions behind them."""
    with system.fault():
        system.environment.sandbox.control.revoke_all()


def _answers_fail(draw: Draw, **fault: Any) -> Event:
    for_s, share = _seconds(draw, 1, 6), round(draw.uniform(0.2, 1), 2)
    shown = " ".join(f"{name}={value}" for name, value in fault.items())
    run = partial(answers_fail, for_s=for_s, share=share, **fault)
    return Event(draw.uniform(0.5, 3), f"{for_s} s of {shown} share={share}", run)


THEIR_FAULTS: list[Callable[[Draw], Event]] = [
    lambda draw: _answers_fail(draw, what="status", status=draw.choice([403, 408, 425, 503])),
    lambda draw: _answers_fail(draw, what="status", status=429, retry_after=str(draw.randint(1, 4))),
    lambda draw: _answers_fail(draw, what="status", status=draw.choice([500, 502, 504]), effect=_effect(draw)),
    lambda draw: _answers_fail(draw, what=draw.choice(["drop", "reset", "cut"]), effect=_effect(draw)),
    lambda draw: _answers_fail(draw, what="html", effect=_effect(draw)),
    lambda draw: _answers_fail(draw, what="silence", seconds=_seconds(draw, 1, 3), effect=_effect(draw)),
    lambda draw: _event(draw, b2copy_faults.unreachable, seconds=_seconds(draw, 1, 8), costs_session=True),
    lambda draw: _event(draw, tokens_revoked, costs_session=True),
]


def _effect(draw: Draw) -> str:
    """Whether the call was carried out although its answer failed."""
    return draw.choice(["none", "done"])
