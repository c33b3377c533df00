"""Parameters of the pages' addresses: each one a known word, a bounded number or a bounded text."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from worker.ledger.operation_lists import OPEN, Filter
from worker.operation import FailureReason, State, WaitReason
from worker.queues import LANES
from worker.report.sentences import Kinds
from worker.storable import is_storable

FIELDS = ("state", "lane", "kind", "reason", "account", "batch", "since", "until", "older", "newer", "age", "sort")
"""The parameters of the list of operations."""

TEXT_LIMIT = 300
ID_LIMIT = 2**62
OPEN_WORD = "open"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class BadParameter(Exception):
    """A parameter of the address cannot be used. The text names the parameter and the remedy."""


@dataclass(frozen=True)
class ListQuery:
    """The parameters of the list of operations, read and as they were written."""

    filter: Filter
    after: int | None
    written: dict[str, str]

    def address(self, path: str = "/operations", **changes: object) -> str:
        """Return the address of a page with the same parameters and these changes. None removes one."""
        return address(path, **{**self.written, **changes})


def address(path: str, **parameters: object) -> str:
    """Return a path with parameters, those that are not None."""
    given = {name: str(value) for name, value in parameters.items() if value is not None and value != ""}
    return f"{path}?{urlencode(given, errors='replace')}" if given else path


def list_query(given: Mapping[str, str], kinds: Kinds) -> ListQuery:
    """Read the parameters of the list of operations. Raises `BadParameter`."""
    written = {name: value for name in FIELDS if (value := given.get(name, "").strip())}
    state = word(written, "state", [*State, OPEN_WORD])
    age_ms = milliseconds(written, "age")
    states = OPEN if state == OPEN_WORD or (age_ms is not None and not state) else (State(state),) if state else ()
    wanted = Filter(
        states=states,
        lane=word(written, "lane", LANES),
        kind=word(written, "kind", [*kinds, "message"]),
        reason=word(written, "reason", known_reasons(kinds)),
        account=text(written, "account"),
        batch=text(written, "batch"),
        since_at=instant(written, "since"),
        until_at=instant(written, "until"),
        older_ms=milliseconds(written, "older"),
        newer_ms=milliseconds(written, "newer"),
        age_ms=age_ms,
        oldest_first=word(written, "sort", ["oldest", "newest"]) == "oldest",
    )
    return ListQuery(wanted, number(given, "after"), written)


def known_reasons(kinds: Kinds) -> list[str]:
    """Return every reason to wait or to have failed."""
    of_kinds = [reason for kind in kinds.values() for reason in kind.failure_reasons]
    return list(dict.fromkeys(str(reason) for reason in (*WaitReason, *FailureReason, *of_kinds)))


def word(given: Mapping[str, str], name: str, known: Iterable[str]) -> str | None:
    """Return a parameter that must be one of the known words; None if it is absent."""
    value = given.get(name, "").strip()
    words = [str(one) for one in known]
    if not value:
        return None
    if value not in words:
        raise BadParameter(f"{name} must be one of {', '.join(words)}")
    return value


def text(given: Mapping[str, str], name: str, limit: int = TEXT_LIMIT) -> str | None:
    """Return a text of at most `limit` characters; None if it is absent."""
    value = given.get(name, "").strip()
    if len(value) > limit:
        raise BadParameter(f"{name} may have {limit} characters")
    if not is_storable(value):
        raise BadParameter(f"{name} holds a character that no text of the ledger holds")
    return value or None


def number(given: Mapping[str, str], name: str) -> int | None:
    """Return a whole number that an id may have; None if it is absent."""
    value = given.get(name, "").strip()
    if not value:
        return None
    if not re.fullmatch(r"[0-9]{1,19}", value) or int(value) > ID_LIMIT:
        raise BadParameter(f"{name} must be a whole number")
    return int(value)


def milliseconds(given: Mapping[str, str], name: str) -> int | None:
    """Return a duration such as 90s, 5m, 2h or 3d in ms; None if it is absent."""
    value = given.get(name, "").strip()
    if not value:
        return None
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", value)
    if not found:
        raise BadParameter(f"{name} must be a duration: 90s, 5m, 2h, 3d")
    return int(found[1]) * _UNITS[found[2]] * 1000


def instant(given: Mapping[str, str], name: str) -> int | None:
    """Return a time such as 2026-11-26T14:30 or 2026-11-26, in UTC, in ms since the epoch; None if it is absent."""
    value = given.get(name, "").strip()
    if not value:
        return None
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?)?", value, re.ASCII):
        raise BadParameter(f"{name} must be a time in UTC: 2026-11-26T14:30")
    try:
        return int(datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise BadParameter(f"{name} must be a day and a time that exist: 2026-11-26T14:30") from None
