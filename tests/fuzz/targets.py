"""What is fuzzed: each target takes random input and fails if the code answers otherwise than it promises."""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from kombu.connection import Connection
from starlette.testclient import TestClient

from tasks.registry import KINDS
from tests.console.sample import fill
from tests.fuzz import pages
from tests.fuzz import strategies as given
from worker.b2copy.response_mapping import value_of
from worker.b2copy.routes.fees import PROCESS
from worker.b2copy.routes.generic import route_to
from worker.cli.exit_codes import Stop
from worker.cli.payload_fields import text_fields
from worker.cli.read_rows import csv_rows, json_rows
from worker.cli.text_encoding import open_source
from worker.errors import B2CopyError, BadPayload, SettingsError
from worker.flow.meaning_table import meaning_of
from worker.http.answer import Answer
from worker.http.headers import Headers
from worker.ledger import Ledger, fail_message, find, open_ledger, record
from worker.ledger.engine import connect
from worker.messages.bad_message_text import bounded_ascii
from worker.messages.consumer import _storing
from worker.messages.inbox import _fields
from worker.messages.safe_envelope import Unusable, deliverable, restorable
from worker.messages.task_message import arguments_as_text, read_task_message
from worker.operation import MESSAGE_LIMIT
from worker.plaintext import plaintext_problem
from worker.redis_connection import tls_options
from worker.session.token_endpoints import read_pair
from worker.settings import CrmSettings, Settings, crm_settings, load, variable

FEES_SENT = {"account_login": "123456", "request_id": "W1"}
SECRET = "hunter2-canary"


@cache
def ledger() -> Ledger:
    """Return a ledger of this run. What is recorded must be found again as it was."""
    folder = tempfile.mkdtemp(prefix="b2copy-fuzz-")
    os.environ["B2COPY_DATABASE_URL"] = f"sqlite:///{folder}/ledger.sqlite"
    os.environ["B2COPY_REDIS_URL"] = "redis://127.0.0.1:1/0"
    return open_ledger(os.environ["B2COPY_DATABASE_URL"], create=True)


@cache
def channel() -> Any:
    """Return a channel of kombu's, which decodes what `deliverable` wrote."""
    return Connection("memory://").channel()


def envelope(item: bytes) -> None:
    """Any item of a queue becomes an envelope that kombu delivers, and is an operation's message or stored as bad."""
    queue, raw = restorable(item)
    assert isinstance(queue, str)
    assert isinstance(raw, bytes)
    message = channel().message_to_python(json.loads(deliverable(item, "b2copy.inbox")))
    try:
        read = read_task_message(message)
    except Exception as error:  # the consumer stores whatever a decoder raises
        problem = str(error) if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"
        stored = _storing(message, problem).kwargs
        fail_message(
            ledger(), stored["message_id"][:100] or "none", stored["task"], stored["problem"], "fuzz", stored["raw"]
        )
        json.dumps(stored)
    else:
        take_arguments(read.args, read.kwargs)


def arguments(given: tuple[list[Any], dict[str, Any]]) -> None:
    """Arguments of a message become an operation that is stored as it was asked for, or a `BadPayload`."""
    take_arguments(*given)


def take_arguments(args: list[Any], kwargs: dict[str, Any]) -> None:
    for kind in KINDS.values():
        try:
            new = kind.new(_fields(kind, args, kwargs), crm_settings())
            record(ledger(), [new], by="fuzz")
        except BadPayload as error:
            problem = bounded_ascii(str(error), 2000)
            fail_message(ledger(), "m", "b2copy.call", problem, "fuzz", bounded_ascii(arguments_as_text(args, kwargs)))
            continue
        stored = find(ledger(), new.key)
        assert stored is not None, new
        assert stored.payload == dict(new.payload), (stored.payload, new.payload)
        assert new.key.isascii()
        assert new.key.isprintable()


def answer(given: tuple[int, list[bytes], bytes]) -> None:
    """Any answer is a value or one of our errors, which has a meaning and a text that can be stored."""
    status, lines, body = given
    got = Answer(status, Headers(lines), body)
    assert got.retry_after is None or 0 <= got.retry_after <= 86400
    assert got.server_time is None or isinstance(got.server_time, float)
    for route, sent in ((PROCESS, FEES_SENT), (route_to("/api/admin/x/v1/p/s/m"), {})):
        try:
            json.dumps(getattr(route.read(value_of(got, route.name), sent), "message", "")).encode()
        except B2CopyError as error:
            if meaning_of(error).word == "internal":
                raise AssertionError("an answer became a fault of ours") from error
            _check_text(str(error.server_message or ""))
    with suppress(B2CopyError):
        pair = read_pair(got, "token")
        assert "canary" not in repr(pair)
    _check_text(got.server_message())


def _check_text(text: str) -> None:
    assert len(text) <= MESSAGE_LIMIT
    assert text.isprintable() or text == ""
    text.encode()


def import_file(given: tuple[str, bytes]) -> None:
    """Any file is read as rows, each good or refused in words, or is refused naming the line."""
    suffix, content = given
    file = Path(tempfile.gettempdir()) / f"b2copy-fuzz-{os.getpid()}{suffix}"
    file.write_bytes(content)
    try:
        for kind in KINDS.values():
            with suppress(Stop), file.open("rb") as stream:
                source = open_source(file.name, stream, None)
                rows = (
                    json_rows(source)
                    if suffix == ".jsonl"
                    else csv_rows(source, list(kind.payload.model_fields), text_fields(kind), is_whole=True)
                )
                for row in rows:
                    with suppress(BadPayload):
                        kind.new(row.fields, crm_settings())
    finally:
        file.unlink()


def settings(changes: dict[str, str]) -> None:
    """Any environment is read, or refused in lines that name a variable and hold no secret."""
    before = dict(os.environ)
    try:
        for name, value in changes.items():
            os.environ[variable(name)] = value
        for kind in (CrmSettings, Settings):
            try:
                read = load(kind)
                connect(read.database_url).dispose()
                assert read.database_plaintext == "allowed" or not plaintext_problem(read.database_url)
                assert read.redis_plaintext == "allowed" or not plaintext_problem(read.redis_url)
                tls_options(read)
                text = repr(read)
            except SettingsError as error:
                text = str(error)
                assert all(line.startswith("B2COPY_") for line in text.splitlines()), text
            assert SECRET not in text, text
    finally:
        os.environ.clear()
        os.environ.update(before)


@cache
def console() -> TestClient:
    """Return a client of a console on a ledger of its own, open as long as this process."""
    url = f"sqlite:///{tempfile.mkdtemp(prefix='b2copy-fuzz-pages-')}/ledger.sqlite"
    made = open_ledger(url, create=True)
    fill(made)
    made.close()
    return ExitStack().enter_context(pages.console_on(url))


def console_page(request: pages.Request) -> None:
    """Any request to the console is answered without a fault, and nothing of it becomes markup."""
    pages.send(console(), request)


TARGETS: dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any]]] = {
    "message arguments": (arguments, given.arguments()),
    "envelopes": (envelope, given.envelopes()),
    "answers": (answer, given.answers()),
    "import files": (import_file, given.files()),
    "console pages": (console_page, pages.requests()),
    "settings": (settings, given.environments(SECRET)),
}
