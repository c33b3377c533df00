"""How templates write values: text from outside is one line without control characters, and secrets are blanked."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from worker.console.url_parameters import address
from worker.ledger.schema import HELD_MS
from worker.operation import VERSION, AuditEntry, Operation
from worker.report.format_values import clock, iso, named_values, span
from worker.watch.printable import many_lines, one_line
from worker.watch.redact import redacted, redacted_value

HERE = Path(__file__).parent
TEXT_LIMIT = 2_000  # characters of one text on a page
BLOCK_LIMIT = 20_000  # characters of a payload or result
STATE_SIGNS = {"queued": "○", "running": "▶", "waiting": "◔", "succeeded": "✓", "failed": "✕", "cancelled": "\u2013"}


@cache
def environment() -> Environment:
    """Return the templates. A name that does not exist is an error."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(when=when, span=span, block=block, thousands=thousands, key_url=key_url, ms=_milliseconds)
    made.filters.update(commands=commands, decision=decision, named_values=named_values)
    made.globals.update(address=address, account_of=account_of, version=VERSION, signs=STATE_SIGNS)
    made.globals.update(HELD_MS=HELD_MS)
    return made


def printable(value: Any) -> Any:
    """Return a value as a page may show it. Applied to every value that a template writes."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return "" if value is None else value
    text = str(value)
    if len(text) > TEXT_LIMIT:
        text = f"{text[:TEXT_LIMIT]} … ({len(value)} characters)"
    return one_line(redacted(text))


def when(ms: int | None) -> Markup:
    """Return an instant as `<time>`, in UTC as the evidence has it."""
    if ms is None:
        return Markup("")
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(iso(ms), clock(ms), clock(ms))


def block(value: Any) -> Markup:
    """Return JSON on several lines."""
    text = json.dumps(redacted_value(value), indent=2, ensure_ascii=False, sort_keys=True)
    if len(text) > BLOCK_LIMIT:
        text = f"{text[:BLOCK_LIMIT]}\n… ({len(text)} characters; the evidence bundle has all)"
    return Markup("<pre>{}</pre>").format(escape(many_lines(text)))


def commands(text: str) -> Markup:
    """Return a sentence with what stands in backticks, which a person pastes into a shell, as code."""
    parts = enumerate(printable(text).split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in parts)


def decision(entry: AuditEntry) -> str:
    """Return what was decided, in a person's words: a pause is a flag that is raised and lowered."""
    if entry.subject.startswith("pause:"):
        return {"raise": "pause", "lower": "resume"}.get(entry.action, entry.action)
    return entry.action


def account_of(operation: Operation) -> str:
    """Return the account that an operation is about, if its payload names one."""
    payload = operation.payload
    found = payload.get("account_login") or payload.get("login") or operation.entity
    return "" if found is None else str(found)


def _milliseconds(ms: int) -> str:
    return span(ms / 1000)


def thousands(number: int, capped: bool = False) -> str:
    """Return a count for people: `12,345`, or `10,000+` if counting stopped there."""
    return f"{number:,}{'+' if capped else ''}"


def key_url(operation: Operation | str, path: str = "/operation") -> str:
    """Return the address of an operation's page."""
    return address(path, key=operation if isinstance(operation, str) else operation.key)
