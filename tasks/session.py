"""The session's renewal, ahead of expiry."""

import logging

from worker.app import app, session
from worker.errors import CredentialsRejected, SessionUnavailable

log = logging.getLogger(__name__)


@app.task(name="b2copy.session.refresh")
def refresh() -> None:
    """Renew the shared session if it is time. Started by beat; the workers' own path is the same function."""
    try:
        session().renew("beat")
    except (SessionUnavailable, CredentialsRejected) as error:
        # Operations wait by themselves, and the next tick tries again.
        log.warning("the session was not renewed: %s", error)
