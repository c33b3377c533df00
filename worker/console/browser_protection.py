"""Check the origin of every request, and add security headers to every answer.

A request that changes something must come from a page of the console itself. Browsers say so in the header
`Sec-Fetch-Site` (https://www.w3.org/TR/fetch-metadata/), which they send over https and to a loopback address. To any
other address over plain http they do not send it, and then `Origin` must be the console's own.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.redis_url import is_loopback

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


class Protection:
    """ASGI middleware. `origin`: the console's address as browsers see it, if a proxy changes it.

    `local`: only requests to a loopback name are served, so that a foreign name which resolves to this machine (DNS
    rebinding) reads nothing.
    """

    def __init__(self, app: ASGIApp, origin: str | None, local: bool) -> None:
        self._app, self._origin, self._local = app, origin, local

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
        await app(scope, receive, send_with_headers)

    def _problem(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        if self._local and not is_loopback(_host_of(headers.get("host", ""))):
            return f"The console answers on loopback names only, not as {headers.get('host')}.\n"
        if scope["method"] in {"GET", "HEAD"}:
            return None
        own = self._origin or f"{scope['scheme']}://{headers.get('host')}"
        return foreign_origin(headers.get("sec-fetch-site"), headers.get("origin"), own)


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


def _host_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
