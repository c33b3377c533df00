"""Where the CPU of an operation goes, layer by layer, in this process. `B2COPY_*` name server, ledger and broker.

Each of the first five layers holds the one before it: the difference is what it adds. CPU is that of the thread that
does the work, so no other thread interferes; in `a whole drain` the loop and the lane run beside each other.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Coroutine
from functools import partial
from statistics import median
from typing import Any

import pycurl

from tasks import enqueue
from tasks.drain_lane import pusher
from tasks.registry import ALL_KINDS
from tests.bench.http_cost import OneToken
from worker.app import app
from worker.b2copy import B2Copy
from worker.b2copy.routes.fees import PROCESS
from worker.flow.attempt_maker import AttemptMaker, Result
from worker.flow.gate import Gate
from worker.flow.lease_renewal import LeaseRenewal
from worker.flow.poll_spacing import PollSpacing
from worker.http import Http, event_loop
from worker.http.connections import Connections
from worker.http.curl import Request
from worker.instances import ledger
from worker.ledger import open_ledger, settle_and_claim
from worker.operation import Claim, OnUnknown, Transition
from worker.settings import crm_settings, worker_settings
from worker.watch.observe import observe_settled

OPERATIONS, ROUNDS, AT_ONCE, BATCH = 2000, 5, 10, 250
BODY = {"account_login": "7000001", "request_id": "run-1"}
LANE = "bulk"

Call = Callable[[], Coroutine[Any, Any, object]]


def cpu_of_calls(call: Call) -> float:
    """Return the microseconds of CPU that the event loop's thread needs for one call, `AT_ONCE` at the same time."""

    async def caller() -> None:
        for _ in range(OPERATIONS // AT_ONCE):
            await call()

    async def callers() -> float:
        began = time.thread_time()
        await asyncio.gather(*[caller() for _ in range(AT_ONCE)])
        return (time.thread_time() - began) / OPERATIONS * 1e6

    return event_loop().run(callers())


def libcurl(url: str, headers: dict[str, str], body: bytes) -> Call:
    """libcurl on asyncio and nothing else: an idle handle for each call, no answer is read."""
    multi, idle = event_loop().run(made(pycurl.AsyncCurlMulti)), list[pycurl.Curl]()
    for _ in range(AT_ONCE):
        curl = pycurl.Curl()
        for option, value in (
            (curl.URL, url),
            (curl.POST, 1),
            (curl.POSTFIELDS, body),
            (curl.HTTPHEADER, ["Expect:", *(f"{name}: {value}" for name, value in headers.items())]),
            (curl.WRITEFUNCTION, lambda part: None),
        ):
            curl.setopt(option, value)
        idle.append(curl)

    async def call() -> None:
        curl = idle.pop()
        await multi.perform(curl)
        idle.append(curl)

    return call


async def made(make: Callable[[], Any]) -> Any:
    return make()


class Attempts:
    """Makes attempts at claimed operations. Their results are settled, and the next ones claimed, by `turn`."""

    def __init__(self, b2copy: B2Copy) -> None:
        settings, self._leases = worker_settings(), LeaseRenewal(ledger(), "bench")
        gate = Gate("b2copy", settings, lambda destination, reasons: None)
        self._maker = AttemptMaker(
            ledger(), ALL_KINDS, {"b2copy": lambda: b2copy}, {"b2copy": gate}, self._leases,
            PollSpacing(lambda: 0, 10, None), settings, LANE,
        )  # fmt: skip
        self._claims: list[Claim] = []
        self.results: list[Result] = []

    async def make(self) -> None:
        self.results.append(await self._maker.make(self._claims.pop(), 0))

    def turn(self) -> None:
        """As a lane does: settle a batch and claim the next in one transaction."""
        settled = self.transitions
        for begin in range(0, OPERATIONS, BATCH):
            _, claims = settle_and_claim(ledger(), settled[begin : begin + BATCH], LANE, self._leases.owner, BATCH)
            self._leases.add(claims)
            self._claims += claims
        self._leases.remove(transition.claim for transition in settled)
        self.results.clear()

    @property
    def transitions(self) -> list[Transition]:
        return [result for result in self.results if isinstance(result, Transition)]


def put(batch: str, count: int) -> None:
    rows = [{"account_login": f"7{number:06d}", "request_id": f"{batch}-{number}"} for number in range(count)]
    enqueue.many("fees.process", rows, lane=LANE)


def cpu_of(work: Callable[[], object], whole_process: bool = False) -> float:
    """Return the microseconds of CPU of this thread, or of the whole process, for one of `OPERATIONS`."""
    clock = time.process_time if whole_process else time.thread_time
    began = clock()
    work()
    return (clock() - began) / OPERATIONS * 1e6


def main() -> None:
    open_ledger(crm_settings().database_url, create=True).close()
    settings = worker_settings()
    url = settings.host + PROCESS.path
    headers = {"Authorization": f"Bearer {OneToken.access}", "Content-Type": "application/json"}
    body = json.dumps(BODY, separators=(",", ":")).encode()
    connections = event_loop().run(made(lambda: Connections(None, AT_ONCE)))
    http = Http({"service_admin": OneToken()}, settings)
    b2copy = B2Copy(http)
    attempts = Attempts(b2copy)
    calls: dict[str, Call] = {
        "libcurl on asyncio": libcurl(url, headers, body),
        "our transport": lambda: connections.send(Request("POST", url, "bench", headers, body, True), 10.0),
        "with a token": lambda: http.request("POST", PROCESS.path, json=BODY, on_unknown=OnUnknown.START_OR_GET),
        "with the answer's meaning": lambda: b2copy.send(PROCESS, BODY, OnUnknown.START_OR_GET),
        "an attempt": attempts.make,
    }
    app.log.setup_logging_subsystem(loglevel=logging.INFO, logfile=os.devnull)
    put("first", OPERATIONS)
    attempts.turn()
    found: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        for name, call in calls.items():
            found.setdefault(name, []).append(cpu_of_calls(call))
        transitions = attempts.transitions
        assert len(transitions) == OPERATIONS, attempts.results
        found.setdefault("metrics and log line", []).append(cpu_of(partial(observe_settled, LANE, transitions, [])))
        put(f"claims-{number}", OPERATIONS)
        found.setdefault("claim and settle", []).append(cpu_of(attempts.turn))
        found.setdefault("enqueue, in one call", []).append(cpu_of(partial(put, f"drain-{number}", OPERATIONS)))
        found.setdefault("a whole drain", []).append(cpu_of(partial(pusher().drain, LANE), whole_process=True))
    print(json.dumps({name: round(median(values), 1) for name, values in found.items()}))


if __name__ == "__main__":
    main()
