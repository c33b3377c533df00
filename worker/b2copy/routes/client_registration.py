"""Register a client, which creates its payment account (only for a standalone solution).

Documentation: docs.b2copy.b2broker.com,
register-a-client-and-create-their-payment-account-only-for-a-standalone-solution. B2COPY reads name and e-mail from the
trading platform. The field names of the answer are not documented.
"""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import AliasPath, Field, model_validator

from worker.b2copy.fields import Answered, IdText, Needed, NeededNumber, named, needed, read_object
from worker.b2copy.route import Request, Route
from worker.b2copy.routes.seamless_login import Hidden
from worker.errors import UnknownOutcome
from worker.operation import VERSION

_PAGE_URL = (
    "https://docs.b2copy.b2broker.com/register-a-client-and-create-their-payment-account-only-for-a-standalone-solution"
)
_UUID = re.compile(r"[0-9A-Za-z-]{1,64}")
_NAMES_OF_SOMETHING_ELSE = frozenset({"uuid", "workflow", "client"})  # of a wizard, or of what holds a client
_FINGERPRINT = base64.b64encode(json.dumps({"user_agent": f"b2copy-sync/{VERSION}"}).encode()).decode()


class NewClient(Request):
    """`uuid` names the wizard, `login` is the MT login, `token` what the seamless URL ends in."""

    uuid: str
    login: str = Field(alias="side_login", min_length=1)
    token: Hidden
    platform: str = Field("1", alias="investment_platform_id", min_length=1)
    device_fingerprint: str = _FINGERPRINT


class Client(Answered):
    """`client_id` is B2COPY's id of the client. A wizard has an `id` too, which is not the client's."""

    client_id: NeededNumber = needed(
        "client_id",
        "clientId",
        AliasPath("client", "client_id"),
        AliasPath("client", "clientId"),
        AliasPath("client", "id"),
        "id",
    )
    login: IdText = named(AliasPath("client", "side_login"), "side_login", "sideLogin")
    platform: IdText = named(
        AliasPath("client", "investment_platform_id"), "investment_platform_id", "investmentPlatformId"
    )
    payment_account: IdText = named(
        AliasPath("payment_account", "id"),
        AliasPath("paymentAccount", "id"),
        AliasPath("client", "payment_account", "id"),
        "payment_account",
        "paymentAccount",
        "payment_account_id",
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out_the_id_of_something_else(cls, data: dict[str, Any]) -> dict[str, Any]:
        if _NAMES_OF_SOMETHING_ELSE.isdisjoint(data):
            return data
        return {name: value for name, value in data.items() if name != "id"}


class _Wizard(Answered):
    uuid: Needed


def read_wizard(body: Any, sent: Mapping[str, Any]) -> str:
    """Return the UUID. Raises `UnknownOutcome` if there is none that can stand in a path."""
    uuid = read_object(_Wizard, body, "wizard.init").uuid
    if not _UUID.fullmatch(uuid):
        raise UnknownOutcome("wizard.init: an answer with an unusable uuid", 200, uuid)
    return uuid


def read_client(body: Any, sent: Mapping[str, Any]) -> Client:
    """Return the client.

    Raises `UnknownOutcome` if the answer has no client id, or is about another login or another platform.
    """
    client = read_object(Client, body, "wizard")
    if client.login not in {None, sent["side_login"]}:
        raise UnknownOutcome(f"wizard: asked for login {sent['side_login']}, got {client.login}", 200)
    platform = sent.get("investment_platform_id")
    if client.platform not in {None, platform}:
        raise UnknownOutcome(f"wizard: asked for a client on platform {platform}, got platform {client.platform}", 200)
    return client


INIT = Route(
    name="wizard.init",
    page_url=_PAGE_URL,
    method="GET",
    path="/api/v1/standalone/auth/init",
    read=read_wizard,
    login=None,
    has_effect=False,
)
REGISTER = Route(
    name="wizard",
    page_url=_PAGE_URL,
    method="POST",
    path="/api/v1/wizards/{uuid}",
    read=read_client,
    login=None,
    secrets=("token",),
)
