"""Register a client at B2COPY, which gives it a payment account (only for a standalone solution)."""

from pydantic import Field

from tasks.seamless_url import seamless_url
from worker.b2copy.routes.client_registration import INIT, REGISTER, Client, NewClient
from worker.errors import Conflict, NotFound
from worker.id_fields import Id, Login, Number
from worker.operation import Done, Later, OnUnknown, Outcome
from worker.operation_kind import Attempt, Description, Kind, Payload
from worker.settings import worker_settings

WIZARD_AGAIN_S = 5.0  # seconds until another wizard is started, if B2COPY does not find the last one


class Registration(Payload):
    """`login` is the MT login on `platform`, a B2COPY investment platform; `crm_id` the CRM's id of the client."""

    login: Login
    platform: int = Field(1, ge=1, le=2**31 - 1)
    crm_id: Id | None = None


class Registered(Payload):
    """The ids of a client that is registered."""

    client_id: Number | None = None
    payment_account: Id | None = None


def describe(registration: Registration) -> Description:
    """One registration per login. What is done for one login is done in order."""
    login = login_key(registration.platform, registration.login)
    return Description(login, entity=login)


def login_key(platform: int, login: str) -> str:
    """Return what names a login: the natural id of its operations, and their entity."""
    return f"{platform}/{login}"


async def attempt(attempt: Attempt, registration: Registration) -> Outcome:
    """Get a seamless URL, start a wizard with its token, finish the wizard.

    Only the last call has an effect, so the first two are made again by every attempt. Nothing of them is stored,
    because the URL is a login. That the last one begins is stored: a worker that is lost before has done nothing.
    """
    platform, login = str(registration.platform), registration.login
    url = await seamless_url(attempt.call, attempt.settings, login, registration.platform)
    wizard: str = await attempt.call(INIT, {})
    new = NewClient(uuid=wizard, login=login, token=url.token, platform=platform)
    await attempt.begin(REGISTER)
    try:
        client: Client = await attempt.call(REGISTER, new.fields())
    except NotFound as error:  # the wizard may have expired, because this request may have waited for its permit
        if await _wizards_not_found(attempt) + 1 >= attempt.settings.max_attempts:
            raise
        return Later(WIZARD_AGAIN_S, f"another wizard is started: {error}")
    except Conflict as error:
        may_be_ours = attempt.claim.outcome_unknown and attempt.claim.unknown_step == REGISTER.name
        if not may_be_ours or attempt.settings.duplicate_clients != "refused":
            raise
        # An earlier request of ours may have registered it, and this B2COPY refuses a second one. So it exists.
        return Done({"client_id": None, "payment_account": None}, f"exists, its id is not known: {error}")
    return Done({"client_id": client.client_id, "payment_account": client.payment_account, "answer": client.raw})


async def _wizards_not_found(attempt: Attempt) -> int:
    """Return how many wizards B2COPY did not find, since the registration was last refused for that."""
    count = 0
    for one in await attempt.earlier_attempts():
        if one.outcome == "not_found":
            count = 0
        elif one.outcome == "later" and one.http_status == 404:
            count += one.times
    return count


def on_unknown(_: str | None) -> OnUnknown:
    """A repeat does no harm if B2COPY refuses or returns a second registration, which is not documented."""
    return OnUnknown.STOP if worker_settings().duplicate_clients == "unknown" else OnUnknown.REPEAT


CLIENTS = Kind(
    name="clients.register",
    payload=Registration,
    describe=describe,
    attempt=attempt,
    on_unknown=on_unknown,
    time_allowed_s=lambda settings: settings.calls_deadline,
    begins_steps=True,
    result=Registered,
    effect_step=REGISTER.name,
    is_parent=True,
)
