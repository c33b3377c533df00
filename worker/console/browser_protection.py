"""Check the origin of every request, and add security headers to every answer.

A request that changes something must come from a page of the console itself. Browsers say so in the header
`Sec-Fetch-Site` (https://www.w3.org/TR/fetch-metadata/), which they send over https and to a loopback address. To any
other address over plain http they do not send it, and then `Origin` must be the console's own.
"""

import logging
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.plaintext import is_loopback

log = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


HEALTH = ("/healthz", "/readyz")


class Protection:
    """Stands around the whole application, so that its errors are answered with the headers, too.

    `origin`: the console's address as browsers see it, if a proxy changes it.

    Only requests to a loopback name or to the name in `origin` are served, so that a foreign name which resolves to
    this machine (DNS rebinding) reads nothing. `by_any_name`: this is not checked. A health probe may use any name.
    """

    def __init__(self, app: ASGIApp, origin: str | None, by_any_name: bool) -> None:
        self._app, self._origin, self._by_any_name = app, origin, by_any_name
        self._name = urlsplit(origin or "").hostname

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        problem = self._problem(scope)
        app = self._app if problem is None else PlainTextResponse(problem, 403)
        try:
            await app(scope, receive, send_with_headers)
        except Exception as error:  # answered already, by the handler of the application
            _log_fault(scope, error)

    def _problem(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        if not (self._by_any_name or scope["path"] in HEALTH or self._is_ours(_host_of(headers.get("host", "")))):
            return (
                f"The console does not answer as {headers.get('host')}: only on a loopback name, or on the name in"
                " B2COPY_CONSOLE_ORIGIN.\n"
            )
        if scope["method"] in {"GET", "HEAD"}:
            return None
        own = self._origin or f"{scope['scheme']}://{headers.get('host')}"
        return foreign_origin(headers.get("sec-fetch-site"), headers.get("origin"), own)

    def _is_ours(self, name: str) -> bool:
        return is_loopback(name) or name == self._name


def foreign_origin(site: str | None, origin: str | None, own: str) -> str | None:
    """Return why a request that changes something is refused, None if it comes from the console's own pages."""
    if site is not None:
        if site == "same-origin":
            return None
        return f"This must be sent by a page of the console: Sec-Fetch-Site is {site}, not same-origin.\n"
    if origin is None:
        return "This must be sent by a page of the console: there is neither Sec-Fetch-Site nor Origin.\n"
    if origin.lower() == own.lower():
        return None
    return (
        f"This must be sent by a page of the console: Origin is {origin}, the console is {own}.\n"
        "Behind a proxy, set B2COPY_CONSOLE_ORIGIN to the address in the browser.\n"
    )


def _log_fault(scope: Scope, error: Exception) -> None:
    """Log where an error was raised, and not its text: that may hold a payload, for instance of a row."""
    where = RuntimeError(f"{type(error).__name__}; its text is left out, because it may hold a payload")
    log.error("%s %s failed", scope["method"], scope["path"], exc_info=(RuntimeError, where, error.__traceback__))


def _host_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
