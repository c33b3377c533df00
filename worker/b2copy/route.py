"""A route: one method of an API, as its page of documentation describes it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Route(Generic[A]):
    """`read` turns the JSON of a 2xx answer (None if it has no body) and the body that was sent into a value.

    It raises `UnknownOutcome` if the answer cannot be believed. `has_effect` says whether a request may change
    something at the destination: if not, a lost answer leaves nothing unknown.
    """

    name: str
    page_url: str
    method: str
    path: str
    read: Callable[[Any, Mapping[str, Any]], A]
    login: str | None = "service_admin"
    has_effect: bool = True
