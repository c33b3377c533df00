"""B2COPY's API: every route is sent the same way."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from worker.b2copy.response_mapping import value_of
from worker.b2copy.route import Request, Route
from worker.b2copy.routes import account_create, account_list, client_registration, leaderboard, seamless_login
from worker.b2copy.routes import fees as fee_run
from worker.b2copy.routes import statistics as statistics_widget
from worker.b2copy.routes.account_fields import Account
from worker.errors import AccessRejected, B2CopyError, CredentialsRejected, OtherLoginUnavailable, SessionUnavailable
from worker.http import Answer, Http
from worker.http.client import outcome_of_lost
from worker.http.curl import always_allowed
from worker.operation import OnUnknown
from worker.watch.blank_secret import without_secret

A = TypeVar("A")

SERVICE_ADMIN = "service_admin"
"""The login that most routes need. Its faults stop everything, those of another login only the routes that need it."""


class B2Copy:
    """B2COPY, through one authenticated HTTP client.

    Every method sends one request and raises the errors of `worker.errors`. An operation of the ledger does not call
    these methods but `worker.operation_kind.Attempt.call`, which passes the gate and leaves evidence.
    """

    def __init__(self, http: Http, logins: Mapping[str, str] | None = None) -> None:
        """`logins` says which login the route groups `accounts` and `widgets` use: the service admin's by default."""
        self._http = http
        self._logins = {"accounts": SERVICE_ADMIN, "widgets": SERVICE_ADMIN, **(logins or {})}

    async def send(
        self,
        route: Route[A],
        body: Mapping[str, Any],
        on_unknown: OnUnknown,
        before_send: Callable[[], None] = always_allowed,
    ) -> A:
        """Send one request and return what the route reads in its answer. Raises the errors of `worker.errors`.

        `before_send`: see `Http.request`.
        """
        message, login = route.message(body), self.login_of(route)
        try:
            answer = await self._http.request(
                route.method, message.path, query=message.query, json=message.body, login=login, on_unknown=on_unknown,
                before_send=before_send, route=route.name,
            )  # fmt: skip
        except (CredentialsRejected, SessionUnavailable) as error:
            if login == SERVICE_ADMIN:
                raise
            raise OtherLoginUnavailable(f"no token of {login}", error.status, str(error), error.retry_after) from None
        is_quoted = not (route.is_secret and 200 <= answer.status < 300)
        if route.secrets and is_quoted:  # otherwise the answer must stay whole: a secret may be a word of its URL
            answer = _without(answer, [body[name] for name in route.secrets])
        try:
            return route.read(value_of(answer, route.name, route.is_secret, route.is_grpc), body)
        except B2CopyError as error:
            if isinstance(error, AccessRejected) and error.status == 401 and login is not None:
                await self._http.report_refused_in_body(answer.token, login, route.name)  # the answer itself was 2xx
            if not answer.first_was_lost:
                raise
            raise outcome_of_lost(route.name, error) from None

    async def ask_for_token(self) -> None:
        """Get the service admin's access token, as a request does. Raises what `SharedSession.current` raises."""
        await self._http.token(SERVICE_ADMIN)

    def login_of(self, route: Route[Any]) -> str | None:
        """Return the login whose token the route's requests carry, None if they carry none."""
        return route.login and self._logins.get(route.login, route.login)

    async def process_fees(self, account_login: str, request_id: str) -> fee_run.FeeStatus:
        """Start the fee run of a withdrawal, or ask how far it is."""
        body = {"account_login": account_login, "request_id": request_id}
        return await self.send(fee_run.PROCESS, body, OnUnknown.START_OR_GET)

    async def accounts(self, search: account_list.AccountSearch) -> list[Account]:
        """Return one page of the master and investment accounts that match. Some may have an empty number."""
        return await self._look(account_list.LIST, search)

    async def create_account(self, account: account_create.NewAccount) -> Account:
        """Create a master or investment account for an MT login that exists."""
        return await self.send(account_create.CREATE, account.fields(), OnUnknown.STOP)

    async def account_detail(self, account: statistics_widget.OfAccount) -> statistics_widget.Detail:
        """Return what the statistics widget shows about an account."""
        return await self._look(statistics_widget.DETAIL, account)

    async def account_statistics(self, account: statistics_widget.OfAccount) -> statistics_widget.Statistics:
        """Return the figures of the statistics widget."""
        return await self._look(statistics_widget.STATISTICS, account)

    async def leaderboard(self, board: leaderboard.Board) -> list[leaderboard.Leader]:
        """Return the master accounts of the leaderboard widget."""
        return await self._look(leaderboard.LEADERBOARD, board)

    async def seamless_url(self, visitor: seamless_login.Visitor) -> seamless_login.SeamlessUrl:
        """Return the URL that logs a client in. Anybody who has the URL is logged in: do not log or store it."""
        return await self._look(seamless_login.GET_AUTH_URL, visitor)

    async def start_wizard(self) -> str:
        """Return the UUID of a new wizard, in which a client is registered."""
        return await self.send(client_registration.INIT, {}, OnUnknown.REPEAT)

    async def register_client(self, client: client_registration.NewClient) -> client_registration.Client:
        """Register a client, which gives it a payment account."""
        return await self.send(client_registration.REGISTER, client.fields(), OnUnknown.STOP)

    async def _look(self, route: Route[A], request: Request) -> A:
        """Send a request without an effect."""
        return await self.send(route, request.fields(), OnUnknown.REPEAT)


def _without(answer: Answer, secrets: list[str]) -> Answer:
    """Return the answer without these secrets, which some servers repeat."""
    body = answer.body
    for secret in secrets:
        body = without_secret(body, secret)
    return replace(answer, body=body)
