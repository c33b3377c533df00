"""The console's application: the table of pages with the role that each needs, and the pages for errors."""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from worker.console import (
    approval_pages,
    bulk_replay,
    import_pages,
    login_pages,
    operation_actions,
    password_access,
    pause_and_renew,
    read_only_pages,
)
from worker.console.browser_protection import Protection
from worker.console.page_request import FORM_LIMIT, NotFound, PageRequest, read_form
from worker.console.process_state import Console
from worker.console.roles import Role
from worker.console.template_values import HERE
from worker.console.url_parameters import BadParameter
from worker.errors import SettingsError
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS
from worker.ledger.query_limits import is_timeout

log = logging.getLogger(__name__)

Handler = Callable[[PageRequest], Response]


class Page(NamedTuple):
    """A route: its path, what shows it, what a form sent to it does, and the role that each of these needs."""

    path: str
    show: Handler
    reads: Role
    act: Handler | None = None
    acts: Role = Role.OPERATOR


PAGES = (
    Page("/", read_only_pages.now, Role.VIEWER),
    Page("/todo", read_only_pages.work_list, Role.VIEWER),
    Page("/operations", read_only_pages.operations, Role.VIEWER),
    Page("/operations.csv", read_only_pages.operations_csv, Role.VIEWER),
    Page("/operation", read_only_pages.operation, Role.VIEWER),
    Page("/evidence.json", read_only_pages.evidence, Role.VIEWER),
    Page("/imports", import_pages.imports, Role.VIEWER),
    Page("/approvals", approval_pages.approvals, Role.VIEWER),
    Page("/audit", read_only_pages.audit, Role.VIEWER),
    Page("/audit.csv", read_only_pages.audit_csv, Role.VIEWER),
    Page("/system", read_only_pages.system, Role.VIEWER),
    Page("/operation/{action}", operation_actions.preview, Role.OPERATOR, operation_actions.act),
    Page("/bulk/replay", bulk_replay.preview, Role.OPERATOR, bulk_replay.act),
    Page("/fleet/{action}", pause_and_renew.preview, Role.OPERATOR, pause_and_renew.act),
    Page("/imports/{action}", import_pages.preview, Role.OPERATOR, import_pages.act),
    Page("/approvals/withdraw", approval_pages.preview, Role.OPERATOR, approval_pages.act),
    Page("/approvals/{action}", approval_pages.preview, Role.APPROVER, approval_pages.act, Role.APPROVER),
)
"""All pages. The pages that act are not mounted in a console that only reads."""


def make_app(console: Console) -> ASGIApp:
    """Return the console's application."""
    handlers = {404: _no_such_page, Exception: _fault}
    app = Starlette(routes=make_routes(console), exception_handlers=handlers)
    settings = console.settings
    # A proxy may call the console by any name: there, its secret keeps others out.
    by_any_name = settings.console_access == "proxy" and settings.console_origin is None
    return Protection(app, settings.console_origin, by_any_name)


def make_routes(console: Console) -> list[BaseRoute]:
    """Return the routes that a console has."""
    routes: list[BaseRoute] = []
    for page in PAGES:
        if page.act is not None and console.read_only:
            continue
        routes.append(Route(page.path, _endpoint(console, page.show, page.reads), methods=["GET"]))
        if page.act is not None:
            routes.append(Route(page.path, _endpoint(console, page.act, page.acts), methods=["POST"]))
    if console.access.login_page:
        routes += [
            Route("/login", _endpoint(console, login_pages.login_page, None), methods=["GET"]),
            Route("/login", _endpoint(console, login_pages.log_in, None), methods=["POST"]),
            Route("/logout", _endpoint(console, login_pages.log_out, None), methods=["POST"]),
        ]
    return [
        *routes,
        Route("/healthz", lambda request: PlainTextResponse("ok\n"), methods=["GET"]),
        Route("/readyz", _ready(console), methods=["GET"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]


def _no_such_page(request: Request, error: Exception) -> Response:
    return PlainTextResponse("There is no such page.\n", 404)


def _fault(request: Request, error: Exception) -> Response:
    return PlainTextResponse("The console has a fault: its log names where. Nothing else is affected.\n", 500)


def _ready(console: Console) -> Callable[[Request], Response]:
    def ready(request: Request) -> Response:
        try:
            with console.ledger.reading() as connection:
                connection.exec_driver_sql("SELECT 1")
        except DATABASE_UNAVAILABLE_ERRORS:
            return PlainTextResponse("the ledger does not answer\n", 503)
        return PlainTextResponse("ok\n")

    return ready


def _endpoint(console: Console, handler: Handler, role: Role | None) -> Callable[[Request], object]:
    async def endpoint(request: Request) -> Response:
        body = b""
        if request.method == "POST":
            async for part in request.stream():
                body += part
                if len(body) > FORM_LIMIT:
                    return PlainTextResponse("The form is too large.\n", 413)
        answer = await run_in_threadpool(_answer, console, handler, role, request, body)
        if handler is login_pages.log_in and answer.status_code == 401:
            await asyncio.sleep(password_access.WRONG_S)  # here, where it occupies no thread
        return answer

    return endpoint


def _answer(console: Console, handler: Handler, role: Role | None, request: Request, body: bytes) -> Response:
    try:
        person = console.access.person(request)
    except SettingsError as error:
        log.error("nobody can use the console: %s", error)
        return PlainTextResponse("The console's settings cannot be used: its log says which and why.\n", 503)
    page_request = PageRequest(request, console, person or login_pages.NOBODY)
    if role is not None and person is None:
        if console.access.login_page:
            return RedirectResponse("/login", 303)
        return PlainTextResponse(
            "This request names no person: use the address of the proxy that signs people in.\n", 401
        )
    if role is not None and not page_request.person.may(role):
        return page_request.page("error.html", 403, title="Not permitted", text=f"This needs the role {role}.")
    try:
        if role is not None:
            console.obey_rule_of_ledger()
        if request.method == "POST":
            page_request = PageRequest(request, console, page_request.person, read_form(body))
        return handler(page_request)
    except NotFound as error:
        return page_request.page("error.html", 404, title="Not found", text=str(error))
    except BadParameter as error:
        return page_request.page("error.html", 400, title="This address cannot be used", text=str(error))
    except DATABASE_UNAVAILABLE_ERRORS as error:
        slow = isinstance(error, OperationalError) and is_timeout(error)
        text = (
            "The ledger took too long to answer, so the query was ended. Narrow the filter, or look again in a moment."
            if slow
            else "The ledger does not answer. The workers may have the same trouble: operations wait and none is lost."
        )
        return page_request.page(
            "error.html", 503, live=request.method == "GET", title="No answer from the ledger", text=text
        )
