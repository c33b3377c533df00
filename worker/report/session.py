"""The fleet's shared session, for people and programs. No token is ever shown."""

import logging

from worker.session import SharedSession, check_keys
from worker.settings import Settings

OUTCOMES = {
    "refresh": "renewed with the refresh token",
    "login": "renewed by a login",
    "adopted": "renewed by another process at the same time",
    "conflict": "renewed by another process at the same time; our tokens were dropped",
    "fresh": "still fresh",
    "busy": "another process renews it and has not finished",
    "cooldown": "no process asks for a while, after a failure",
}


def quiet_session(settings: Settings) -> SharedSession:
    """Return this fleet's session, which logs nothing: the caller shows what it learns. Raises `SettingsError`."""
    check_keys(settings)
    logging.getLogger("worker.session").setLevel(logging.CRITICAL)
    return SharedSession(settings)
