"""Every setting, typed, read once at start.

All are environment variables with the prefix `B2COPY_`. A missing, misspelt or unusable one raises `SettingsError`,
whose text names the variable and the remedy; processes print it and exit with 2.

Four sorts of processes need four sets. `LedgerSettings` (commands that need the ledger alone, such as migrate),
`CrmSettings` (a CRM host that enqueues: it holds no private key) and `Settings` (a worker) each add to the one before.
`ConsoleSettings` adds the console's to `CrmSettings`.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker import secret_file
from worker.certificates import checked_certificates
from worker.database_url import checked_database_url, with_certificates
from worker.errors import SettingsError
from worker.plaintext import leaves_this_machine, plaintext_problem
from worker.redis_url import checked_redis_url
from worker.refused_addresses import is_refused_address

PREFIX = "B2COPY_"
LONGEST_FOR_A_CALL_S = 5.0
"""Seconds. A rate limit must let a call pass within this time, because a later call of an attempt waits no longer."""

_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
LoginName = Literal["service_admin", "back_office"]
LOGIN_FIELDS: dict[str, tuple[str, ...]] = {
    "service_admin": ("admin_id",),
    "back_office": ("back_office_email", "back_office_password_file"),
}
"""The fields that each login needs. A login is set if they are; `worker.instances.SESSIONS` makes its session."""

PLAINTEXT_SETTING = {
    "database_url": "database_plaintext",
    "redis_url": "redis_plaintext",
    "webhook_url": "webhook_plaintext",
    "notify_broker_url": "webhook_plaintext",
}
"""The field that allows a URL to be plain text to another host. It stands above the URL's own field."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 36_500 * 86_400  # the ledger's instants, in ms, have room for more, but not for any number
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+(%[a-z0-9._-]+)?")  # as `urlsplit` gives it, without brackets


def _seconds(value: Any) -> Any:
    """Read `90`, `90s`, `5m`, `72h` or `400d` as seconds."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", value, re.ASCII)
    if found is None:
        raise ValueError("must be a duration such as 90s, 5m, 72h or 400d")
    seconds = float(found[1]) * _UNITS[found[2] or "s"]
    if seconds > _LONGEST_S:
        raise ValueError("must be at most 36500d")
    return seconds


def _at_least(least: str, usual: str) -> AfterValidator:
    """Refuse a shorter duration: most likely the unit of `usual` was left out."""

    def check(seconds: float) -> float:
        if seconds < _seconds(least):
            raise ValueError(f"must be at least {least}: a number without a unit means seconds, so write {usual}")
        return seconds

    return AfterValidator(check)


def _one_line_of_text(value: str) -> str:
    if not value or not value.isprintable() or value != value.strip():
        raise ValueError("must be one line of printable characters, without blanks around it")
    return value


def _not_empty(value: Any) -> Any:
    if value == "":
        raise ValueError("must not be empty: name a file, or remove the variable")
    return value


def _check_host(name: str | None) -> None:
    if not _HOST.fullmatch(name or ""):
        raise ValueError("must name a host in ASCII letters, digits, dots and hyphens (xn--... for other letters)")


def _comma_list(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _base_url(value: str) -> str:
    """Accept https to anywhere, and http to a loopback address only."""
    parts = urlsplit(value.strip())
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("must be a base URL such as https://b2copy.example.com")
    if "@" in parts.netloc or parts.query or parts.fragment or parts.path not in {"", "/"}:
        raise ValueError("must be scheme and host alone: no user, path, query or fragment")
    host = parts.hostname.removesuffix(".")
    _check_host(host)
    if parts.port == 0:
        raise ValueError("has an unusable port")
    if problem := plaintext_problem(f"{parts.scheme}://{parts.netloc}"):
        raise ValueError(problem)
    return _in_one_spelling(parts.scheme, host, parts.port)


def _in_one_spelling(scheme: str, host: str, port: int | None) -> str:
    """Return scheme, host and port as browsers write an origin: without the port that the scheme implies.

    The host comes from `urlsplit`, which writes it in lower case.
    """
    if ":" in host:
        host = f"[{ipaddress.ip_address(host)}]"
    is_usual = port in (None, {"https": 443, "http": 80}[scheme])
    return f"{scheme}://{host}" if is_usual else f"{scheme}://{host}:{port}"


def _webhook_url(value: str) -> str:
    """Accept an absolute http or https URL without user and fragment."""
    parts = urlsplit(value.strip())
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.port == 0:
        raise ValueError("must be a URL such as https://crm.example.com/webhooks/b2copy")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("must hold no user, password or fragment: notices are signed")
    _check_host(parts.hostname)
    if is_refused_address(parts.hostname):
        raise ValueError("must not be a link-local address or a cloud's metadata service: no CRM is there")
    if not re.fullmatch(r"[!-~]+", value.strip()):
        raise ValueError("must hold printable ASCII characters without spaces alone")
    return value.strip()


def _traces_url(value: str) -> str:
    """Accept an absolute http or https URL with a path, and without a user."""
    parts = urlsplit(value.strip())
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.port == 0 or parts.path in {"", "/"}:
        raise ValueError("must be a URL with its path, such as https://collector.example.com:4318/v1/traces")
    _check_host(parts.hostname)
    if "@" in parts.netloc:
        raise ValueError("must hold no user or password: OTEL_EXPORTER_OTLP_HEADERS may hold a header that logs in")
    return value.strip()


def _ip_address(value: str) -> str:
    try:
        address = ipaddress.ip_address(value.strip())
        address = getattr(address, "ipv4_mapped", None) or address
    except ValueError:
        address = None
    if address is None or address.is_unspecified or address.is_multicast:
        raise ValueError("must be the IP address B2COPY sees our requests come from")
    return str(address)


def _password_file(path: Path) -> Path:
    """Accept a file that holds a password in its first line, and that no other user may read."""
    if problem := _password_problem(path):
        raise ValueError(f"is not usable: {path} {problem}")
    return path


def _password_problem(path: Path) -> str:
    """Return why a password file is unusable; empty if it is usable. Raises no error: its frame holds the password."""
    try:
        password = _first_line(secret_file.read("", path))
    except SettingsError as error:
        return str(error).removeprefix(f": {path} ")
    if not password:
        return "has no password in its first line"
    return secret_file.problem_of_line(password)


def _first_line(content: bytes) -> str:
    return content.partition(b"\n")[0].decode(errors="replace").strip()


def _with_password(url: str, info: ValidationInfo) -> str:
    """Put the password of the field `<name>_password_file` into the URL of the field `<name>_url`."""
    password_field = f"{str(info.field_name).removesuffix('_url')}_password_file"
    path = info.data.get(password_field)
    if path is None:
        return url
    scheme, _, rest = url.partition("://")
    login, at, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    user, _, password = login.partition(":")
    if password:
        raise ValueError(f"must not hold a password while {variable(password_field)} names a file with one")
    if not user and not scheme.startswith("redis"):
        raise ValueError(f"must name the user whose password is in {variable(password_field)}: postgresql://user@host")
    password = quote(_first_line(secret_file.read(variable(password_field), path)), safe="")
    return f"{scheme}://{user}:{password}@{rest.removeprefix(login + at)}"


def _with_certificates(url: str, info: ValidationInfo) -> str:
    """Let the ledger's URL say how TLS is verified: to another host always, unless plain text is allowed."""
    must_verify = leaves_this_machine(url) and info.data.get("database_plaintext") != "allowed"
    return with_certificates(url, info.data.get("database_ca_file"), must_verify)


def _encrypted(url: str, info: ValidationInfo) -> str:
    """Refuse a URL whose traffic others could read on the way, unless its setting says that this is allowed."""
    setting = PLAINTEXT_SETTING[str(info.field_name)]
    if (problem := plaintext_problem(url)) and info.data.get(setting) != "allowed":
        raise ValueError(f"{problem}. Where the network between is encrypted, set {variable(setting)}=allowed")
    return url


def _rate(value: str) -> str:
    if value.strip() == "0":
        return "0"
    found = re.fullmatch(r"\s*([1-9][0-9]*)\s*/\s*(second|minute|hour)\s*", value)
    if found is None:
        raise ValueError('must look like "10/second" (second, minute or hour), or 0 for no limit')
    if (one_call_s := _SECONDS[found[2]] / int(found[1])) > LONGEST_FOR_A_CALL_S:
        raise ValueError(
            f"lets one call pass in {one_call_s:.0f} s: what makes several calls would never get a permit for each;"
            f" {60 / LONGEST_FOR_A_CALL_S:.0f}/minute is the least"
        )
    return re.sub(r"\s+", "", value)


def _origin(value: str | None) -> str | None:
    """Check a scheme and a host, as a browser writes an origin: https://ops.example.com."""
    if value is None:
        return None
    if not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?", value, re.ASCII):
        raise ValueError("must be scheme and host, without a path or a slash at the end: https://ops.example.com")
    parts = urlsplit(value)
    return _in_one_spelling(parts.scheme, parts.hostname or "", parts.port)


def _networks(value: list[str]) -> list[str]:
    for text in value:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            raise ValueError(f"must list addresses or networks such as 10.0.0.0/8, and {text!r} is none") from None
    return value


def _call_paths(value: list[str]) -> list[str]:
    for pattern in value:
        if not re.fullmatch(r"/api/admin/[A-Za-z0-9_/*-]+", pattern):
            raise ValueError(f"must list patterns such as /api/admin/clients/*, and {pattern!r} is none")
    return value


def _queue_of_the_crm(value: str) -> str:
    """Refuse the names of our own queues and keys: our workers would take the notices for messages to us."""
    if value.startswith(("b2copy.", "b2copy:")):
        raise ValueError(f"must be a queue of the CRM's own, and {value!r} is one of ours: celery, or crm.notices")
    return value


def _listen(value: str) -> str:
    """Accept `host:port`, and a port alone, which means the loopback address."""
    host, _, port = value.strip().rpartition(":")
    if host:
        _check_host(host.lower().removeprefix("[").removesuffix("]"))
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("must be host:port, for instance 127.0.0.1:9464")
    return f"{host or '127.0.0.1'}:{port}"


ReadName = Literal["accounts", "account_detail", "account_statistics", "leaderboard", "seamless_url"]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
OneLine = Annotated[str, AfterValidator(_one_line_of_text)]
File = Annotated[Path, BeforeValidator(_not_empty)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
TracesUrl = Annotated[str, AfterValidator(_traces_url)]
WebhookUrl = Annotated[str, AfterValidator(_webhook_url), AfterValidator(_encrypted)]
IpAddress = Annotated[str, AfterValidator(_ip_address)]
PasswordFile = Annotated[Path, AfterValidator(_password_file)]
CertificatesFile = Annotated[Path, AfterValidator(checked_certificates)]
DatabaseUrl = Annotated[
    str,
    AfterValidator(checked_database_url),
    AfterValidator(_with_password),
    AfterValidator(_with_certificates),
    AfterValidator(_encrypted),
]
RedisUrl = Annotated[str, AfterValidator(checked_redis_url), AfterValidator(_with_password), AfterValidator(_encrypted)]
Rate = Annotated[str, AfterValidator(_rate)]
Listen = Annotated[str, AfterValidator(_listen)]


class LedgerSettings(BaseSettings):
    """What commands need that use the ledger alone: `migrate`, `purge`, `metrics` and most others."""

    # Built at first use: a CRM's process never needs what a worker's settings are checked with.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", populate_by_name=True, defer_build=True
    )

    # Above its URL, because the URL is checked with them when it is read.
    database_password_file: PasswordFile | None = Field(
        None, description="A file with the password of the database's user, where the URL holds none."
    )
    database_ca_file: CertificatesFile | None = Field(
        None, description="CA certificates for PostgreSQL, if not those that this machine trusts."
    )
    database_plaintext: Literal["refused", "allowed"] = Field(
        "refused",
        description="allowed: obey the URL's sslmode, even if it does not verify a server on another host. Others can"
        " then read payloads and passwords on the way.",
    )
    database_url: DatabaseUrl = Field(
        validation_alias=AliasChoices("B2COPY_DATABASE_URL", "DATABASE_URL"),
        repr=False,  # it may hold a password
        description="The ledger: sqlite:////absolute/path, or postgresql://user@host/name. To another host by verified"
        " TLS (sslmode=verify-full is added).",
    )
    retention: Annotated[Seconds, _at_least("1d", usual="400d")] = Field(
        400 * 86400.0, description="How long a final operation is kept before purge takes it, at least 1d."
    )
    four_eyes: Literal["off", "money", "all"] = Field(
        "off",
        description="Which decisions (replay, correct, resolve, cancel, stop asking, cancelling an import) need a"
        " second person: off (none), money (about kinds that move money, unknown kinds and the lane money), or all"
        " (every one of these, and the end of a pause).",
    )

    webhook_plaintext: Literal["refused", "allowed"] = Field(
        "refused", description="Whether notices may go to another host by http:// or redis:// without TLS."
    )
    webhook_url: WebhookUrl | None = Field(
        None,
        description="Where the CRM is notified of the end of each operation, by signed webhook: https://..., or http://"
        " to a loopback address. The same for all workers.",
    )
    notify_task: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w-]*(\.[\w-]+)*$",
        description="A Celery task of the CRM's own that is called with each notice, instead of or beside the webhook:"
        " crm.tasks.fees_ended. The same for all workers.",
    )

    @property
    def wants_notices(self) -> bool:
        """Whether the CRM gets a notice of the end of each operation."""
        return self.webhook_url is not None or self.notify_task is not None


class CrmSettings(LedgerSettings):
    """What a CRM host needs to enqueue, and beat to tick: database and Redis, no private key."""

    redis_password_file: PasswordFile | None = Field(
        None, description="A file with the password of Redis' user, where the URL holds none."
    )
    redis_plaintext: Literal["refused", "allowed"] = Field(
        "refused",
        description="Whether redis:// without TLS may go to another host: tokens and passwords can be read on the way.",
    )
    redis_url: RedisUrl = Field(
        validation_alias=AliasChoices("B2COPY_REDIS_URL", "REDIS_URL"),
        repr=False,  # it may hold a password
        description="Broker and session, a Redis database of our own: rediss://host:6379/0 (TLS).",
    )
    redis_ca_file: CertificatesFile | None = Field(
        None, description="CA certificates for Redis, if not the usual ones."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="How worker and beat log: text for people, or json, an object a line."
    )
    token_ttl: Annotated[Seconds, Field(ge=1)] = Field(
        600.0, description="An opaque access token's life, at least 1s; a JWT tells its own."
    )
    fees_deadline: Annotated[Seconds, _at_least("1h", usual="72h")] = Field(
        72 * 3600.0,
        description="How long a fee run may take, at least 1h. Fees of a PAMM account stay pending until its next"
        " rollover, when the results of its investors are settled.",
    )
    reconcile_every: Annotated[Seconds, Field(ge=600)] | None = Field(
        None,
        description="How often the accounts at B2COPY are compared with the identity map, at least 10m apart. Unset:"
        " only when somebody runs `b2copy-sync reconcile`.",
    )
    calls_deadline: Annotated[Seconds, _at_least("1h", usual="72h")] = Field(
        72 * 3600.0,
        description="How long any other call may wait, for B2COPY or for what it comes after, at least 1h.",
    )
    traces_url: TracesUrl | None = Field(
        None,
        description="Where traces go, by OTLP over HTTP, with the path. Needs the extra `tracing`.",
    )
    call_paths: Annotated[
        list[str], NoDecode, BeforeValidator(_comma_list), AfterValidator(_call_paths), Field(min_length=1)
    ] = Field(
        ["/api/admin/*"],
        description="Which Admin v2 paths `b2copy.call` may go to: patterns with *, separated by commas.",
    )


class Settings(CrmSettings):
    """What a worker needs."""

    host: BaseUrl = Field(description="B2COPY's base URL: https://..., or http:// to a loopback address.")
    admin_id: OneLine = Field(min_length=1, description="The service admin's id, from B2COPY's Admin panel.")
    admin_id_type: Literal["integer", "string"] = Field(
        "integer", description="How admin_id is written into the assertion."
    )
    key_id: Annotated[list[OneLine], NoDecode, BeforeValidator(_comma_list), Field(min_length=1)] = Field(
        description="Identifiers of the private keys as registered at B2COPY, newest first."
    )
    private_key_file: Annotated[list[Path], NoDecode, BeforeValidator(_comma_list), Field(min_length=1)] = Field(
        description="PEM files of the private keys, in the order of B2COPY_KEY_ID; an absent one is skipped."
    )
    private_key_passphrase_file: File | None = Field(
        None, description="A file with the passphrase, if the private keys are encrypted."
    )
    device_ip: IpAddress = Field(description="The egress address B2COPY sees our requests come from.")
    issuer: OneLine = Field("b2copy-sync", min_length=1, description="The assertion's `iss`.")
    assertion_ttl: Annotated[Seconds, Field(ge=60, le=1800)] = Field(
        300.0, description="The assertion's life: exp - iat, at most 1800 s."
    )
    clock_tolerance: Seconds = Field(
        900.0,
        description="B2COPY's Date header corrects the assertion's time up to this difference; more is not believed,"
        " unless Redis' clock confirms it.",
    )
    storage_key_file: File = Field(
        description="Keys that encrypt the tokens in Redis: urlsafe base64 of 32 bytes, one per line, newest first."
    )
    ca_file: CertificatesFile | None = Field(
        None, description="CA certificates for B2COPY's host, if not the usual ones."
    )
    call_deadline: Annotated[Seconds, Field(ge=0.5, le=60)] = Field(
        12.0, description="A whole call to B2COPY, connection to last byte."
    )
    late_effect: Annotated[Seconds, Field(ge=0.5, le=3600)] = Field(
        60.0,
        description="For how long after a lost answer to an opening its account may still appear at B2COPY: not"
        " shorter than the longest B2COPY_CALL_DEADLINE of any worker. The opening is sent again only after B2COPY was"
        " asked for the account twice, with this time between, and did not have it.",
    )
    rate_limit: Rate = Field(
        "10/second",
        description="Calls to B2COPY of operations, of CRM reads and of the reconciliation, in the whole fleet:"
        " 12/minute or more; 0 = no limit. Logins do not count, nor do the calls of the commands doctor, verify,"
        " accounts list and seamless-url.",
    )
    concurrency: int = Field(
        10,
        ge=1,
        le=500,
        description="Calls in flight at once in each lane of a worker process. CRM reads may be as many in addition.",
    )
    max_attempts: int = Field(
        12,
        ge=1,
        description="An operation fails after so many answers about it that do not decide it. Outages (any 5xx but"
        " 501), 429 and lost connections do not count, and `pending` starts the count again. A 403, an unclear answer"
        " or a proxy's refusal counts only if B2COPY served others of the same kind meanwhile.",
    )
    fees_poll_first: Seconds = Field(2.0, description="The first wait before a pending fee run is asked again.")
    fees_poll_max: Seconds = Field(
        60.0,
        description="The longest wait between two polls of a pending fee run, unless so many are pending that their"
        " polls would take more than half of the capacity.",
    )
    fees_restart: Literal["same", "suffixed"] = Field(
        "same", description="The request_id of a replayed fee run that ended in error: the same, or with a suffix."
    )
    webhook_secret_file: File | None = Field(
        None,
        description="Secrets that sign the notices, whsec_ and base64 of 24 to 64 bytes, one per line, newest first.",
    )
    webhook_ca_file: CertificatesFile | None = Field(
        None, description="CA certificates for the CRM's host in B2COPY_WEBHOOK_URL, if not the usual ones."
    )
    notify_queue: Annotated[str, AfterValidator(_queue_of_the_crm)] = Field(
        "celery",
        pattern=r"^[!-~]+$",
        description="The queue that the CRM's workers read B2COPY_NOTIFY_TASK from. Names that begin with b2copy. are"
        " ours.",
    )
    notify_broker_password_file: PasswordFile | None = Field(
        None, description="A file with the password of the CRM's broker, where the URL holds none."
    )
    notify_broker_url: RedisUrl | None = Field(
        None,
        repr=False,  # it may hold a password
        description="The CRM's broker: rediss://host:6379/1. Unset: that of B2COPY_REDIS_URL.",
    )
    seamless_secret_file: File | None = Field(
        None,
        description="A file with the secret that B2COPY's Back Office shows, to register clients and to log them in.",
    )
    duplicate_clients: Literal["unknown", "refused", "returned"] = Field(
        "unknown",
        description="What B2COPY does with a second registration of a client. With unknown, a registration whose answer"
        " was lost ends as `unresolved`.",
    )
    reads: Annotated[list[ReadName], NoDecode, BeforeValidator(_comma_list)] = Field(
        ["accounts", "account_detail", "account_statistics", "leaderboard"],
        description="What CRM hosts may read through a worker. With seamless_url, anybody who may send messages"
        " can log in as any client.",
    )
    back_office_email: OneLine | None = Field(
        None, pattern=r"^[^@\s]+@[^@\s]+$", description="Who signs in to the Back Office, if some routes need that."
    )
    back_office_password_file: File | None = Field(None, description="A file with the password of that e-mail address.")
    accounts_login: LoginName = Field(
        "service_admin", description="Which login lists and creates accounts: B2COPY's documentation leaves it open."
    )
    widgets_login: LoginName = Field("service_admin", description="Which login reads the widgets.")
    metrics_listen: Listen | None = Field(
        None, description="host:port where a worker serves its metrics; a port alone is on 127.0.0.1."
    )
    heartbeat_file: File | None = Field(
        None,
        description="A file that a worker touches every 2 s while it works; `b2copy-sync health --live` reads its age."
        " Each worker needs its own. Not with --pool processes.",
    )

    @property
    def logins(self) -> list[str]:
        """The logins that are set."""
        return [name for name, fields in LOGIN_FIELDS.items() if all(getattr(self, each) for each in fields)]

    @property
    def login_of_group(self) -> dict[str, str]:
        """Which login each group of routes uses (`Route.login`)."""
        return {"accounts": self.accounts_login, "widgets": self.widgets_login}


class ConsoleSettings(CrmSettings):
    """What `b2copy-sync console` needs. It renews the session too, where a worker's settings are set."""

    console_access: Literal["none", "proxy", "password"] = Field(
        "none",
        description="Who may use the console: none (loopback alone, reading), proxy (a proxy names the person), or"
        " password (a file of people).",
    )
    console_read_only: bool = Field(False, description="true: the console only shows pages and refuses every action.")
    console_origin: Annotated[str | None, AfterValidator(_origin)] = Field(
        None, description="The console's address as browsers see it, if a proxy changes it: https://ops.example.com."
    )
    console_trusted_proxies: Annotated[list[str], NoDecode, BeforeValidator(_comma_list), AfterValidator(_networks)] = (
        Field([], description="Addresses or networks of the proxies that may name the person.")
    )
    console_proxy_secret_file: File | None = Field(
        None, description="A file with the secret that the proxy sends as X-Console-Secret."
    )
    console_password_file: File | None = Field(
        None,
        description="The people of the console, written by `b2copy-sync console-user`; mode 0600, or 0440 if mounted.",
    )


CONSOLE_ACCESS_FIELDS = {
    "password": ("console_password_file",),
    "proxy": ("console_trusted_proxies", "console_proxy_secret_file"),
}
"""The settings that only mean something with this B2COPY_CONSOLE_ACCESS."""

AnySettings = TypeVar("AnySettings", bound=LedgerSettings)


def load(kind: type[AnySettings]) -> AnySettings:
    """Read the environment into `kind`. Raises `SettingsError` with every problem found, one a line."""
    problems = list(_misspelt())
    try:
        settings = kind()
    except ValidationError as error:
        problems += [_describe(kind, dict(problem)) for problem in error.errors()]
    else:
        match settings:
            case Settings():
                problems += [*_webhook_problems(settings), *_contradictions(settings)]
            case ConsoleSettings():
                problems += _console_problems(settings)
        if not problems:
            return settings
    raise SettingsError("\n".join(map(_one_line, problems)))


def _one_line(problem: str) -> str:
    """Escape what is not printable: a variable may hold line ends, and programs read one problem a line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in problem)


@cache
def crm_settings() -> CrmSettings:
    """This process's settings for enqueueing, read once."""
    return load(CrmSettings)


@cache
def worker_settings() -> Settings:
    """This process's settings for working, read once."""
    return load(Settings)


def variable(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def _misspelt() -> list[str]:
    known = [variable(field) for field in (*Settings.model_fields, *ConsoleSettings.model_fields)]
    problems = []
    for name in sorted(os.environ):
        # Pydantic reads names in any case. What it does not read and does not look like ours may be the CRM's own.
        if name not in known and (name.startswith(PREFIX) or name.upper() in known):
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "remove it, or see deploy/env.example for what there is"
            problems.append(f"{name} is not a setting: {hint}")
    return problems


def _webhook_problems(settings: Settings) -> Iterator[str]:
    if settings.webhook_url and not settings.webhook_secret_file:
        yield "B2COPY_WEBHOOK_SECRET_FILE is not set: notices to B2COPY_WEBHOOK_URL must be signed"
    if settings.notify_broker_url and not settings.notify_task:
        yield "B2COPY_NOTIFY_TASK is not set: B2COPY_NOTIFY_BROKER_URL is for that task's messages"
    if "notify_queue" in settings.model_fields_set and not settings.notify_task:
        yield "B2COPY_NOTIFY_TASK is not set: B2COPY_NOTIFY_QUEUE is for that task's messages"
    if settings.notify_broker_password_file and not settings.notify_broker_url:
        yield "B2COPY_NOTIFY_BROKER_URL is not set: B2COPY_NOTIFY_BROKER_PASSWORD_FILE is for that broker"


def _console_problems(settings: ConsoleSettings) -> Iterator[str]:
    """Yield the settings that protect the console only with another B2COPY_CONSOLE_ACCESS than the one that is set."""
    for access, fields in CONSOLE_ACCESS_FIELDS.items():
        for field in fields:
            if getattr(settings, field) and settings.console_access != access:
                yield (
                    f"B2COPY_CONSOLE_ACCESS is {settings.console_access}, but {variable(field)} is for {access}:"
                    " without it, nobody is asked who they are"
                )


def _contradictions(settings: Settings) -> list[str]:
    problems = []
    if settings.admin_id_type == "integer" and not re.fullmatch(r"[1-9][0-9]{0,18}", settings.admin_id):
        problems.append("B2COPY_ADMIN_ID must be a whole number (or set B2COPY_ADMIN_ID_TYPE=string)")
    if len(settings.key_id) != len(settings.private_key_file):
        problems.append(
            f"B2COPY_KEY_ID names {len(settings.key_id)} keys and B2COPY_PRIVATE_KEY_FILE"
            f" {len(settings.private_key_file)} files: list one file per key, in the same order"
        )
    if settings.fees_poll_first > settings.fees_poll_max:
        problems.append("B2COPY_FEES_POLL_FIRST is longer than B2COPY_FEES_POLL_MAX, which would come first")
    if settings.late_effect < settings.call_deadline:
        problems.append(
            "B2COPY_LATE_EFFECT is shorter than B2COPY_CALL_DEADLINE: an account could be opened twice, because the"
            " first request may still be under way; make it at least as long as the longest deadline of any worker"
        )
    for login, fields in LOGIN_FIELDS.items():
        if login in settings.logins:
            continue
        if any(getattr(settings, field) for field in fields):
            problems.append(f"{' and '.join(map(variable, fields))} belong together: set all or none")
        elif login in (settings.accounts_login, settings.widgets_login):
            problems.append(
                f"{variable(fields[0])} is not set: B2COPY_ACCOUNTS_LOGIN or B2COPY_WIDGETS_LOGIN is {login}"
            )
    return problems


def _describe(kind: type[LedgerSettings], problem: dict[str, Any]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else ""
    field = name.removeprefix(PREFIX).lower() if name.isupper() else name
    about = kind.model_fields[field].description if field in kind.model_fields else ""
    if problem["type"] == "missing":
        return f"{variable(field)} is not set: {about}"
    text = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "too_short":
        text = "must not be empty"
    elif problem["type"] == "literal_error":
        text = f"must be {problem['ctx']['expected']}".replace("'", "")
    else:
        text = text[0].lower() + text[1:]
    return f"{variable(field)} {text}" if text.startswith("must") else f"{variable(field)} {text}. {about}"
