"""What an attempt learned from B2COPY, when it learned something."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Outcome:
    """B2COPY's answer about an operation, as its kind understands it.

    `said` is `done`, `pending` (ask again later) or `fee_error` (final, a person decides). `result` is kept with the
    operation, `words` are B2COPY's own, `request_id` is what was sent as such.
    """

    said: Literal["done", "pending", "fee_error"]
    result: dict[str, Any] | None = None
    words: str = ""
    request_id: str | None = None
