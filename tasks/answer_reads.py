"""Answer what CRM hosts ask to read. A worker does this; `worker.messages.ask_read` is the other side."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import redis
from celery import signals

from tasks.read_threads import in_read_thread
from tasks.reads import READS, Read, as_json, read_named
from worker.app import app
from worker.b2copy.routes.seamless_login import SeamlessUrl
from worker.errors import B2CopyError, BadPayload, PermitRefused, ReadExpired, SettingsError, Unavailable
from worker.flow.reader import EXPIRED, Reader, in_time
from worker.http import event_loop
from worker.instances import b2copy, ledger
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, active_flags
from worker.messages.ask_read import TASK, answers
from worker.messages.bad_message_text import short
from worker.messages.read_answers import ANSWER_MAX, DEADLINE_MAX_S, LIFE_S
from worker.messages.sealed_answer import Seal
from worker.operation import AuditEntry
from worker.per_process import PerProcess
from worker.settings import variable, worker_settings
from worker.watch.observe import observe_read

log = logging.getLogger(__name__)

T = TypeVar("T")

RUNNING_MAX = 300  # reads of one process, more than `Reader` lets wait; a further one is dropped at once
PAUSE_KEPT_S = 1.0  # seconds between two looks whether all lanes are paused
TEXT_MAX = 1_000  # characters of each text of an error that an answer holds

_running: set[Future[None]] = set()
reader = PerProcess(lambda: Reader(b2copy, worker_settings(), lambda: b2copy().ask_for_token()))
"""This process's reader."""


@app.task(name=TASK)
def read(name: str, parameters: dict[str, Any], read_id: str, key: str, ends_at: int, ledger_id: str) -> None:
    """Start a read for a CRM, which waits for the answer until `ends_at` (ms, by Redis' clock).

    A read that comes from another ledger means that two systems share one Redis database: it is refused.

    The read continues on the event loop. So a slow B2COPY holds no slot of Celery's, which withdrawals need too.
    """
    if len(_running) >= RUNNING_MAX:
        log.warning(
            "a read was dropped, and its caller gets no answer: %d are under way in this process. Is B2COPY slow?",
            RUNNING_MAX,
        )
        observe_read(name if name in tuple(READS) else "unknown", "dropped")
        return
    under_way = event_loop().submit(_answer(name, parameters, read_id, key, ends_at, ledger_id))
    _running.add(under_way)
    under_way.add_done_callback(_running.discard)


@signals.worker_shutdown.connect
@signals.worker_process_shutdown.connect
def finish_reads(**_: Any) -> None:
    """Warm shutdown: finish the reads that are under way."""
    if reader.existing:
        wait(list(_running), timeout=worker_settings().call_deadline)


class PauseFlag:
    """Whether a person has paused all lanes. Asks the ledger once in `PAUSE_KEPT_S`, however many ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flag: AuditEntry | None = None
        self._looked_at = float("-inf")  # monotonic seconds

    def check(self, name: str) -> None:
        """Raise `PermitRefused` if all lanes are paused: B2COPY may have asked for quiet. Blocks."""
        with self._lock:  # one looks, the others wait for what it finds
            if time.monotonic() - self._looked_at >= PAUSE_KEPT_S:
                self._flag = active_flags(ledger()).get("pause:all")
                self._looked_at = time.monotonic()
            flag = self._flag
        if flag:
            raise PermitRefused(f"{name}: everything is paused by {flag.actor}: {flag.note}")


pause_flag = PerProcess(PauseFlag)
"""What this process knows of a pause of all lanes."""


async def _answer(name: str, parameters: dict[str, Any], read_id: str, key: str, ends_at: int, ledger_id: str) -> None:
    """Make a read and post its sealed answer. An error before there is a key to seal with is not answered."""
    try:
        seal = Seal(read_id, key)
        ends = await _in_thread(time.monotonic() + DEADLINE_MAX_S, answers().deadline, ends_at)
        if time.monotonic() >= ends:
            log.info("read %s: expired before a worker took it", name)
            return
        try:
            await _in_thread(ends, _check_ledger, name, ledger_id)
            value = await _value(name, parameters, ends)
            answer = await _in_thread(ends, _sealed_value, seal, name, value)
        except (ReadExpired, redis.RedisError):
            raise
        except Exception as error:
            answer = await _in_thread(ends, _sealed, seal, _described(name, error))
        await _in_thread(ends, answers().post, read_id, answer, round((ends - time.monotonic()) * 1000))
    except ReadExpired:
        log.info("read %s: not answered before its deadline", name)
    except Exception as error:  # Redis, or a message that no version of ours sends
        log.warning("a read was not answered (%s): %s", type(error).__name__, error)


def _check_ledger(name: str, ledger_id: str) -> None:
    """Raise `Unavailable` if a CRM of another ledger asks: its accounts may be at another B2COPY. Blocks."""
    if ledger_id != ledger().id:
        alone = "B2COPY_REDIS_URL must name a Redis database of this system alone"
        log.critical("a read came from another ledger (%s; ours is %s): %s", short(ledger_id), ledger().id, alone)
        raise Unavailable(f"{name}: a worker of another ledger took this read and made none: {alone}")


async def _value(name: str, parameters: Mapping[str, Any], ends: float) -> Any:
    settings = worker_settings()
    wanted: Read[Any] = read_named(name)
    if name not in settings.reads:
        raise BadPayload(
            f"{name}: the workers' {variable('reads')} does not list it. Add it there, if CRMs may read it"
        )
    checked = wanted.checked(parameters)
    await _in_thread(ends, pause_flag().check, name)
    return await reader().read(name, lambda call: wanted.make(call, checked, settings), ends)


def _sealed_value(seal: Seal, name: str, value: Any) -> bytes:
    """Seal what was read. Raises `BadPayload` if it is too long, `PermitRefused` if too many answers are in Redis."""
    sealed = _sealed(seal, {"value": as_json(value)})
    if len(sealed) > ANSWER_MAX:
        raise BadPayload(
            f"{name}: the answer has {len(sealed)} bytes, {ANSWER_MAX} are allowed: ask for less, for instance by limit"
        )
    if not answers().reserve(len(sealed)):
        raise PermitRefused(f"{name}: the answers of the last seconds are too many for Redis", None, None, LIFE_S)
    return sealed


def _sealed(seal: Seal, answer: Mapping[str, Any]) -> bytes:
    """Write and seal an answer. Nothing that may raise has a secret in its frame."""
    options: dict[str, Any] = {"default": _revealed, "ensure_ascii": False, "separators": (",", ":")}
    return seal.seal(json.dumps(answer, **options).encode("utf-8", "surrogatepass"))


def _revealed(value: Any) -> str:
    if isinstance(value, SeamlessUrl):
        return value.reveal()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _described(name: str, error: Exception) -> dict[str, Any]:
    """Return what an answer holds of an error: the name of a class of `worker.errors`, and its arguments."""
    match error:
        case B2CopyError() | BadPayload():
            arguments = [one[:TEXT_MAX] if isinstance(one, str) else one for one in error.args]
            return {"error": type(error).__name__, "arguments": arguments}
        case SettingsError():
            return {
                "error": "Unavailable",
                "arguments": [f"{name}: the worker cannot read it, because of its settings: {error}"],
            }
    if isinstance(error, DATABASE_UNAVAILABLE_ERRORS):
        return {"error": "Unavailable", "arguments": [f"{name}: the worker's ledger is unavailable"]}
    log.error("read %s failed on our side", name, exc_info=error)
    return {"error": "Unavailable", "arguments": [f"{name}: the worker failed on its side, and its log says why"]}


async def _in_thread(ends: float, blocks: Callable[..., T], *arguments: Any) -> T:
    """Call something that blocks, unless the read expires first: then it leaves the queue of the threads."""
    if time.monotonic() >= ends:
        raise ReadExpired(EXPIRED)
    return await in_time(in_read_thread(blocks, *arguments), ends)
