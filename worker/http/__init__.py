"""How any request travels: one deadline, one size limit, TLS, and failures sorted by whether the request was sent."""

from worker.http.adapter import Transport
from worker.http.answer import Answer
from worker.http.client import Http, TokenSource
from worker.http.connections import check
from worker.http.curl import USER_AGENT, StaleConnection
from worker.http.loop import event_loop

__all__ = ["USER_AGENT", "Answer", "Http", "StaleConnection", "TokenSource", "Transport", "check", "event_loop"]
