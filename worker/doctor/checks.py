"""What doctor looks at. Each check tells what it found, and the remedy; none stops at what is wrong."""

import ipaddress
import re
import stat
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from worker.settings import CrmSettings, LedgerSettings, Settings

FAIL: Literal["FAIL"] = "FAIL"
_SKEW = 5.0  # seconds; B2COPY's Date header has whole ones
_PATIENCE = 30.0  # seconds for a login


class Finding(NamedTuple):
    """`said` is what was found, `remedy` what to do about it."""

    check: str
    verdict: Literal["ok", "warn", "FAIL", "skip"]
    said: str
    remedy: str = ""


class Read(NamedTuple):
    """The settings, as far as they can be read."""

    ledger: "LedgerSettings | None"
    crm: "CrmSettings | None"
    worker: "Settings | None"


def settings() -> Generator[Finding, None, Read]:
    """Every problem is a line; what can be read all the same is examined further."""
    from pydantic import ValidationError

    from worker.errors import SettingsError
    from worker.settings import CrmSettings, LedgerSettings, Settings, load

    def read(kind: Any) -> Any:
        try:
            return kind()
        except ValidationError:
            return None

    try:
        worker = load(Settings)
    except SettingsError as error:
        yield from (Finding("settings", FAIL, problem) for problem in str(error).splitlines())
        yield Finding("keys", "skip", "neither these nor B2COPY are looked at before the settings are right")
        return Read(read(LedgerSettings), read(CrmSettings), None)
    yield Finding("settings", "ok", f"service admin {worker.admin_id} at {worker.host}, from {worker.device_ip}")
    if ipaddress.ip_address(worker.device_ip).is_private and not _is_local(worker.host):
        yield Finding(
            "settings", "warn", f"{worker.device_ip} is a private address", "B2COPY_DEVICE_IP is the one B2COPY sees"
        )
    return Read(worker, worker, worker)


def key_files(settings: "Settings") -> Iterator[Finding]:
    from worker.errors import SettingsError
    from worker.session import key_files

    there = 0
    for key_id, path in zip(settings.key_id, settings.private_key_file, strict=True):
        if not path.exists():
            yield Finding("keys", "warn", f"{key_id}: {path} is absent", "no fault if it is still to come")
            continue
        there += 1
        try:
            key_files.signing_keys(settings.model_copy(update={"key_id": [key_id], "private_key_file": [path]}))
        except SettingsError as error:
            yield Finding("keys", FAIL, f"{key_id}: {error}")
        else:
            yield Finding("keys", "ok", f"{key_id}: {path}, P-256, mode {_mode(path)}")
    if not there:
        yield Finding("keys", FAIL, "no private key exists", "`b2copy-sync keygen` makes one, or correct the path")
    try:
        key_files.storage_keys(settings)
    except SettingsError as error:
        yield Finding("keys", FAIL, str(error))
    else:
        yield Finding("keys", "ok", f"storage: {settings.storage_key_file}, mode {_mode(settings.storage_key_file)}")


def ledger(settings: "LedgerSettings") -> Iterator[Finding]:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import DBAPIError

    from worker.ledger import active_flags, open_ledger
    from worker.ledger.database import version_of
    from worker.ledger.schema import HEAD
    from worker.report.text import clock

    where = make_url(settings.database_url).render_as_string(hide_password=True)
    try:
        version = version_of(settings.database_url)
        if version is None:
            yield Finding("ledger", "warn", f"{where} holds no ledger yet", "`b2copy-sync migrate`, or start a worker")
        elif version != HEAD:
            newer = version.isdigit() and version > HEAD
            remedy = "install the b2copy-sync that made it, or a newer one" if newer else "`b2copy-sync migrate`"
            yield Finding("ledger", FAIL, f"{where} has schema {version}, {HEAD} is needed", remedy)
        else:
            yield Finding("ledger", "ok", f"{where}, schema {version}")
            opened = open_ledger(settings.database_url)
            try:
                for name, flag in active_flags(opened).items():
                    said = f"{name} since {clock(flag.at)} UTC, by {flag.actor}: {flag.note}"
                    yield Finding("ledger", "warn", said)
            finally:
                opened.close()
    except DBAPIError as error:
        first_line = str(error.orig).strip().partition("\n")[0]
        yield Finding("ledger", FAIL, f"{where}: {first_line}", "is the database there, and the URL right?")
    except ModuleNotFoundError as error:
        yield Finding("ledger", FAIL, f"the package {error.name} is absent", "install b2copy-sync[postgres]")


def redis(settings: "CrmSettings") -> Iterator[Finding]:
    import redis as driver

    from worker.doctor.shared_redis_check import foreign_queues
    from worker.redis_connection import redis_client

    client = redis_client(settings, timeout_s=5, connect_timeout_s=3)
    try:
        began = time.monotonic()
        client.ping()
        took = time.monotonic() - began
        told = client.info()
        server = f"{told.get('server_name', 'redis')} {told.get('valkey_version') or told.get('redis_version')}"
        where = _without_password(settings.redis_url)
        yield Finding("redis", "ok", f"{where}, {server}, answers in {took * 1000:.1f} ms")
        yield from (Finding("redis", "warn", *concern) for concern in _concerns(told))
        if foreign := sorted(foreign_queues(client)):
            yield Finding(
                "redis",
                "warn",
                f"queues of somebody else, now or once: {', '.join(foreign[:5])}{' ...' if len(foreign) > 5 else ''}",
                "give us a Redis database of our own (the /0 in the URL): the shortest visibility timeout rules all",
            )
    except driver.RedisError as error:
        said = f"{_without_password(settings.redis_url)}: {error}"
        yield Finding("redis", FAIL, said, "is Redis there, and B2COPY_REDIS_URL right?")
    else:
        yield from _workers(client)
    finally:
        client.close()


def _workers(client: Any) -> Iterator[Finding]:
    from kombu.exceptions import OperationalError

    from worker.app import app
    from worker.doctor.shared_redis_check import listeners, nodes
    from worker.errors import SettingsError

    try:
        own = float(app.conf.broker_transport_options["visibility_timeout"])
        found = nodes(app, listeners(client))
    except SettingsError:
        yield Finding("workers", "skip", "not asked before the settings are right")
        return
    except OperationalError as error:
        yield Finding("workers", FAIL, f"cannot be asked: {error}")
        return
    ours = [node for node in found if node.ours]
    if ours:
        yield Finding("workers", "ok", ", ".join(node.name for node in ours))
    else:
        yield Finding("workers", "warn", "none answers", "start one: celery -A worker.app worker")
    for node in found:
        if node.foreign_queues:
            queues = ", ".join(sorted(node.foreign_queues))
            remedy = "B2COPY's Redis database must be ours alone"
            yield Finding("workers", "warn", f"{node.name} serves {queues}, which is not ours", remedy)
        if node.visibility_timeout is not None and node.visibility_timeout != own:
            yield Finding(
                "workers",
                "warn",
                f"{node.name} has a visibility timeout of {node.visibility_timeout:g} s, ours is {own:g} s",
                "the shortest one on a Redis database rules all of them: keep them apart",
            )


def b2copy(settings: "Settings") -> Iterator[Finding]:
    from worker.errors import B2CopyError
    from worker.http import Http
    from worker.session import SharedSession

    began = time.time()
    try:
        answer = Http({"service_admin": SharedSession(settings)}, settings).reach()
    except B2CopyError as error:
        yield Finding("b2copy", FAIL, str(error), "is B2COPY_HOST right, and does the network let us out?")
        return
    took = time.time() - began
    yield Finding("b2copy", "ok", f"{settings.host} answers (HTTP {answer.status}) in {took * 1000:.0f} ms")
    if answer.server_time is None:
        yield Finding("clock", "warn", "B2COPY's answer has no Date: our clock cannot be compared")
        return
    ahead = answer.server_time - (began + took / 2)
    if abs(ahead) <= _SKEW:
        yield Finding("clock", "ok", "equal to B2COPY's within seconds")
    else:
        way = "behind" if ahead > 0 else "ahead of"
        said = f"our clock is {abs(ahead):.0f} s {way} B2COPY's"
        yield Finding("clock", "warn", said, "logins are dated by theirs, but mend NTP here")


def session(settings: "Settings", login: bool) -> Iterator[Finding]:
    """A session that is there is only looked at; without one we renew like any worker, so that the reason is told."""
    from worker.errors import B2CopyError, CredentialsRejected, SettingsError, StoreUnavailable
    from worker.report.session import OUTCOMES, quiet_session

    try:
        shared = quiet_session(settings)
        there = shared.state()
        left = there.expires_in or 0.0
        if there.readable and left > 0 and not login:
            yield Finding("session", "ok", f"generation {there.generation} is shared, good for {left:.0f} s")
            return
        renewal = shared.renew("doctor", force=login, wait=_PATIENCE)
        if renewal.outcome == "cooldown" and (cooldown := shared.state().cooldown):
            if cooldown.kind == "terminal":
                raise CredentialsRejected("the login", None, cooldown.reason)
            said = f"nobody asks for {cooldown.left:.0f} s, after: {cooldown.reason}"
            yield Finding("session", FAIL, said, "operations wait meanwhile, and none fails")
        else:
            was = "" if login else "there was none: "
            verdict: Literal["ok", "FAIL"] = FAIL if renewal.outcome == "busy" else "ok"
            yield Finding("session", verdict, f"{was}generation {renewal.generation}, {OUTCOMES[renewal.outcome]}")
    except SettingsError as error:
        yield Finding("session", "skip", f"not without its keys: {str(error).splitlines()[0]}")
    except CredentialsRejected as error:
        yield from _refused(error, settings)
    except StoreUnavailable:
        yield Finding("session", FAIL, "cannot be had without Redis")
    except B2CopyError as error:
        yield Finding("session", FAIL, str(error), "operations wait meanwhile, and none fails")


def _refused(error: Any, settings: "Settings") -> Iterator[Finding]:
    """B2COPY's words are all there is to tell what it dislikes; an address in them is the one it sees."""
    yield Finding(
        "session",
        FAIL,
        f"the login is refused: {error.server_message or error}",
        "compare admin id, key id and public key with what B2COPY support registered; operations wait, and none fails",
    )
    seen = {
        found
        for found in re.findall(r"[0-9a-fA-F:.]{3,45}", error.server_message or "")
        if _is_address(found.rstrip(".,:"))
    }
    if others := sorted({found.rstrip(".,:") for found in seen} - {settings.device_ip}):
        yield Finding(
            "device_ip",
            FAIL,
            f"we say {settings.device_ip}, B2COPY says {', '.join(others)}",
            "set B2COPY_DEVICE_IP to what it sees, and have that registered",
        )


def _concerns(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What in Redis' configuration may lose the session or messages, and the remedy."""
    if (policy := told.get("maxmemory_policy", "noeviction")) != "noeviction":
        yield f"maxmemory-policy is {policy}: sessions and messages may be evicted", "set noeviction"
    if not told.get("aof_enabled", 1):
        yield "appendonly is off: messages that no worker has recorded die with Redis", "set appendonly yes"


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def _without_password(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//***@", url)


def _is_local(host: str) -> bool:
    return host.startswith("http://")  # which settings accept to loopback alone


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
