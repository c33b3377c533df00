"""What each process holds one of: `ledger()`, `session()`, `b2copy()`, `webhook()`.

Importing this connects to nothing, reads no setting and loads neither Celery nor the HTTP client nor cryptography, so
that a CRM can import `tasks.enqueue` cheaply.
"""

from typing import TYPE_CHECKING

from worker.ledger import Ledger, open_ledger
from worker.process import PerProcess
from worker.queues import REQUEST_LANES
from worker.settings import crm_settings, worker_settings

if TYPE_CHECKING:
    from worker.b2copy import B2Copy
    from worker.session import SharedSession
    from worker.webhook.endpoint import Endpoint


@PerProcess
def ledger() -> Ledger:
    """This process's ledger. Raises `SettingsError` if its schema is not this version's."""
    settings = crm_settings()
    return open_ledger(settings.database_url, with_notices=settings.webhook_url is not None)


@PerProcess
def session() -> "SharedSession":
    """This process's view of the session that the whole fleet shares."""
    from worker.session import SharedSession

    return SharedSession(worker_settings())


@PerProcess
def b2copy() -> "B2Copy":
    """This process's client."""
    from worker.b2copy import B2Copy
    from worker.http import Http

    settings = worker_settings()
    # Each lane has senders of its own.
    return B2Copy(Http({"service_admin": session()}, settings, connections=settings.concurrency * len(REQUEST_LANES)))


@PerProcess
def webhook() -> "Endpoint":
    """This process's client of the CRM's webhook."""
    from worker.webhook.endpoint import Endpoint

    return Endpoint(worker_settings())
