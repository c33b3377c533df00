"""A CRM's webhook that fails, hangs, redirects, answers late and is dead; and how soon the CRM learns of an end."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from sqlalchemy import func, select

from tests.bench.results import percentile
from tests.faults.ledger.system import DATABASES, System
from tests.faults.notices.receiver import SECRET, Mode, Receiver
from tests.faults.table import Scenario
from tests.support import until
from worker.ledger import replay
from worker.ledger.schema import attempts, c, operations
from worker.operation import NOTICE_KIND
from worker.testbed.local_system import Environment

TITLE = "Notices: two workers, a beat, 10 withdrawals/s"

NOTICES = 10_000
PHASES: tuple[tuple[Mode, float], ...] = (("dead", 30), ("fails", 20), ("redirects", 15), ("hangs", 35), ("late", 35))
"""How the receiver misbehaves, one after the other, and for how many seconds."""

REPLAYED = 50  # operations that fail and are replayed while the receiver is dead, so that each has two ends
SLOWER_MAX = 1.1  # p99 of the withdrawals, divided by that of a system without notices that runs beside it
TOLD, TOLD_WITHIN_S = 300, 0.5  # operations; seconds after the poll interval
INTERVAL_S, ENDED_PER_SECOND = 2.0, 10  # seconds between two polls; fee runs that B2COPY ends

_is_notice = c.kind == NOTICE_KIND


@contextmanager
def _system(database: str, **options: Any) -> Iterator[tuple[System, Receiver]]:
    with ExitStack() as stack:
        environment = stack.enter_context(Environment())
        secret = environment.folder / "webhook.secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        receiver = stack.enter_context(Receiver())
        has_webhook = options.pop("has_webhook", True)
        if has_webhook:
            options |= {"B2COPY_WEBHOOK_URL": receiver.url, "B2COPY_WEBHOOK_SECRET_FILE": str(secret)}
        system = System(environment, database, clients=("enqueue",), mix=("none_due",), per_second=10.0, **options)
        yield stack.enter_context(system), receiver


def _book(system: System, notices: int) -> None:
    """Have so many operations end at B2COPY, some of them with an error."""
    failing = min(REPLAYED, notices // 2)
    rows = [{"account_login": "none_due", "request_id": f"B{number}"} for number in range(notices - failing)]
    rows += [{"account_login": "error", "request_id": f"E{number}"} for number in range(failing)]
    system.request(*rows)
    until(lambda: system.count(~_is_notice, c.ended_at.is_not(None)) == notices, within=180, every=0.25)


def _replay_errors(system: System) -> None:
    """A person replays what has ended with an error, and it ends so again."""
    with system.ledger() as ledger:
        with ledger.reading() as connection:
            failed = connection.execute(select(c.key).where(c.failure_reason == "fee_error")).scalars().all()
        replayed = replay(ledger, failed, "ann", "the account may be open again")
    until(lambda: system.count(c.replays == 1, c.ended_at.is_not(None)) == len(replayed), within=60, every=0.25)


def _withdrawals_ms(system: System) -> list[float]:
    """Return how long each withdrawal of the CRM took, from its request to its end."""
    with system.ledger() as ledger, ledger.reading() as connection:
        rows = connection.execute(
            select(c.requested_at, c.ended_at).where(~_is_notice, c.key.startswith("fees.process:enqueue-"))
        )
        return [float(row.ended_at - row.requested_at) for row in rows]


def bad_receiver(database: str, notices: int = NOTICES) -> dict[str, Any]:
    """Measure withdrawals beside notices, and at the same time those of a system with the same book and no notices.

    A disk that stalls for some tenths of a second decides a p99, so both systems must have the same disk and time.
    """
    with _system(database, has_webhook=False) as (without, _), _system(database) as (system, receiver):
        receiver.mode = "dead"
        for each in (without, system):
            _book(each, notices)
        _replay_errors(system)
        system.pass_an_hour()  # so that all notices are due
        for each in (without, system):
            each.start_crm()
        tried = {}
        for mode, seconds in PHASES:
            receiver.mode = mode
            system.go_on(seconds)
            tried[_tried(mode)] = _refused(system) if mode == "dead" else receiver.requests[mode]
        for each in (without, system):
            each.stop_crm()
        with system.fault():
            receiver.mode = "takes"
        system.pass_an_hour()  # so that no notice waits for its next try any more
        system.drain(within=240.0)
        without.drain()
        p99_ms, p99_ms_without = (percentile(_withdrawals_ms(each), 0.99) for each in (system, without))
        return (
            _delivered(system, receiver)
            | tried
            | {"p99 ms without": p99_ms_without, "p99 ms": p99_ms, "slower": p99_ms / p99_ms_without}
        )


def _tried(mode: Mode) -> str:
    """Return the name of a figure: how often a notice was sent while the receiver was in this mode."""
    return f"tried: {mode}"


def _refused(system: System) -> int:
    """Return how often nobody listened where a notice was sent to."""
    of_notices = select(func.sum(attempts.c.times)).join(operations, c.id == attempts.c.operation_id)
    with system.ledger() as ledger, ledger.reading() as connection:
        return int(connection.execute(of_notices.where(_is_notice, attempts.c.outcome == "not_sent")).scalar() or 0)


def _delivered(system: System, receiver: Receiver) -> dict[str, Any]:
    bodies: dict[str, set[bytes]] = defaultdict(set)
    sequences: dict[str, list[int]] = defaultdict(list)
    for one in list(receiver.received):
        bodies[one.id].add(one.body)
        sequences[one.key].append(one.sequence)
    with system.ledger() as ledger, ledger.reading() as connection:
        last = {
            row.key: row.notice_sequence
            for row in connection.execute(select(c.key, c.notice_sequence).where(~_is_notice))
        }
        states = connection.execute(select(c.state).where(_is_notice)).scalars().all()
    return {
        "operations": len(last),
        "notices": len(states),
        "superseded": states.count("cancelled"),
        "requests": len(receiver.received),
        "ids": len(bodies),
        "never told": sum(not sequences[key] or sequences[key][-1] != sequence for key, sequence in last.items()),
        "changed": sum(len(of_one) > 1 for of_one in bodies.values()),
        "fell back": sum(of_key != sorted(of_key) for of_key in sequences.values()),
        "not delivered": sum(state not in {"succeeded", "cancelled"} for state in states),
        "unsigned": len(receiver.unsigned),
        "redirects followed": receiver.followed,
    }


def told(row: Mapping[str, Any]) -> Sequence[str]:
    wrong = ("never told", "changed", "fell back", "not delivered", "unsigned", "redirects followed")
    problems = [f"{row[name]} {name}" for name in wrong if row[name]]
    problems += [f"no notice was sent in the phase '{mode}'" for mode, _ in PHASES if not row[_tried(mode)]]
    if row["ids"] < row["notices"] - row["superseded"]:
        problems.append(f"only {row['ids']} of {row['notices']} notices were received")
    if row["slower"] > SLOWER_MAX:
        problems.append(f"withdrawals took {row['slower']:.2f} times as long (p99) as without notices")
    return problems


def told_soon(database: str, count: int = TOLD) -> dict[str, Any]:
    """So many fee runs are pending, and B2COPY ends one after the other."""
    interval = {"B2COPY_FEES_POLL_FIRST": str(INTERVAL_S), "B2COPY_FEES_POLL_MAX": str(INTERVAL_S)}
    with _system(database, latency=0.0, **interval) as (system, receiver):
        control = system.environment.sandbox.control
        control.switches(logins={"slow": {"until_finished": True}})
        system.request(*({"account_login": "slow", "request_id": f"S{number}"} for number in range(count)))
        until(lambda: system.count(c.wait_reason == "pending_at_b2copy", c.last_wait_ms > 0) == count, within=90)
        ended_at = {}
        for number in range(count):
            system.go_on(1 / ENDED_PER_SECOND)
            ended_at[f"fees.process:S{number}"] = time.time()
            control.finish_fees("slow", f"S{number}")
        until(lambda: len({one.key for one in list(receiver.received)}) == count, within=120)
        after_s = [one.at - ended_at[one.key] for one in receiver.received]
        return {
            "operations": count,
            "told": len({one.key for one in receiver.received}),
            "interval s": INTERVAL_S,
            "told p50 s": percentile(after_s, 0.5),
            "told p99 s": percentile(after_s, 0.99),
        }


def in_time(row: Mapping[str, Any]) -> Sequence[str]:
    problems = [] if row["told"] == row["operations"] else [f"only {row['told']} were told"]
    if row["told p99 s"] > row["interval s"] + TOLD_WITHIN_S:
        problems.append(f"told later than the poll interval + {TOLD_WITHIN_S:g} s (p99)")
    return problems


SCENARIOS = [
    Scenario(f"{NOTICES:,} notices, a bad receiver, {database}", partial(bad_receiver, database), told)
    for database in DATABASES
] + [Scenario(f"B2COPY's end to CRM told, {database}", partial(told_soon, database), in_time) for database in DATABASES]
