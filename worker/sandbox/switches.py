"""Everything that B2COPY's documentation leaves open, as switches; and the faults of servers and networks.

They can be set at the start and while the sandbox runs. An unknown name or an impossible value is refused.
"""

import difflib
import json
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

TOKEN_ROUTES = frozenset({"authexternalcrm", "refreshtoken", "signin"})


class Strict(BaseModel):
    # Accept a number for a string, because `--set admin_id=7` is parsed as JSON.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class FeeRule(Strict):
    """How a fee run goes: first pending (for polls, seconds or until finished, whichever ends last), then final."""

    known: bool = Field(True, description="False: B2COPY does not know the login.")
    permitted: bool = Field(True, description="False: 403 for this login.")
    pending_polls: int = Field(0, ge=0, description="How many answers say PENDING before the final one.")
    pending_seconds: float = Field(0.0, ge=0, description="How long the run stays PENDING.")
    until_finished: bool = Field(False, description="PENDING until the control route finishes the run.")
    ends: Literal["SUCCESS", "ERROR"] = "SUCCESS"
    ends_after_restart: Literal["SUCCESS", "ERROR"] = "SUCCESS"
    message: str = Field("the master account cannot be credited", description="The message of an ERROR.")
    pending_status: int | str | None = Field(None, description="Sent instead of PENDING: an unknown status, or 0.")


class Fault(Strict):
    """One way for calls to go wrong. `effect` says whether the call is carried out in spite of it.

    status: an HTTP error · drop, reset: the connection ends without an answer · silence: no answer · trickle: byte by
    byte · cut: a part of the answer · html, empty: a 200 with that body · no_content: a 204 · huge: 64 MiB · lacks: a
    field is missing · interim: 102 and 103 before the answer.
    """

    what: Literal[
        "status",
        "drop",
        "reset",
        "silence",
        "trickle",
        "cut",
        "html",
        "empty",
        "no_content",
        "huge",
        "lacks",
        "interim",
    ]
    route: str = Field("*", description="A route's name, `token`, `api` (all but `token`), or `*`.")
    next: int | None = Field(None, ge=1, description="Only the next N calls; unset: until removed.")
    share: float = Field(1.0, gt=0, le=1, description="The share of calls with the fault, at random.")
    match: str = Field("", description="Only calls whose body contains this text.")
    effect: Literal["none", "done", "late"] = Field("none", description="late: carried out `seconds` later.")
    seconds: float = Field(0.0, ge=0, description="silence: how long (0: without end); trickle: between two bytes.")
    status: int = Field(503, ge=300, le=599)
    retry_after: str | None = Field(None, description="The Retry-After header: seconds, or an HTTP date.")
    location: str | None = Field(None, description="The Location header of a redirect.")
    message: str = "a fault of the sandbox"
    field: str = Field("refreshToken", description="lacks: the missing field.")
    at: int | None = Field(
        None, ge=0, description="cut: after N bytes, head included; unset: in the middle of the body."
    )

    def concerns(self, route: str, body: bytes) -> bool:
        group = "token" if route in TOKEN_ROUTES else "api"
        return self.route in {route, group, "*"} and (not self.match or self.match.encode() in body)


class Switches(Strict):
    """How the sandbox behaves now."""

    # who may log in, and who has access
    admin_id: str = Field("42", description="The service admin's id.")
    admin_id_type: Literal["integer", "string", "either"] = "integer"
    device_ip: Literal["any", "peer", "listed"] = Field("any", description="peer: must be the caller's own address.")
    device_ips: list[str] = Field(default_factory=list, description="The allow-list, for device_ip=listed.")
    clock_skew: float = Field(60.0, ge=0, description="Tolerance for iat and exp, s.")
    clock_offset: float = Field(0.0, description="The server's clock minus ours, s.")
    assertion_max_life: float = Field(1800.0, description="Longest exp - iat, s.")
    assertion_single_use: bool = False
    extra_claims: Literal["refused", "accepted"] = "refused"
    access: bool = Field(True, description="False: 403 to every call with an access token.")
    fee_permission: bool = Field(True, description="False: 403 to every fee call.")

    # tokens
    access_format: Literal["opaque", "jwt"] = "opaque"
    access_lifetime: float = Field(900.0, gt=0, description="Seconds.")
    refresh_lifetime: float = Field(86400.0, gt=0, description="Seconds.")
    refresh_rotates: bool = True
    refresh_reuse: Literal["refused", "revokes"] = Field("revokes", description="revokes: the whole session ends.")
    refresh_ends_access: bool = Field(False, description="A refresh ends the access token it replaces.")
    one_session: bool = Field(False, description="A login ends the admin's earlier sessions.")
    pair_names: Literal["camelCase", "snake_case"] = "camelCase"

    # fees
    fees: FeeRule = Field(default_factory=FeeRule, description="For logins without a rule of their own.")
    logins: dict[str, FeeRule] = Field(default_factory=dict, description="Rules by account_login.")
    unknown_login: Literal["404", "status_error"] = "404"
    error_restarts: bool = Field(False, description="The same request_id after ERROR starts a new run.")
    error_message_in: Literal["error", "message", "details"] = "error"
    status_as: Literal["number", "name"] = "number"

    # generation 1, the Back Office
    email: str = "office@broker.example"
    password: str = "sandbox"  # noqa: S105
    two_factor: bool = Field(False, description="Sign-in asks for a second factor, and answers no token.")
    locked: bool = Field(False, description="403 to every sign-in.")
    sign_in_lifetime: float = Field(900.0, gt=0, description="Of a sign-in's access token, s.")
    secret_key: str | None = Field("sandbox-secret", description="null: the Back Office holds none.")
    list_parameters: Literal["query", "body", "either"] = Field("either", description="Where the list reads them.")
    list_order: Literal["stable", "shifting"] = Field("stable", description="shifting: each page turns the order.")
    list_pages: bool = Field(True, description="False: limit and offset are ignored.")
    list_as: Literal["bare", "enveloped"] = Field("bare", description="The list itself, or in an envelope.")
    list_filters: Literal["obeyed", "ignored"] = Field(
        "obeyed", description="ignored: of the parameters that select accounts, the list obeys account_number alone."
    )
    list_limit_max: int = Field(100, ge=1, description="A page holds no more accounts than this.")
    generation1_login: Literal["external_crm", "back_office", "either"] = "either"
    generation1_refusals: Literal["status", "envelope"] = Field(
        "status", description="envelope: HTTP 200, and the status stands in the envelope."
    )
    duplicate_accounts: Literal["refused", "returned", "created"] = Field(
        "refused", description="A second account for the same MT login."
    )
    duplicate_clients: Literal["refused", "returned", "created"] = Field(
        "refused", description="A second registration of the same MT login."
    )
    registration_answer: Literal["client", "wizard_with_client", "wizard"] = Field(
        "client", description="What the end of a wizard answers; wizard: without the client."
    )
    clients: Literal["any", "registered"] = Field("any", description="Which clients may have accounts created.")

    # answers, and faults
    error_shape: Literal["grpc", "message", "error", "errors", "text", "html", "empty"] = Field(
        "grpc", description="Of refusals and of the fault `status`. message: as a gateway without a route sends it."
    )
    rate_limit: float = Field(0.0, ge=0, description="Calls per second, 0: any number; above it 429.")
    rate_limit_retry_after: str | None = Field("1", description="The Retry-After header of the 429; null: none.")
    latency: dict[str, float] = Field(
        default_factory=dict, description="Seconds by route name, `token`, `api` or `*`; the most specific counts."
    )
    idle_timeout: float | None = Field(None, gt=0, description="Idle connections are closed after this, s.")
    drop_reused: bool = Field(False, description="The connection closes on its second request.")
    faults: list[Fault] = Field(default_factory=list)
    call_log: bool = Field(False, description="List every call that is no token call, for `GET calls`.")

    def changed(self, changes: dict[str, Any]) -> Self:
        """Return a copy with `changes`. Raises ValueError with a line for each switch that cannot be set."""
        try:
            return type(self).model_validate(self.model_dump(mode="json") | changes)
        except ValidationError as error:
            raise ValueError("\n".join(_problem(problem) for problem in error.errors())) from None

    def latency_of(self, route: str) -> float:
        group = "token" if route in TOKEN_ROUTES else "api"
        for name in (route, group, "*"):
            if name in self.latency:
                return self.latency[name]
        return 0.0


def describe() -> str:
    """Return a line for each switch, with its default."""
    lines = []
    for name, value in Switches().model_dump(mode="json").items():
        field = Switches.model_fields[name]
        choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
        about = [" | ".join(choices), field.description or ""]
        lines.append("  ".join([f"{name}={json.dumps(value)}", *filter(None, about)]))
    return "\n".join(lines)


def _problem(problem: ErrorDetails) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{name}: {problem['msg']}"
    near = difflib.get_close_matches(name, Switches.model_fields, n=1)
    return f"{name} is not a switch" + (f": did you mean {near[0]}?" if near else "")
