"""Log in and out, where access is by password."""

from starlette.responses import RedirectResponse, Response

from worker.console.access import Person
from worker.console.asked import Asked, see
from worker.console.passwords import SESSION_S, PasswordAccess, TooManyTries

NOBODY = Person("", frozenset())


def login_page(asked: Asked) -> Response:
    """The form for name and password."""
    return asked.page("login.html", problem="", name="")


def log_in(asked: Asked) -> Response:
    """Check name and password, and begin a session."""
    access = _access(asked)
    name = asked.form.get("name", "")
    try:
        token = access.log_in(name, asked.form.get("password", ""))
    except TooManyTries:
        problem = "Too many passwords are being tried, by you or by others: try again in a few seconds."
        return asked.page("login.html", 429, problem=problem, name=name)
    if token is None:
        return asked.page("login.html", 401, problem="Name or password is wrong.", name=name)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        access.cookie, token, max_age=int(SESSION_S), path="/", secure=access.secure, httponly=True, samesite="strict"
    )
    return answer


def log_out(asked: Asked) -> Response:
    """End the session."""
    access = _access(asked)
    access.log_out(asked.request)
    answer = see("/login")
    answer.delete_cookie(access.cookie, path="/", secure=access.secure, httponly=True, samesite="strict")
    return answer


def _access(asked: Asked) -> PasswordAccess:
    access = asked.console.access
    assert isinstance(access, PasswordAccess)  # noqa: S101  these routes exist for it alone
    return access
