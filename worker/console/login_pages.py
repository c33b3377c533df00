"""Log in and out, where access is by password."""

from starlette.responses import RedirectResponse, Response

from worker.console.access import Person
from worker.console.page_request import PageRequest, see
from worker.console.password_access import SESSION_S, PasswordAccess, TooManyTries

NOBODY = Person("", frozenset())


def login_page(page_request: PageRequest) -> Response:
    """The form for name and password."""
    return page_request.page("login.html", problem="", name="")


def log_in(page_request: PageRequest) -> Response:
    """Check name and password, and begin a session."""
    access = _access(page_request)
    name, client = page_request.form.get("name", ""), page_request.request.client
    try:
        token = access.log_in(name, page_request.form.get("password", ""), client.host if client else "")
    except TooManyTries:
        return page_request.page("login.html", 429, problem="Too many tries: wait a minute.", name=name)
    if token is None:
        return page_request.page("login.html", 401, problem="Name or password is wrong.", name=name)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        access.cookie, token, max_age=int(SESSION_S), path="/", secure=access.secure, httponly=True, samesite="strict"
    )
    return answer


def log_out(page_request: PageRequest) -> Response:
    """End the session."""
    access = _access(page_request)
    access.log_out(page_request.request)
    answer = see("/login")
    answer.delete_cookie(access.cookie, path="/", secure=access.secure, httponly=True, samesite="strict")
    return answer


def _access(page_request: PageRequest) -> PasswordAccess:
    access = page_request.console.access
    assert isinstance(access, PasswordAccess)  # noqa: S101  these routes exist for it alone
    return access
