"""Everything B2COPY's documentation leaves open, as switches; and the faults a network and a server are capable of.

Settable at start and while running. An unknown name or an impossible value is refused, never ignored.
"""

import difflib
import json
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

TOKEN_ROUTES = frozenset({"authexternalcrm", "refreshtoken", "signin"})


class Strict(BaseModel):
    # Numbers may stand for text, since `--set admin_id=7` is read as JSON.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class FeeRule(Strict):
    """How a fee run goes. Pending first (for polls, seconds, or until told, whichever lasts longest), then final."""

    known: bool = Field(True, description="False: B2COPY does not know the login.")
    pending_polls: int = Field(0, ge=0, description="How many answers say PENDING before the final one.")
    pending_seconds: float = Field(0.0, ge=0, description="How long the run stays PENDING.")
    until_told: bool = Field(False, description="PENDING until the control route finishes the run.")
    ends: Literal["SUCCESS", "ERROR"] = "SUCCESS"
    ends_after_restart: Literal["SUCCESS", "ERROR"] = "SUCCESS"
    words: str = Field("the master account cannot be credited", description="What an ERROR says.")
    pending_status: int | str | None = Field(None, description="Said in place of PENDING: an unknown status, or 0.")


class Fault(Strict):
    """One way for calls to go wrong. `effect` says whether the call was carried out all the same."""

    what: Literal["status", "drop", "reset", "silence", "trickle", "cut", "html", "empty", "huge", "lacks", "interim"]
    route: str = Field("*", description="A route's name, `token`, `api` (all that are not `token`), or `*`.")
    next: int | None = Field(None, ge=1, description="Only the next N calls; unset: until taken away.")
    share: float = Field(1.0, gt=0, le=1, description="The share of calls that meet it, at random.")
    match: str = Field("", description="Only calls whose body contains this text.")
    effect: Literal["none", "done", "late"] = Field("none", description="late: `seconds` after the answer was lost.")
    seconds: float = Field(0.0, ge=0, description="silence: its length (0: for ever); trickle: between two bytes.")
    status: int = Field(503, ge=300, le=599)
    retry_after: str | None = Field(None, description="The Retry-After header: seconds, or an HTTP date.")
    location: str | None = Field(None, description="The Location header of a redirect.")
    words: str = "the sandbox was told to fail"
    field: str = Field("refreshToken", description="lacks: what is missing from the answer.")
    at: int | None = Field(None, ge=0, description="cut: after N bytes, head included; unset: amid the body.")

    def concerns(self, route: str, body: bytes) -> bool:
        group = "token" if route in TOKEN_ROUTES else "api"
        return self.route in {route, group, "*"} and (not self.match or self.match.encode() in body)


class Switches(Strict):
    """The sandbox's behaviour at this moment."""

    # who may log in
    admin_id: str = Field("42", description="The service admin's id.")
    admin_id_type: Literal["integer", "string", "either"] = "integer"
    device_ip: Literal["any", "peer", "listed"] = Field("any", description="peer: must be the caller's own address.")
    device_ips: list[str] = Field(default_factory=list, description="The allow-list, for device_ip=listed.")
    clock_skew: float = Field(60.0, ge=0, description="Tolerance for iat and exp, s.")
    clock_offset: float = Field(0.0, description="How far the server's clock is ahead of ours, s.")
    assertion_max_life: float = Field(1800.0, description="Longest exp - iat, s.")
    assertion_single_use: bool = False
    extra_claims: Literal["refused", "accepted"] = "refused"

    # what tokens are like
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
    error_words_in: Literal["error", "message", "details"] = "error"
    status_as: Literal["number", "name"] = "number"
    fee_permission: bool = Field(True, description="False: 403 to every fee call.")

    # the back office (generation 1)
    email: str = "office@broker.example"
    password: str = "sandbox"  # noqa: S105
    two_factor: bool = False
    secret_key: str | None = Field("sandbox-secret", description="None: blanked in the Back Office.")
    list_parameters: Literal["query", "body", "either"] = "either"
    back_office_login: Literal["external_crm", "back_office", "either"] = "either"
    duplicates: Literal["refused", "returned", "created"] = Field(
        "refused", description="A second account or client for the same login."
    )
    clients: Literal["any", "registered"] = Field("any", description="Whose accounts may be created.")

    # answers, and how they fail
    error_shape: Literal["grpc", "error", "errors", "text", "html", "empty"] = "grpc"
    rate_limit: float = Field(0.0, ge=0, description="Calls a second, 0 = any; above it 429.")
    rate_limit_retry_after: str | None = "1"
    latency: dict[str, float] = Field(
        default_factory=dict, description="Seconds by route name, `token`, `api` or `*`; the nearest name counts."
    )
    idle_timeout: float | None = Field(None, gt=0, description="Idle kept-alive connections are closed after this, s.")
    drop_reused: bool = Field(False, description="A second request on a connection meets a closed one.")
    faults: list[Fault] = Field(default_factory=list)
    call_log: bool = Field(False, description="Write down every call that is no token call, for `GET calls`.")

    def changed(self, changes: dict[str, Any]) -> Self:
        """Return a copy with `changes` applied. Raises ValueError, a line for each switch that cannot be set."""
        try:
            return type(self).model_validate(self.model_dump(mode="json") | changes)
        except ValidationError as error:
            raise ValueError("\n".join(_told(problem) for problem in error.errors())) from None

    def latency_of(self, route: str) -> float:
        group = "token" if route in TOKEN_ROUTES else "api"
        for name in (route, group, "*"):
            if name in self.latency:
                return self.latency[name]
        return 0.0


def describe() -> str:
    """Every switch with its default, a line each."""
    lines = []
    for name, value in Switches().model_dump(mode="json").items():
        field = Switches.model_fields[name]
        choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
        about = [" | ".join(choices), field.description or ""]
        lines.append("  ".join([f"{name}={json.dumps(value)}", *filter(None, about)]))
    return "\n".join(lines)


def _told(problem: ErrorDetails) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{name}: {problem['msg']}"
    near = difflib.get_close_matches(name, Switches.model_fields, n=1)
    return f"{name} is not a switch" + (f": did you mean {near[0]}?" if near else "")
