"""Open a master or investment account at B2COPY for an MT login that exists."""

import asyncio
from typing import Self

from pydantic import Field, model_validator

from tasks.clients import CLIENTS, login_key
from worker.b2copy.routes.account_create import CREATE, NewAccount
from worker.b2copy.routes.account_fields import Account
from worker.b2copy.routes.account_list import LIST, AccountSearch
from worker.errors import Conflict, NotFound
from worker.id_fields import Id, Key, Login, Number
from worker.instances import ledger
from worker.ledger import identity_of
from worker.operation import Done, Failed, Later, OnUnknown, Outcome
from worker.operation_kind import Attempt, Description, Kind, Payload, read_back

CLIENT_UNKNOWN = "client_unknown"
OTHER_CLIENT = "other_client"
OTHER_ACCOUNT = "other_account"
_REGISTRATION = f"{CLIENTS.name}:"
_TEXT_LIMIT = 255  # characters of a name or a description
_LIST_WAIT_S = 60.0  # seconds; an opening whose list is not found looks again after this time


class Opening(Payload):
    """`login` is the MT login on `platform`; B2COPY's support tells the `product_currency_id`.

    Its client is `client_id`, B2COPY's id; or who was registered by the operation `registration` (a key), after which
    the account is opened; or, without both, the client that the identity map holds for the login.

    `reopens` names the reconciliation that found an account missing which was opened before: it is opened once more.
    """

    login: Login
    platform: int = Field(1, ge=1, le=2**31 - 1)
    product_currency_id: int = Field(ge=1, le=2**31 - 1)
    client_id: int | None = Field(None, ge=1, le=2**63 - 1)
    registration: Key | None = None
    is_master: bool = False
    reopens: Id | None = None
    name: str | None = Field(None, max_length=_TEXT_LIMIT)
    description: str | None = Field(None, max_length=_TEXT_LIMIT)

    @model_validator(mode="after")
    def _check_client(self) -> Self:
        if self.registration is None:
            return self
        if self.client_id is not None:
            raise ValueError("client_id and registration are both given: the account has one client")
        platform, slash, login = self.registration.removeprefix(_REGISTRATION).partition("/")
        if not self.registration.startswith(_REGISTRATION) or not (platform and slash and login):
            raise ValueError(f"registration: {self.registration!r} is not the key {_REGISTRATION}<platform>/<login>")
        return self


class Opened(Payload):
    """The ids of an account that is open."""

    account_id: Id | None = None
    client_id: Number | None = None


def describe(opening: Opening) -> Description:
    """One account per login, opened after the registration that it names, or after what was requested for its login.

    With `registration` it has no entity. Otherwise, if the opening was requested first, each would wait for the other.
    """
    login = login_key(opening.platform, opening.login)
    if opening.reopens is not None:
        return Description(f"{login}#{opening.reopens}", entity=login)
    return Description(login, entity=None if opening.registration else login, parent=opening.registration)


async def attempt(attempt: Attempt, opening: Opening) -> Outcome:
    """Open it. Look first what is there, if an earlier request may have opened it or the identity map has it."""
    client_id = await asyncio.to_thread(client_id_of, opening)  # it reads the ledger
    if client_id is None:
        return Failed(CLIENT_UNKNOWN, "identity import stores the id of a client that exists")

    async def look() -> Outcome | None:
        search = AccountSearch(platform=opening.platform, number=opening.login)
        try:
            listed: list[Account] = await attempt.call(LIST, search.fields())
        except NotFound as error:
            # B2COPY may say so that no account matches, and a gateway that it has no route to the list. No form of a
            # refusal by this route is documented, so we cannot tell. If it is the gateway, the account may be there.
            return Later(_LIST_WAIT_S, f"whether the account is there is not known: {error}")
        # A server that overlooks the platform also shows the account of another one.
        found = [account for account in listed if account.platform in {None, opening.platform}]
        if len(found) > 1:
            ids = ", ".join(str(account.account_id) for account in found[:5])
            return Failed(OTHER_ACCOUNT, f"B2COPY has {len(found)} accounts with number {opening.login}: ids {ids}")
        return _outcome(found[0], opening, client_id) if found else None

    if (outcome := await read_back(attempt, look)) is not None:
        return outcome
    if not attempt.claim.outcome_unknown:  # `read_back` has not looked
        # A replay looks in any case: an answer that named another client or product may have come after an opening.
        is_again = opening.reopens is not None or attempt.claim.replays > 0
        may_exist = is_again or await asyncio.to_thread(has_account, opening)
        if may_exist and (outcome := await look()) is not None:
            return outcome
    new = NewAccount(
        client_id=client_id,
        platform=opening.platform,
        number=opening.login,
        product_currency_id=opening.product_currency_id,
        is_master=1 if opening.is_master else 0,
        name=opening.name,
        description=opening.description,
    )
    try:
        return _outcome(await attempt.call(CREATE, new.fields()), opening, client_id)
    except Conflict:
        if (outcome := await look()) is not None:
            return outcome
        raise


def client_id_of(opening: Opening) -> int | None:
    """Return the client's id at B2COPY; None if it is not known."""
    if opening.client_id is not None:
        return opening.client_id
    platform, login = str(opening.platform), opening.login
    if opening.registration is not None:
        platform, _, login = opening.registration.removeprefix(_REGISTRATION).partition("/")
    known = identity_of(ledger(), platform, login)
    client_id = known.client_id if known else None
    return int(client_id) if client_id is not None and client_id.isascii() and client_id.isdigit() else None


def has_account(opening: Opening) -> bool:
    """Return whether the identity map has an account of this login, perhaps without B2COPY's id."""
    known = identity_of(ledger(), str(opening.platform), opening.login)
    return known is not None and known.has_account


def _outcome(account: Account, opening: Opening, client_id: int) -> Outcome:
    """Return success if the account is the one that was asked for, as far as the answer tells."""
    if account.platform not in {None, opening.platform}:
        is_on, asked_for = account.platform, opening.platform
        return Failed(OTHER_ACCOUNT, f"account {account.number} is on platform {is_on}, not {asked_for}")
    if account.client_id not in {None, str(client_id)}:
        return Failed(OTHER_CLIENT, f"account {account.number} belongs to client {account.client_id}, not {client_id}")
    if account.is_master not in {None, opening.is_master}:
        is_, asked = ("master", "an investment") if account.is_master else ("investment", "a master")
        return Failed(OTHER_ACCOUNT, f"account {account.number} is of type {is_}, and {asked} account was asked for")
    if account.product_currency_id not in {None, opening.product_currency_id}:
        has, asked_id = account.product_currency_id, opening.product_currency_id
        return Failed(OTHER_ACCOUNT, f"account {account.number} has product_currency_id {has}, not {asked_id}")
    return Done({"account_id": account.account_id, "client_id": client_id, "answer": account.raw})


ACCOUNTS = Kind(
    name="accounts.create",
    payload=Opening,
    describe=describe,
    attempt=attempt,
    on_unknown=OnUnknown.READ_BACK,
    time_allowed_s=lambda settings: settings.calls_deadline,
    result=Opened,
    failure_reasons={
        CLIENT_UNKNOWN: "the client's id at B2COPY is not known: `b2copy-sync identity import` stores it",
        OTHER_CLIENT: "B2COPY has an account with this number, and it belongs to another client",
        OTHER_ACCOUNT: "B2COPY has another account with this number: of another platform, type or product, or several",
    },
)
