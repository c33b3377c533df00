"""The gate to one destination: everything that must be open before a request is sent.

    lane, when it claims:      gate.available(wanted, urgent)  ->  claim so many  ->  gate.take(claimed, urgent)
    sender, before it sends:   await gate.may_send(times_closed), lease valid
    attempt, its later calls:  await gate.pass_one(urgent, times_closed)
    sender, after an attempt:  await gate.record(...)
    a read:                    await gate.pass_first(urgent)
    one of two ways of notices, each with a gate of its own:  async with gate.own_gate(name).passing(urgent)

The lane takes the permit for an operation's first call when it claims the operation. So no sender waits for the rate
limit before a first call, and no permit is taken when nothing is due. For each later call of an attempt, the sender
waits for a permit. Otherwise first calls would take all permits, and attempts of two calls would never end.

The lane's calls block its thread. Senders and attempts call the gate on the event loop, and it reads Redis and the
ledger for them in other threads.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from worker.b2copy.client import SERVICE_ADMIN
from worker.errors import (
    AccessRejected,
    B2CopyError,
    CircuitOpen,
    PermitRefused,
    RateLimited,
    SettingsError,
    UnknownOutcome,
)
from worker.flow.circuit_breaker import PROBE_EVERY_S, CircuitBreaker
from worker.flow.fleet_limits import HOLD_WITHOUT_RETRY_AFTER_S, FleetLimits
from worker.flow.meaning_table import Meaning
from worker.http import event_loop
from worker.operation import Outcome, WaitReason
from worker.queues import CRM
from worker.settings import LONGEST_FOR_A_CALL_S, Settings
from worker.watch import metrics

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds after the last failure for which the metric shows an open circuit. While something is due, failures follow
# each other more closely: probes are sent every 2 s, a call ends within 60 s and is repeated within 10 s. After this
# time nobody knows whether the destination is unavailable: there was nothing to send, or other processes sent it.
SHOWN_OPEN_S = 120.0
SHOWN_OPEN_OF_CRM_S = 3 * 3600.0  # seconds; a notice that failed is sent again after up to two hours
PERMIT_PATIENCE_S = LONGEST_FOR_A_CALL_S  # seconds that a later call of an attempt waits at most for its permit
WAITS_FOR_CIRCUIT = (WaitReason.BACKOFF, WaitReason.CIRCUIT_OPEN, WaitReason.NO_ACCESS)


class Gate:
    """Circuit, login, rate limit and hold of one destination. Thread-safe.

    A process has one for each destination of operations, one for reads, and one for each route with a gate of its own.

    When a circuit closes or a login succeeds, the gate calls `make_due(destination, reasons)`, which makes the
    operations due that wait for one of the reasons.

    After a failed login the gate awaits `ask_for_token()` every `PROBE_EVERY_S` on the event loop, until that raises no
    error. Otherwise a process whose requests carry no token, as those of a registration, would send only probes for
    ever, because other processes may do the operations whose success closes the login.
    """

    def __init__(
        self,
        destination: str,
        settings: Settings,
        make_due: Callable[[str, Iterable[WaitReason]], None],
        circuit: str | None = None,
        ask_for_token: Callable[[], Awaitable[object]] | None = None,
        holds: Sequence[str] = (),
    ) -> None:
        """`circuit` names a circuit and a login of its own, if they are not those of the destination's operations.

        `holds`: see `FleetLimits`.
        """
        self._destination, self._name = destination, circuit or destination
        self._hold_name = holds[0] if holds else destination
        self._settings, self._make_due = settings, make_due
        self.fleet_limits = FleetLimits(destination, settings, circuit, holds)
        self._own_gates: dict[str, Gate] = {}
        self._is_probing = False  # a circuit probe that `passing` let through is under way
        self._waiting = {True: 0, False: 0}  # urgent or not -> later calls of attempts that wait for their permits
        self._asking = {True: asyncio.Lock(), False: asyncio.Lock()}  # urgent or not
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself holds only weak references
        self._last_served: dict[tuple[str | None, str | None], float] = {}  # login, kind -> monotonic seconds
        self._shown_open = metrics.CIRCUIT_OPEN.labels(self._name)
        self._shown_open.set(0)
        self._show_closed_later: asyncio.TimerHandle | None = None
        self._circuit = CircuitBreaker(self.fleet_limits.reserve_probe)
        # Without a token no operation can be sent: one failure is enough to let only probes through. A probe asks for
        # the shared session's token and costs the destination nothing, so every process may make its own.
        self._login = CircuitBreaker(lambda: 0.0, failures_to_open=1)
        self._ask_for_token = ask_for_token
        self._token_probes: asyncio.Task[None] | None = None

    @property
    def times_closed(self) -> int:
        """How often the gate was closed, because the circuit opened or the login failed."""
        return self._circuit.times_opened + self._login.times_opened

    @property
    def is_open(self) -> bool:
        """Whether operations may be sent at all, apart from rate limit and hold."""
        return not (self._circuit.is_open or self._login.is_open)

    @property
    def _closed_text(self) -> str:
        """What becomes the message of an operation that the closed gate stops."""
        why = "our login fails" if self._login.is_open else "its last requests failed (open circuit)"
        return f"nothing was sent to {self._name}: {why}"

    def available(self, wanted: int, urgent: bool) -> int:
        """Return how many operations may be claimed now: `wanted`, fewer, or a single probe. Takes no permit."""
        return self._leave_room(self._login.available(self._circuit.available(wanted, urgent), urgent), urgent)

    def take(self, claimed: int, urgent: bool) -> int:
        """Take the permits for the first calls of claimed operations; return for how many there are permits."""
        is_probe = self._circuit.is_open
        passed = self._circuit.take(claimed, urgent)
        count = self._login.take(passed, urgent)
        if any(self._waiting.values()):
            count = self._leave_room(count, urgent)
        permits = self.fleet_limits.take(count, urgent)
        if is_probe and passed and not permits:  # somebody else took the last permit: the probe was not made
            for allow in self._allow_next_probe():
                allow()
        return permits

    def _leave_room(self, wanted: int, urgent: bool) -> int:
        """Return how many of `wanted` permits could be taken now, and leave one for each later call that waits.

        Otherwise first calls take every permit of a slow limit, the later calls give up after `PERMIT_PATIENCE_S`, and
        no attempt that makes several calls ever ends. Urgent operations leave room for urgent calls alone.
        """
        waiting = 0 if wanted < 1 else self._waiting[True] + (0 if urgent else self._waiting[False])
        return max(0, self.fleet_limits.available(wanted + waiting, urgent) - waiting)

    async def pass_first(self, urgent: bool) -> int:
        """Let the first call of something pass that no lane has claimed: with a permit, or as a probe.

        Returns `times_closed`, which its later checks need. Raises `GateClosed`.
        """
        times_closed = self.times_closed
        if self.is_open:
            await self.pass_one(urgent, times_closed)
        elif await self._in_redis_thread(partial(self.take, 1, urgent)) != 1:
            raise CircuitOpen(self._closed_text, None, None, self.until_open_s(urgent))
        return times_closed

    def own_gate(self, name: str) -> "Gate":
        """Return the gate of a route that has one of its own: another circuit, login and hold of this destination.

        To be called on the event loop.
        """
        if name not in self._own_gates:
            self._own_gates[name] = Gate(self._destination, self._settings, self._make_due, name, holds=[name])
        return self._own_gates[name]

    @asynccontextmanager
    async def passing(self, urgent: bool) -> AsyncIterator[int]:
        """Let one call pass that no lane has claimed for this gate, or raise `GateClosed` at once.

        Gives `times_closed`, which its later checks need. A process sends one circuit probe at a time: if the
        destination hangs, probes must not take all senders of a lane.
        """
        times_closed, is_probe = self.times_closed, not self.is_open
        must_wait = is_probe and self._is_probing
        if must_wait or await self._in_redis_thread(partial(self.take, 1, urgent)) != 1:
            if self.is_open:
                raise PermitRefused("the destination asked everybody to wait", None, None, self.until_open_s(urgent))
            raise CircuitOpen(self._closed_text, None, None, self.until_open_s(urgent))
        self._is_probing = self._is_probing or is_probe
        try:
            yield times_closed
        finally:
            if is_probe:
                self._is_probing = False

    async def pass_one(self, urgent: bool, times_closed: int) -> None:
        """Let one further call of an attempt pass, waiting for its permit for at most `PERMIT_PATIENCE_S`.

        `times_closed`: see `lets_pass`. Raises `GateClosed`: the operation waits and continues later.
        """
        ends = time.monotonic() + PERMIT_PATIENCE_S
        self._waiting[urgent] += 1
        try:
            async with asyncio.timeout(PERMIT_PATIENCE_S):  # Redis may be frozen
                while self.lets_pass(times_closed):
                    if self.fleet_limits.hold_left_s():
                        await self._is_on_hold()  # a person may have ended it
                    if wait_s := self.fleet_limits.until_permit_s(urgent):
                        if time.monotonic() + wait_s > ends:
                            is_held = self.fleet_limits.hold_left_s() > 0
                            why = "the destination asked everybody to wait" if is_held else "the rate limit is reached"
                            raise PermitRefused(why, None, None, wait_s)
                        await asyncio.sleep(wait_s)
                    elif await self._take_one(urgent):
                        return
        except TimeoutError:
            raise PermitRefused("no permit came in time", None, None, PERMIT_PATIENCE_S) from None
        finally:
            self._waiting[urgent] -= 1
        raise CircuitOpen(self._closed_text, None, None, self.until_open_s(urgent))

    async def may_send(self, times_closed: int) -> bool:
        """Return whether a claim may be sent for which `times_closed` was noted: no hold, and `lets_pass`."""
        return not await self._is_on_hold() and self.lets_pass(times_closed)

    def check(self, times_closed: int) -> None:
        """Raise `GateClosed` if no request may be sent now, as far as this process knows. Asks nobody."""
        if not self.lets_pass(times_closed):
            raise CircuitOpen(self._closed_text, None, None, self.until_open_s(urgent=True))
        if hold_left_s := self.fleet_limits.hold_left_s():
            raise PermitRefused("the destination asked everybody to wait", None, None, hold_left_s)

    def lets_pass(self, times_closed: int) -> bool:
        """Return whether the gate is open, or has not closed since `times_closed` was noted for a claim.

        In the second case the claim is a probe. All calls of a probe pass: if its second call did not, operations of
        several calls alone could never close the circuit.
        """
        return self.is_open or times_closed == self.times_closed

    def until_open_s(self, urgent: bool) -> float:
        """Return the seconds after which it makes sense to ask again; 0 if the gate is open."""
        probe_s = max(self._circuit.until_probe_s(urgent), self._login.until_probe_s(urgent))
        return max(probe_s, self.fleet_limits.until_permit_s(urgent))

    def served_since(self, monotonic_s: float, login: str | None, kind: str | None = None) -> bool:
        """Return whether the destination has served an operation, `circuit` success, since this monotonic time.

        Only operations of the same login and kind are compared: a login may lose its access alone, a permission may be
        that of one kind, and a proxy may have no route for one kind.
        """
        return self._last_served.get((login, kind), 0.0) > monotonic_s

    async def record(
        self,
        learned: Outcome | Exception,
        meaning: Meaning,
        login: str | None,
        kind: str | None = None,
        *,
        times_closed: int | None = None,
        was_answered: bool = False,
    ) -> None:
        """Note what an attempt says about the destination and its login: at once for this process, soon for others.

        `login`: the one whose token was on the request, None if there was no token. The gate watches the service
        admin's. Another login says nothing about that one, and its refused access says nothing about the destination.

        `times_closed`: the value that was noted for the attempt's claim, see `record_nothing`. `was_answered`: the
        destination has answered an earlier request of the attempt. If that was the probe, the destination works, unless
        the last request shows otherwise.

        What blocks runs in a thread after this has returned, so that the attempt's result need not wait for it.
        """
        then: list[Callable[[], None]] = []
        proves_login = login == SERVICE_ADMIN
        is_about_all = proves_login or not isinstance(learned, AccessRejected)
        is_probe = self._is_circuit_probe(times_closed)
        if isinstance(learned, RateLimited) or (isinstance(learned, UnknownOutcome) and learned.is_rate_limited):
            hold_s = learned.retry_after or HOLD_WITHOUT_RETRY_AFTER_S
            self.fleet_limits.hold(hold_s)  # before the log, which may block
            log.warning("%s answered 429: %s waits for %.0f s", self._destination, self._hold_name, hold_s)
            then.append(self.fleet_limits.share_hold)
            metrics.HOLDS.labels(self._destination).inc()
        if meaning.login == "success" and proves_login:
            then += self._close_login()
        elif meaning.login == "failure":
            self._login.record_failure()
            self._start_token_probes()
        if meaning.circuit == "success":
            self._last_served[login, kind] = time.monotonic()
        if meaning.circuit == "success" or (meaning.circuit is None and is_probe and was_answered):
            if self._circuit.record_success():
                self._show_circuit(False)
                then.append(self.fleet_limits.allow_next_probe)
                then.append(partial(self._make_due, self._destination, WAITS_FOR_CIRCUIT))
        elif meaning.circuit == "failure" and is_about_all:
            has_opened = self._circuit.record_failure()
            if self._circuit.is_open:
                self._show_circuit(True, learned)
            if has_opened:
                self._log_opened(learned)
        elif is_probe and not meaning.may_have_left:
            then += self._allow_next_probe()
        self._start_in_thread(then)

    def record_nothing(self, times_closed: int) -> None:
        """Note that what was claimed with `times_closed` has shown nothing about the destination.

        If it was the circuit probe, another one may follow soon. Otherwise operations that make no request, because
        something else is missing, would use up the probes of the whole fleet. To be called on the event loop.
        """
        if self._is_circuit_probe(times_closed):
            self._start_in_thread(self._allow_next_probe())

    def _is_circuit_probe(self, times_closed: int | None) -> bool:
        return self._circuit.is_open and times_closed == self.times_closed

    def _allow_next_probe(self) -> list[Callable[[], None]]:
        """Let this process probe again soon. Returns what must be done for the fleet, which blocks."""
        self._circuit.allow_next_probe()
        return [self.fleet_limits.allow_next_probe]

    def _close_login(self) -> list[Callable[[], None]]:
        """Note that there is a token. Returns what must be done then, which blocks."""
        if not self._login.record_success():
            return []
        return [partial(self._make_due, self._destination, (WaitReason.NO_SESSION,))]

    def _start_token_probes(self) -> None:
        if self._ask_for_token is not None and (self._token_probes is None or self._token_probes.done()):
            self._token_probes = asyncio.create_task(self._probe_token(self._ask_for_token))

    def stop_token_probes(self) -> None:
        """Ask for no token any more: for a process that continues without this gate."""
        if (probes := self._token_probes) is not None:
            event_loop().call(probes.cancel)

    async def _probe_token(self, ask_for_token: Callable[[], Awaitable[object]]) -> None:
        """Ask for a token until there is one, or until an operation had one."""
        while self._login.is_open:
            await asyncio.sleep(PROBE_EVERY_S)
            try:
                await ask_for_token()
            except (B2CopyError, SettingsError):
                continue
            except Exception:
                log.exception("%s: the gate could not ask for a token", self._name)
                continue
            self._start_in_thread(self._close_login())

    def _start_in_thread(self, functions: list[Callable[[], None]]) -> None:
        if functions:
            task = asyncio.create_task(self._run_in_thread(functions))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_in_thread(self, functions: Iterable[Callable[[], None]]) -> None:
        for function in functions:
            try:
                await asyncio.to_thread(function)
            except Exception:
                log.exception("the gate could not share what it learned")

    async def _take_one(self, urgent: bool) -> bool:
        if self.fleet_limits.per_second is None:
            return not await self._is_on_hold()
        async with self._asking[urgent]:  # one asks at a time: if Redis refuses it or is frozen, the others do not ask
            if self.fleet_limits.until_permit_s(urgent):
                return False
            return await self._in_redis_thread(partial(self.fleet_limits.take, 1, urgent)) == 1

    async def _in_redis_thread(self, blocks: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(event_loop().redis_threads, blocks)

    async def _is_on_hold(self) -> bool:
        if self.fleet_limits.must_read_hold():
            await self._in_redis_thread(self.fleet_limits.read_hold)
        return self.fleet_limits.hold_left_s() > 0

    def _show_circuit(self, is_open: bool, failure: Outcome | Exception | None = None) -> None:
        """Set the metric. An open circuit is shown for `SHOWN_OPEN_S`, or longer if the answer has a Retry-After.

        The metric is not computed when it is scraped, because pool processes write its value to a file.
        """
        self._shown_open.set(is_open)
        if self._show_closed_later is not None:
            self._show_closed_later.cancel()
            self._show_closed_later = None
        if is_open:
            shown_s = SHOWN_OPEN_OF_CRM_S if self._destination == CRM else SHOWN_OPEN_S
            if isinstance(failure, B2CopyError) and failure.retry_after:
                shown_s += failure.retry_after
            self._show_closed_later = asyncio.get_running_loop().call_later(shown_s, self._shown_open.set, 0)

    def _log_opened(self, failure: Outcome | Exception) -> None:
        if isinstance(failure, AccessRejected):
            log.error(
                "%s refuses our access for every operation (%s). They wait and none fails. Our address is %s"
                " (B2COPY_DEVICE_IP): is it still on the service admin's allow-list, and has the admin the permission?",
                self._name,
                failure,
                self._settings.device_ip,
            )
        else:
            text = str(failure) if isinstance(failure, B2CopyError) else type(failure).__name__
            log.warning("%s is unavailable (%s): only a probe is sent every two seconds", self._name, text)
