"""Send notices to the CRM's webhook."""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime

from worker.errors import RateLimited, ReceiverGone, SettingsError, Unavailable
from worker.http import USER_AGENT, Answer
from worker.http.connections import Connections
from worker.http.curl import Request, always_allowed
from worker.per_process import PerProcess
from worker.refused_addresses import is_refused_address
from worker.settings import Settings
from worker.webhook.notice_routes import GONE
from worker.webhook.signing import Secrets, read_secrets

DEADLINE_S = 15.0  # seconds for a whole delivery; the specification recommends 15 to 30
ANSWER_LIMIT = 64 * 1024  # bytes of an answer that are read
RETRY_AFTER_MAX_S = 3600.0  # seconds; a longer Retry-After is cut

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # https://www.w3.org/TR/trace-context/


class Endpoint:
    """The CRM's webhook. Safe to share between threads and across a fork."""

    def __init__(self, settings: Settings) -> None:
        self._url, self._secret_file = settings.webhook_url, settings.webhook_secret_file
        ca_file = str(settings.webhook_ca_file) if settings.webhook_ca_file else None
        self._connections = PerProcess(lambda: Connections(ca_file, settings.concurrency, is_refused_address))

    async def deliver(
        self,
        notice_id: str,
        body: str,
        trace_id: str | None = None,
        before_send: Callable[[], None] = always_allowed,
    ) -> Answer:
        """Send a signed notice. It is delivered if the answer's status is 2xx; redirects are not followed.

        Must run on the event loop of this process. `before_send`: see `Http.request`.
        Raises `ReceiverGone` (410), `RateLimited` (429), `Unavailable` (not sent, or any other status) or
        `UnknownOutcome` (no whole answer).
        """
        headers = {"User-Agent": USER_AGENT, "Content-Type": "application/json"}
        if trace_id and _TRACEPARENT.fullmatch(trace_id):
            headers["traceparent"] = trace_id
        secrets = await asyncio.to_thread(self._secrets)
        headers |= secrets.headers(notice_id, body, datetime.now(UTC))
        request = Request(
            "POST", str(self._url), "notice", headers, body.encode(), resendable=True, answer_limit=ANSWER_LIMIT,
            before_send=before_send,
        )  # fmt: skip
        answer = await self._connections().send(request, DEADLINE_S)
        if 200 <= answer.status < 300:
            return answer
        wait_s = None if answer.retry_after is None else min(RETRY_AFTER_MAX_S, answer.retry_after)
        if answer.status == 429:
            raise RateLimited("notice", 429, answer.server_message(), wait_s)
        if answer.status == GONE:
            raise ReceiverGone("notice: the receiver says that it is gone for good", GONE, answer.server_message())
        raise Unavailable(_name(answer.status), answer.status, answer.server_message(), wait_s)

    def _secrets(self) -> Secrets:
        """Read the secrets for each delivery, so that a rotation needs no restart. Raises `Unavailable`."""
        if self._url is None or self._secret_file is None:
            raise Unavailable("notice: B2COPY_WEBHOOK_URL or B2COPY_WEBHOOK_SECRET_FILE is not set")
        try:
            return read_secrets(self._secret_file)
        except SettingsError as error:
            raise Unavailable(f"notice: {error}") from None


def _name(status: int) -> str:
    return "notice: redirected, and redirects are not followed" if 300 <= status < 400 else "notice"


def check_webhook(settings: Settings) -> None:
    """Raise `SettingsError` if notices are wanted and cannot be signed."""
    if settings.webhook_url is None or settings.webhook_secret_file is None:
        return
    read_secrets(settings.webhook_secret_file)
