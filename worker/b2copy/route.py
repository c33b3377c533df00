"""A route: one method of an API, as its page of documentation describes it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict

A = TypeVar("A")

_PLACE = re.compile(r"\{(\w+)\}")


class Request(BaseModel):
    """The parameters of a request. The aliases of its fields are the names that B2COPY uses."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def fields(self) -> dict[str, Any]:
        """Return the parameters by B2COPY's names, without those that are None."""
        return self.model_dump(by_alias=True, exclude_none=True)


class Message(NamedTuple):
    """A request as it is sent. `body` is written as JSON; None: there is no body."""

    path: str
    query: Mapping[str, str] | None
    body: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Route(Generic[A]):
    """`read` turns the JSON of a 2xx answer (None if it has no body) and the body that was sent into a value.

    It raises `UnknownOutcome` if the answer cannot be believed. `has_effect` says whether a request may change
    something at the destination: if not, a lost answer leaves nothing unknown.

    `login` names a login, or a group of routes whose login is a setting; None: the request carries no token.
    `path` may hold `{names}` of parameters. The others go where `parameters_in` says. `also_as` gives a second name to
    parameters that the documentation spells in two ways: both are sent. `secrets` names the parameters that must not be
    stored or logged, also if the answer repeats them. Nothing of an answer that `is_secret` is quoted anywhere.
    `over_http`: if not, an answer has no status. `own_gate` names the gate of its requests, if its faults say nothing
    about the destination's other routes; None: they pass the destination's.
    """

    name: str
    page_url: str
    method: str
    path: str
    read: Callable[[Any, Mapping[str, Any]], A]
    login: str | None = "service_admin"
    has_effect: bool = True
    parameters_in: Literal["body", "query", "query and body"] = "body"
    also_as: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    is_secret: bool = False
    over_http: bool = True
    own_gate: str | None = None

    @property
    def is_grpc(self) -> bool:
        """Whether it is one of the Admin API, whose errors are gRPC's."""
        return self.path.startswith("/api/admin/")

    def message(self, parameters: Mapping[str, Any]) -> Message:
        """Return the request that carries these parameters."""
        in_path = _PLACE.findall(self.path) if "{" in self.path else ()
        if in_path:
            path = self.path.format_map({name: parameters[name] for name in in_path})
            parameters = {name: value for name, value in parameters.items() if name not in in_path}
        else:
            path = self.path
        for name, other in self.also_as.items():
            if name in parameters:
                parameters = {**parameters, other: parameters[name]}
        query = {name: _text_of(value) for name, value in parameters.items()} if "query" in self.parameters_in else None
        body = parameters if "body" in self.parameters_in and (self.method != "GET" or parameters) else None
        return Message(path, query or None, body)


def _text_of(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
