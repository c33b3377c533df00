"""What each process holds one of: `ledger()`, the sessions of its logins, `b2copy()`, `crm()`.

Importing this connects to nothing, reads no setting and loads neither Celery nor the HTTP client nor cryptography, so
that a CRM can import `tasks.enqueue` cheaply.
"""

from functools import partial
from typing import TYPE_CHECKING

from worker.current_user import current_user
from worker.ledger import Ledger, open_ledger
from worker.per_process import PerProcess
from worker.queues import REQUEST_LANES
from worker.settings import crm_settings, worker_settings

if TYPE_CHECKING:
    from worker.b2copy import B2Copy
    from worker.session import SharedSession
    from worker.webhook.crm_destination import Crm


@PerProcess
def ledger() -> Ledger:
    """This process's ledger. Raises `SettingsError` if its schema is not this version's."""
    return open_ledger(crm_settings().database_url)


@PerProcess
def session() -> "SharedSession":
    """This process's view of the session that the whole fleet shares."""
    from worker.session import SharedSession

    return SharedSession(worker_settings())


@PerProcess
def back_office() -> "SharedSession":
    """This process's view of the Back Office's session. Raises `SettingsError` if that login is not set."""
    from worker.ledger.refused_password_flags import RefusedPasswords
    from worker.session import SharedSession
    from worker.session.back_office_login import BackOffice

    login = partial(BackOffice, refusals=RefusedPasswords(ledger, current_user()))
    return SharedSession(worker_settings(), login=login)


SESSIONS: "dict[str, PerProcess[SharedSession]]" = {"service_admin": session, "back_office": back_office}
"""The session of each login of `worker.settings.LOGIN_FIELDS`."""


def usable_session(login: str = "service_admin") -> "SharedSession":
    """Return this process's view of a login's session. Raises `SettingsError` if the keys cannot be used.

    For those who show or renew it now. A worker looks at its keys when it starts.
    """
    from worker.session import check_keys

    check_keys(worker_settings())
    return SESSIONS[login]()


def sessions() -> "dict[str, SharedSession]":
    """Return the sessions of the logins that are set."""
    return {login: SESSIONS[login]() for login in worker_settings().logins}


@PerProcess
def b2copy() -> "B2Copy":
    """This process's client."""
    from worker.b2copy import B2Copy
    from worker.http import Http

    settings = worker_settings()
    # Each lane has senders of its own, and reads have slots of their own.
    http = Http(sessions(), settings, connections=settings.concurrency * (len(REQUEST_LANES) + 1))
    return B2Copy(http, settings.login_of_group)


@PerProcess
def crm() -> "Crm":
    """This process's client of the CRM, for notices."""
    from worker.webhook.crm_destination import Crm

    return Crm(worker_settings())
