"""How any request travels: one deadline, one size limit, TLS, and failures sorted by whether the request was sent."""

from worker.http.answer import Answer
from worker.http.client import Http, TokenSource
from worker.http.transport import USER_AGENT, StaleConnection, Transport

__all__ = ["USER_AGENT", "Answer", "Http", "StaleConnection", "TokenSource", "Transport"]
