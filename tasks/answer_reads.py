"""Answer what CRM hosts ask to read. A worker does this; `worker.messages.ask_read` is the other side."""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from celery import signals

from tasks.reads import Read, read_named
from worker.app import app, b2copy, ledger
from worker.b2copy.routes.seamless_login import SeamlessUrl
from worker.errors import B2CopyError, BadPayload, LeaseTooShort, PermitRefused, SettingsError
from worker.flow.reader import Reader
from worker.http import event_loop
from worker.http.daemon_threads import DaemonThreads
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, active_flags
from worker.messages.ask_read import TASK, answers
from worker.messages.read_answers import LIFE_MAX_S
from worker.messages.sealed_answer import Seal
from worker.per_process import PerProcess
from worker.settings import variable, worker_settings

log = logging.getLogger(__name__)

T = TypeVar("T")

THREADS = 4  # for Redis' answers; not those of the gates, which withdrawals need

_running: set[Future[None]] = set()
_threads = PerProcess(lambda: DaemonThreads(THREADS, "b2copy-reads"))
reader = PerProcess(lambda: Reader(b2copy, worker_settings()))
"""This process's reader."""


@app.task(name=TASK)
def read(name: str, parameters: dict[str, Any], read_id: str, key: str, ends_at: int) -> None:
    """Start a read for a CRM, which waits for the answer until `ends_at` (ms, by Redis' clock).

    The read continues on the event loop. So a slow B2COPY holds no slot of Celery's, which withdrawals need too.
    """
    under_way = event_loop().submit(_answer(name, parameters, read_id, key, ends_at))
    _running.add(under_way)
    under_way.add_done_callback(_running.discard)


@signals.worker_shutdown.connect
@signals.worker_process_shutdown.connect
def finish_reads(**_: Any) -> None:
    """Warm shutdown: finish the reads that are under way."""
    if reader.made:
        wait(list(_running), timeout=worker_settings().call_deadline)


async def _answer(name: str, parameters: dict[str, Any], read_id: str, key: str, ends_at: int) -> None:
    """Make a read and post its sealed answer. Nobody is told what goes wrong before there is a key to seal with."""
    try:
        seal = Seal(read_id, key)
        left_s = min(LIFE_MAX_S, (ends_at - await _in_thread(answers().clock_ms)) / 1000)
        if left_s <= 0:
            log.info("read %s: expired before a worker took it", name)
            return
        ends = time.monotonic() + left_s
        try:
            answer = _sealed(seal, {"value": await _value(name, parameters, ends)})
        except LeaseTooShort:
            log.info("read %s: not sent before its deadline", name)
            return
        except Exception as error:
            answer = _sealed(seal, _told(name, error))
        life_ms = round((ends - time.monotonic()) * 1000)
        if life_ms > 0:
            await _in_thread(answers().post, read_id, answer, life_ms)
    except Exception as error:  # Redis, or a message that no version of ours sends
        log.warning("a read was not answered (%s): %s", type(error).__name__, error)


async def _value(name: str, parameters: Mapping[str, Any], ends: float) -> Any:
    settings = worker_settings()
    wanted: Read[Any] = read_named(name)
    if name not in settings.reads:
        raise BadPayload(
            f"{name}: the workers' {variable('reads')} does not list it. Add it there, if CRMs may read it"
        )
    checked = wanted.checked(parameters)
    await _in_thread(_check_not_paused, name)
    return await reader().read(name, lambda call: wanted.make(call, checked, settings), ends)


def _check_not_paused(name: str) -> None:
    """Raise `PermitRefused` if a person has paused all lanes: B2COPY may have asked for quiet."""
    if flag := active_flags(ledger()).get("pause:all"):
        raise PermitRefused(f"{name}: everything is paused by {flag.actor}: {flag.note}")


def _sealed(seal: Seal, answer: Mapping[str, Any]) -> bytes:
    """Write and seal an answer. Nothing that may raise has a secret in its frame."""
    return seal.seal(json.dumps(answer, default=_revealed).encode())


def _revealed(value: Any) -> str:
    if isinstance(value, SeamlessUrl):
        return value.reveal()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _told(name: str, error: Exception) -> dict[str, Any]:
    """Return what the asker is told of an error: the name of a class of `worker.errors`, and its arguments."""
    match error:
        case B2CopyError() | BadPayload():
            return {"error": type(error).__name__, "arguments": error.args}
        case SettingsError():
            return {"error": "Unavailable", "arguments": [f"{name}: the worker cannot: {error}"]}
    if isinstance(error, DATABASE_UNAVAILABLE_ERRORS):
        return {"error": "Unavailable", "arguments": [f"{name}: the worker's ledger is unavailable"]}
    log.error("read %s failed on our side", name, exc_info=error)
    return {"error": "Unavailable", "arguments": [f"{name}: the worker failed on its side, and its log says why"]}


async def _in_thread(blocks: Any, *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_threads(), blocks, *arguments)
