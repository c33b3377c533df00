"""Ask a worker to read something at B2COPY, and wait for its answer. For a host that holds no key of B2COPY.

    asker: message to b2copy.reads ──> worker: reads ──> sealed answer in Redis ──> asker takes it, once

A lost message or answer is a read without an answer: the asker may ask again, because a read has no effect.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from secrets import token_urlsafe
from typing import Any

import redis
from kombu.exceptions import KombuError

from worker import errors
from worker.app import app
from worker.errors import B2CopyError, BadPayload, NoAnswerInTime, Unavailable
from worker.instances import ledger
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS
from worker.messages.read_answers import DEADLINE_MAX_S, Answers
from worker.messages.sealed_answer import OneTimeKey
from worker.per_process import PerProcess
from worker.queues import READS
from worker.settings import crm_settings

TASK = "b2copy.read"
UNREAD_MAX = 1_000  # messages in the queue that no worker has taken: with more, nobody asks

answers = PerProcess(lambda: Answers(crm_settings()))
"""This process's view of the answers in Redis."""


def ask(name: str, parameters: Mapping[str, Any], timeout_s: float) -> Any:
    """Return the JSON value that a worker reads. `parameters` are checked already.

    A call to Redis that has begun is waited for: if Redis is frozen, the error may come 5 s after `timeout_s`. The
    same holds for the ledger, which this process opens at its first read.

    Raises `BadPayload` for an unusable `timeout_s`, `NoAnswerInTime`, `Unavailable` if Redis or the ledger does not
    answer, `SettingsError` if there is no ledger, and the error of `worker.errors` that the worker met.
    """
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= DEADLINE_MAX_S:
        raise BadPayload(f"timeout_s: {timeout_s!r} must be a number of seconds up to {DEADLINE_MAX_S:g}")
    ends = time.monotonic() + timeout_s
    try:
        ledger_id = ledger().id
    except DATABASE_UNAVAILABLE_ERRORS as error:
        raise Unavailable(f"{name}: the ledger is unavailable ({type(error).__name__}): ask again later") from None
    key, read_id = OneTimeKey(), token_urlsafe(16)
    try:
        ends_at = answers().clock_ms() + round((ends - time.monotonic()) * 1000)
        if time.monotonic() < ends:
            asked = {"name": name, "parameters": parameters, "read_id": read_id, "key": key.public, "ends_at": ends_at}
            _send(name, asked | {"ledger_id": ledger_id})
        sealed = None
        while sealed is None and (left_s := ends - time.monotonic()) > 0:
            sealed = answers().take(read_id, left_s)
    except (redis.RedisError, KombuError, OSError) as error:
        raise Unavailable(f"{name}: Redis does not answer ({type(error).__name__}): ask again later") from None
    if sealed is None:
        raise NoAnswerInTime(
            f"{name}: no worker has answered within {timeout_s:g} s. Does one run (b2copy-sync doctor)? Ask again, or"
            " with a longer timeout_s"
        )
    answer = _opened(key, read_id, sealed)
    if "value" not in answer:
        raise _error_of(name, answer)
    return answer["value"]


def _send(name: str, arguments: Mapping[str, Any]) -> None:
    with app.producer_or_acquire() as producer:
        # Only workers shorten the queue. While none runs, it must not grow until Redis is full.
        if producer.channel.client.llen(READS) >= UNREAD_MAX:
            raise Unavailable(f"{name}: {UNREAD_MAX} reads wait that no worker has taken: does one run?")
        # No second try: one on a frozen Redis takes 5 s already, and the caller may ask again.
        app.send_task(TASK, kwargs=arguments, queue=READS, producer=producer, retry=False)


def _opened(key: OneTimeKey, read_id: str, sealed: bytes) -> dict[str, Any]:
    """Return the answer. An answer that cannot be read is an error. Nothing here raises with a secret in its frame."""
    try:
        answer = json.loads(key.unseal(read_id, sealed) or b"null")
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"error": "Unavailable", "arguments": ["the answer cannot be read"]}


def _error_of(name: str, answer: Mapping[str, Any]) -> Exception:
    """Return the worker's error: a class of `worker.errors` with the same arguments."""
    kind = getattr(errors, str(answer.get("error")), None)
    arguments = answer.get("arguments")
    if isinstance(kind, type) and issubclass(kind, B2CopyError | BadPayload) and isinstance(arguments, list):
        with suppress(TypeError):  # a class of another version may take others
            return kind(*arguments)
    return Unavailable(f"{name}: {answer.get('error')}: {arguments}")
