"""`python -m tests.env_example` writes deploy/env.example from the settings' own descriptions."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from worker.settings import ConsoleSettings, CrmSettings, LedgerSettings, Settings, variable

PATH = Path(__file__).parents[1] / "deploy" / "env.example"

_HEAD = """\
# Settings: environment variables alone, read once at start. A missing, misspelt or unusable one stops the process with
# a line that names it. What is commented out may be left out and shows its default, or an example where it has none.
# Durations may be written 90s, 5m, 72h or 400d; lists are separated by commas. Secrets are files, never values: chmod
# 600, or 640. Where B2COPY_DATABASE_URL or B2COPY_REDIS_URL is not set, DATABASE_URL or REDIS_URL is read.
"""
_GROUPS = {
    LedgerSettings: "For every process, and all that `b2copy-sync migrate` needs",
    CrmSettings: "And for beat and for a CRM host that enqueues: it holds no key",
    Settings: "And for a worker",
    ConsoleSettings: "And for the console",
}
# What stands in the file for settings without a default.
_EXAMPLES = {
    "database_url": "postgresql://b2copy@db.internal/b2copy",
    "webhook_url": "https://crm.example.com/webhooks/b2copy",
    "webhook_secret_file": "/etc/b2copy/webhook.secret",
    "webhook_ca_file": "/etc/b2copy/crm-ca.pem",
    "traces_url": "https://collector.example.com:4318/v1/traces",
    "notify_task": "crm.tasks.fees_ended",
    "notify_broker_url": "rediss://crm@crm-redis.internal:6379/1",
    "notify_broker_password_file": "/etc/b2copy/crm-redis.password",
    "redis_url": "rediss://redis.internal:6379/0",
    "database_password_file": "/etc/b2copy/database.password",
    "redis_password_file": "/etc/b2copy/redis.password",
    "database_ca_file": "/etc/b2copy/database-ca.pem",
    "redis_ca_file": "/etc/b2copy/redis-ca.pem",
    "reconcile_every": "24h",
    "host": "https://b2copy.example.com",
    "admin_id": "42",
    "key_id": "broker-2026-01",
    "private_key_file": "/etc/b2copy/private.pem",
    "private_key_passphrase_file": "/etc/b2copy/passphrase",
    "device_ip": "203.0.113.7",
    "storage_key_file": "/etc/b2copy/storage.key",
    "ca_file": "/etc/b2copy/ca.pem",
    "seamless_secret_file": "/etc/b2copy/seamless-secret",
    "back_office_email": "sync@broker.example",
    "back_office_password_file": "/etc/b2copy/back-office-password",
    "metrics_listen": "127.0.0.1:9464",
    "heartbeat_file": "/run/b2copy/worker.alive",
    "console_origin": "https://ops.example.com",
    "console_trusted_proxies": "10.0.0.5",
    "console_proxy_secret_file": "/etc/b2copy/console-proxy.secret",
    "console_password_file": "/etc/b2copy/console-users",
}
_UNITS = {"d": 86400, "h": 3600, "m": 60}


def text() -> str:
    """Return the whole file."""
    parts = [_HEAD]
    for kind, about in _GROUPS.items():
        parts.append(f"# --- {about}\n")
        for name in kind.__annotations__:
            if name in kind.model_fields:
                parts.append(_entry(kind, name, kind.model_fields[name]))
    return "\n".join(parts)


def _entry(kind: type[LedgerSettings], name: str, field: FieldInfo) -> str:
    value = _EXAMPLES.get(name) or _written(kind, name, field)
    commented = "" if field.is_required() else "#"
    about = str(field.description)
    if allowed := _allowed(get_type_hints(kind, include_extras=True)[name]):
        about += f" Values: {', '.join(allowed)}."
    if field.default is None and "Unset:" not in about:
        about += " Default: none."
    return f"# {about}\n{commented}{variable(name)}={value}\n"


def _allowed(hint: Any) -> tuple[str, ...]:
    """Return the values that a setting may have, or that its list may hold; empty if other values are allowed too."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    inner = get_args(hint)[:1] if get_origin(hint) in (Annotated, list) else ()
    return _allowed(*inner) if inner else ()


def _written(kind: type[LedgerSettings], name: str, field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        raise ValueError(f"{name} has neither a default nor an example")
    if get_type_hints(kind, include_extras=False)[name] is float:
        return _duration(field.default)
    return ",".join(field.default) if isinstance(field.default, list) else str(field.default)


def _duration(seconds: float) -> str:
    for unit, length in _UNITS.items():
        if seconds >= 2 * length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


if __name__ == "__main__":
    PATH.write_text(text())
