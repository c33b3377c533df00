"""Compare what we only assume about B2COPY with what a B2COPY does. Every request reads; none changes business data.

B2COPY's documentation leaves much open. Each check says what we assume, what was asked, what was seen, and what a
difference means. Nothing of an answer is recorded but its status, its form and the names of its fields, so that the
findings can be given to others.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import requests

from worker.b2copy.response_mapping import is_from_proxy
from worker.b2copy.routes.account_list import LIST, read_accounts, rows_of
from worker.b2copy.routes.leaderboard import LEADERBOARD, Board, read_leaders
from worker.b2copy.routes.statistics import DETAIL, OfAccount
from worker.errors import B2CopyError, CredentialsRejected
from worker.http import USER_AGENT, Answer, Transport
from worker.operation import VERSION
from worker.report.session_report import OUTCOMES
from worker.session import SharedSession
from worker.settings import Settings
from worker.watch.redact import redacted

Verdict = Literal["as assumed", "differs", "not seen"]

CLOCK_S = 60.0  # seconds between the two clocks; the assertion of a login is back-dated by half of it
RENEWAL_WAIT_S = 10.0  # seconds for a login, or for the renewal of another process
PAGE = 2  # accounts that a check of the paging needs
UNUSABLE = (B2CopyError, ValueError)  # what an answer raises that cannot be used, whatever it holds
NO_METHOD = "/api/admin/users/v2/user/userservice/b2copysyncverify"
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_MADE_UP = "b2copy-sync-verify"

NOT_CHECKED = {
    "fees: the status may be a number or its name; 0 and unknown ones mean pending": "only a real fee run shows it",
    "fees: the same request_id again asks for the same run": "it would start a run",
    "fees: an ERROR is final until somebody starts the run again": "it would start a run",
    "session: a refresh token that is used twice may end the session": "it would end the session of all workers",
    "accounts: what a second creation of the same account does": "it would create one",
    "clients: what a second registration of the same client does": "it would register one",
    "all: 429 comes with Retry-After": "it needs too many requests",
    "all: 403 means that access is refused, to everybody or to one account": "it needs a missing right",
}
"""What we assume and no reading request can show, and why. The first real operations show some of it."""


@dataclass(frozen=True)
class Finding:
    """One assumption, and what was seen of it. `means`: what follows from a difference, and what to do."""

    check: str
    assumption: str
    request: str
    seen: str
    verdict: Verdict
    means: str = ""


class _Question(NamedTuple):
    check: str
    assumption: str
    request: str

    def found(self, as_assumed: bool, seen: str, means: str = "") -> Finding:
        verdict: Verdict = "as assumed" if as_assumed else "differs"
        return Finding(*self, seen, verdict, "" if as_assumed else means)

    def not_seen(self, why: str) -> Finding:
        return Finding(*self, why, "not seen")


class Client:
    """Sends single requests, each once. Raises `Unavailable` or `UnknownOutcome` if there is no whole answer."""

    def __init__(self, settings: Settings) -> None:
        self._host, self._deadline_s = settings.host, settings.call_deadline
        self._transport = Transport(str(settings.ca_file) if settings.ca_file else None)

    def get(
        self,
        path: str,
        token: str | None = None,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        request = requests.Request("GET", self._host + path, params=query, json=body, headers=headers).prepare()
        return self._transport.send(request, self._deadline_s)


def verify(settings: Settings, session: SharedSession) -> Iterator[Finding]:
    """Make all checks. A check that cannot be made is a finding, too.

    If B2COPY answers none of the requests without a token, nothing else is asked: the session that workers share would
    be renewed in vain, and its token says nothing about a B2COPY that does not answer.
    """
    client = Client(settings)
    without_token = list(_without_token(client))
    yield from without_token
    if all(finding.verdict == "not seen" for finding in without_token):
        return
    login = _Question("login", f"a login with admin_id as {settings.admin_id_type} is accepted", "the shared session")
    try:
        token = session.current(RENEWAL_WAIT_S).access
    except CredentialsRejected as error:
        means = "`b2copy-sync doctor --login` names what B2COPY dislikes"
        yield login.found(False, f"refused{f' (HTTP {error.status})' if error.status else ''}", means)
        return
    except B2CopyError as error:
        yield login.not_seen(_problem(error))
        return
    yield login.found(True, "accepted")
    yield _token_form(token)
    yield _renewal(client, session, token)
    try:
        token = session.current(RENEWAL_WAIT_S).access
    except B2CopyError as error:
        yield login._replace(check="login.again").not_seen(_problem(error))
        return
    if settings.accounts_login == "service_admin":
        yield from _accounts(client, token)
    if settings.widgets_login == "service_admin":
        yield from _widgets(client, token)
    yield _error_form(client, token)


def document(findings: Iterable[Finding], private: Iterable[str]) -> str:
    """Return the findings as JSON for the makers of b2copy-sync. `private`: values that must not be in it."""
    content = {
        "made_by": f"b2copy-sync, version {VERSION}",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "checks": [asdict(finding) for finding in findings],
        "not_checked": [{"assumption": what, "why": why} for what, why in NOT_CHECKED.items()],
    }
    text = redacted(json.dumps(content, indent=2))
    for value in sorted(private, key=len, reverse=True):  # should not occur; removed in any case
        if len(value) >= 4:
            text = text.replace(json.dumps(value)[1:-1], "[removed]")
    return text + "\n"


def private_values(settings: Settings) -> list[str]:
    """Return what of the settings names the broker or opens something."""
    values = [settings.host, settings.host.partition("://")[2], settings.admin_id, *settings.key_id]
    return [*values, settings.device_ip, settings.issuer if settings.issuer != "b2copy-sync" else ""]


def _without_token(client: Client) -> Iterator[Finding]:
    clock = _Question("clock", f"answers have a Date, and it is within {CLOCK_S:.0f} s of our clock", "GET /")
    try:
        answer = client.get("/")
    except UNUSABLE as error:
        yield clock.not_seen(_problem(error))
    else:
        if answer.server_time is None:
            yield clock.found(False, "no Date", "a wrong clock of ours is not corrected: let NTP set it")
        else:
            ahead_s = answer.server_time - time.time()
            seen = f"B2COPY's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
            yield clock.found(abs(ahead_s) <= CLOCK_S, seen, "logins use B2COPY's time; let NTP set this clock")
    for check, what, token in (("token.missing", "no token", None), ("token.wrong", "a made-up token", _MADE_UP)):
        question = _Question(check, f"a request with {what} is answered with 401", f"GET {LIST.path} with {what}")
        try:
            status = client.get(LIST.path, token, {"limit": "1"}).status
        except UNUSABLE as error:
            yield question.not_seen(_problem(error))
        else:
            means = "an expired token is not noticed as such: operations wait as if our access were refused"
            yield question.found(status == 401, f"HTTP {status}", means)


def _token_form(token: str) -> Finding:
    question = _Question("token.form", "an access token is opaque, or a JWT that tells its life", "none")
    is_jwt = token.count(".") == 2 and token.startswith("eyJ")
    return question.found(True, "a JWT" if is_jwt else "opaque: B2COPY_TOKEN_TTL says how long it is used")


def _renewal(client: Client, session: SharedSession, before: str) -> Finding:
    question = _Question(
        "token.renewal",
        "the refresh token gives a new pair, and the access token before it stays valid until it expires",
        f"a renewal of the session, then GET {LIST.path} with the token before it",
    )
    try:
        renewal = session.renew("verify", force=True, wait=RENEWAL_WAIT_S)
        if renewal.outcome == "login":
            return question.found(False, OUTCOMES["login"], "every renewal is a login; nothing is lost")
        if renewal.outcome != "refresh":
            return question.not_seen(OUTCOMES[renewal.outcome])
        status = client.get(LIST.path, before, {"limit": "1"}).status
    except B2CopyError as error:
        return question.not_seen(_problem(error))
    means = "calls that are under way during a renewal get a 401, and are repeated with the new token"
    return question.found(status != 401, f"renewed; the token before: HTTP {status}", means)


def _accounts(client: Client, token: str) -> Iterator[Finding]:
    """Look at the list of accounts: it is our only way to read back what a creation did."""
    login = _Question("accounts.login", "the service admin's token opens the accounts", f"GET {LIST.path}")
    form = _Question("accounts.form", "the answer is a list of objects that hold the account's number", login.request)

    def page(**parameters: Any) -> list[Any]:
        query = {name: str(value) for name, value in parameters.items()}
        return _list_in(client.get(LIST.path, token, query, parameters))

    try:
        answer = client.get(LIST.path, token, {"limit": str(PAGE + 1)}, {"limit": PAGE + 1})
        opened = _opened(login, answer, "B2COPY_ACCOUNTS_LOGIN")
        yield opened
        if opened.verdict != "as assumed":
            return
        yield _form_of_accounts(form, answer)
        accounts = _list_in(answer)
        if len(accounts) < PAGE:
            why = f"it needs {PAGE} accounts, and there are {len(accounts)}"
            for check in ("accounts.parameters", "accounts.pages", "accounts.order"):
                yield _Question(check, "", login.request).not_seen(why)
            return
        yield _parameters(client, token, len(accounts))
        pages = _Question("accounts.pages", "limit and offset give the pages of a list", f"{login.request}, two pages")
        first, second = page(limit=1, offset=0), page(limit=1, offset=1)
        means = "a list is not complete if there are many accounts: ask for one account at a time"
        is_paged = (len(first), len(second)) == (1, 1) and first != second
        yield pages.found(is_paged, f"pages of {len(first)} and {len(second)}, {_equality(first, second)}", means)
        order = _Question("accounts.order", "the same page is the same again", f"{login.request}, one page six times")
        again = [page(limit=PAGE, offset=0) for _ in range(6)]
        is_stable = all(one == again[0] for one in again)
        means = "pages of one list may lack accounts: ask for one account at a time"
        yield order.found(is_stable, "always the same" if is_stable else "the order changes", means)
    except UNUSABLE as error:
        yield form.not_seen(_problem(error))


def _opened(question: _Question, answer: Answer, setting: str) -> Finding:
    """Return whether the service admin's token opens a route. `setting` names the login that opens it."""
    seen = f"HTTP {answer.status}"
    if answer.status in {401, 403}:
        return question.found(False, seen, f"set {setting}=back_office")
    if answer.status >= 500 or answer.status in {408, 425, 429}:
        return question.not_seen(seen)
    return question.found(200 <= answer.status < 300, seen, "B2COPY has this route elsewhere: send us this file")


def _form_of_accounts(question: _Question, answer: Answer) -> Finding:
    means = "`accounts list` and the account opening cannot read it: send us this file"
    try:
        read = read_accounts(answer.json(), {})
    except UNUSABLE:
        return question.found(False, _form(answer), means)
    fields = names_of(next(iter(_list_in(answer)), {}))
    return question.found(True, f"{len(read)} accounts, with the fields {', '.join(fields) or 'unknown'}")


def _parameters(client: Client, token: str, all_of_them: int) -> Finding:
    question = _Question(
        "accounts.parameters", "parameters are read from the query or from the body of the GET",
        f"GET {LIST.path} with limit=1 in the query alone, then in the body alone",
    )  # fmt: skip
    in_query = len(_list_in(client.get(LIST.path, token, {"limit": "1"}))) < all_of_them
    in_body = len(_list_in(client.get(LIST.path, token, None, {"limit": 1}))) < all_of_them
    read = [name for name, is_read in (("the query", in_query), ("the body", in_body)) if is_read]
    return question.found(bool(read), f"read: {' and '.join(read) or 'neither'}", "a list cannot be filtered")


def _widgets(client: Client, token: str) -> Iterator[Finding]:
    question = _Question(
        "widgets", "the service admin's token opens the widgets, and they can be read", f"GET {LEADERBOARD.path}"
    )
    parameters = Board().fields()
    message = LEADERBOARD.message(parameters)
    try:
        answer = client.get(message.path, token, message.query)
    except UNUSABLE as error:
        yield question.not_seen(_problem(error))
        return
    opened = _opened(question, answer, "B2COPY_WIDGETS_LOGIN")
    if opened.verdict != "as assumed":
        yield opened
        return
    try:
        leaders = read_leaders(answer.json(), parameters)
    except UNUSABLE:
        yield question.found(False, _form(answer), "`b2copy-sync read leaderboard` cannot read it: send us this file")
        return
    yield question.found(True, f"{len(leaders)} masters")
    if not leaders:
        return
    of_account = OfAccount(account=leaders[0].login).fields()
    detail = _Question("widgets.detail", "an account is named in the path by its MT login", f"GET {DETAIL.path}")
    message = DETAIL.message(of_account)
    try:
        answer = client.get(message.path, token, message.query)
        DETAIL.read(answer.json(), of_account)
    except UNUSABLE as error:
        yield detail.not_seen(_problem(error))
    else:
        yield detail.found(answer.status == 200, f"HTTP {answer.status}")


def _error_form(client: Client, token: str) -> Finding:
    question = _Question(
        "errors.form",
        "an error of the Admin API is a JSON object with a gRPC number in `code` and a text in `message`",
        f"GET {NO_METHOD}",
    )
    try:
        answer = client.get(NO_METHOD, token)
    except UNUSABLE as error:
        return question.not_seen(_problem(error))
    if answer.status < 400:
        return question.not_seen(f"HTTP {answer.status} for a method that does not exist")
    means = "messages in `status` and in notices hold the whole answer; no operation ends differently"
    is_from_b2copy = not is_from_proxy(answer, is_grpc=True)
    if not is_from_b2copy:
        means = (
            "nothing if a proxy sent it; if B2COPY did, what it refuses is repeated before it fails: send us this file"
        )
    as_assumed = is_from_b2copy and isinstance(_json(answer), dict) and "message" in _json(answer)
    return question.found(as_assumed, _form(answer), means)


def _json(answer: Answer) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _list_in(answer: Answer) -> list[Any]:
    """Return the list of accounts in an answer, as our client finds it; empty if there is none."""
    try:
        return rows_of(answer.json())
    except UNUSABLE:
        return []


def _form(answer: Answer) -> str:
    """Return the form of an answer: its status, its sort, and the names of its fields."""
    body = _json(answer)
    if body is None:
        sort = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        known = sort if sort in {"text/html", "text/plain", "application/json"} else "another type"
        return f"HTTP {answer.status}, {'empty' if not answer.body else f'no JSON ({known})'}"
    if isinstance(body, dict):
        return f"HTTP {answer.status}, a JSON object with the fields {', '.join(names_of(body)) or 'unknown'}"
    return f"HTTP {answer.status}, a JSON {'list' if isinstance(body, list) else 'value'}"


def names_of(value: Any) -> list[str]:
    """Return the names of an object's fields, those that are words: an id may be a name, too."""
    return sorted(name for name in value if _FIELD.fullmatch(name))[:40] if isinstance(value, dict) else []


def _equality(first: list[Any], second: list[Any]) -> str:
    return "equal" if first == second else "different"


def _problem(error: Exception) -> str:
    """Say what went wrong, without the text of a server."""
    status = f", HTTP {error.status}" if isinstance(error, B2CopyError) and error.status else ""
    return f"no usable answer ({type(error).__name__}{status})"
