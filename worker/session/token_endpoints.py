"""Requests to token endpoints, and what their answers mean. Nothing here repeats a request: the leader decides.

Source: B2COPY's "Integrate your external CRM system with B2COPY API", and RFC 6750 for the shape of a token.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import requests

from worker.errors import CredentialsRejected, RateLimited, Unavailable, UnknownOutcome
from worker.http import USER_AGENT, Answer, Transport
from worker.http.answer import NOT_PROCESSED, AmbiguousJson, one_line
from worker.session.secret import Secret
from worker.session.timings import Timings
from worker.session.tokens import Pair, life_of
from worker.settings import Settings
from worker.watch.blank_secret import without_secret

TOKEN_LIMIT = 16 * 1024  # characters; servers refuse a header that is longer
_TOKEN = re.compile(rf"[!-~]{{1,{TOKEN_LIMIT}}}")  # visible ASCII, because a header cannot hold anything else
_READ = 16 * 1024  # bytes of an answer from which its text is taken
_MESSAGE_LIMIT = 200  # characters of it in an error


class NoAnswer(Unavailable):
    """The request was sent, and no answer came: whether what was presented is refused is not known."""


class NotFromTheApi(CredentialsRejected):
    """A 4xx that is not the API's: without a JSON object, as of a firewall, or 404. It says nothing of a password."""


Present = Callable[[requests.PreparedRequest, str], None]
"""Writes the secret that is presented onto a request."""


def as_bearer(request: requests.PreparedRequest, secret: str) -> None:
    request.headers["Authorization"] = f"Bearer {secret}"


def as_field(name: str, **others: str) -> Present:
    """Present the secret as a field of a JSON body, beside `others`."""

    def present(request: requests.PreparedRequest, secret: str) -> None:
        request.prepare_body(json.dumps({**others, name: secret}).encode(), None)
        request.headers["Content-Type"] = "application/json"

    return present


class TokenEndpoints:
    """Sends requests to token endpoints, each on a fresh connection."""

    def __init__(self, settings: Settings, timings: Timings, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._host = settings.host
        self._deadline = timings.token_deadline
        self._retry_after_max = timings.retry_after_max
        self._transport = Transport(str(settings.ca_file) if settings.ca_file else None)
        self.server_ahead: float | None = None  # the server's clock minus ours, in seconds, from its last `Date`

    def post(self, path: str, secret: Secret[str], present: Present) -> Answer:
        """Send the only kind of request there is to a token endpoint, and return a 2xx answer.

        Raises `RateLimited` for 429, `CredentialsRejected` when what was presented is refused (any other 4xx of a
        server that has processed it), and `Unavailable` for everything else: no answer, 5xx, a redirect. No frame of
        the error holds the secret.
        """
        request = requests.Request(
            "POST", self._host + path, headers={"User-Agent": USER_AGENT, "Accept": "application/json"}
        ).prepare()
        present(request, secret.reveal())
        try:
            answer = self._transport.send(request, self._deadline)
        except UnknownOutcome as error:
            raise NoAnswer(error.message) from None
        if answer.server_time is not None:
            self.server_ahead = answer.server_time - self._wall()
        return accepted(answer, f"POST {path}", secret, self._retry_after_max)


def accepted(answer: Answer, what: str, secret: Secret[str], retry_after_max: float) -> Answer:
    """Return the answer if it is a 2xx, as of any other route. Raises as `TokenEndpoints.post`."""
    if 200 <= answer.status < 300:
        return answer
    message = _message(answer, secret)
    retry_after = None if answer.retry_after is None else min(retry_after_max, answer.retry_after)
    if answer.status == 429:
        raise RateLimited(what, 429, message, retry_after)
    if 400 <= answer.status < 500 and answer.status not in NOT_PROCESSED:
        is_the_apis = answer.status == 401 or (answer.status != 404 and answer.is_json_object)
        raise (CredentialsRejected if is_the_apis else NotFromTheApi)(what, answer.status, message)
    raise Unavailable(what, answer.status, message, retry_after)


def read_pair(answer: Answer, what: str) -> Pair:
    """Read a token pair. Raises `Unavailable` if it is none, and quotes nothing: the body may hold a token."""
    pair = _pair_of(answer)
    if isinstance(pair, str):
        raise Unavailable(f"{what}: {pair}", answer.status)
    return pair


def is_token(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def _pair_of(answer: Answer) -> Pair | str:
    """Return the pair, or what is wrong. It raises nothing, because its frame holds the tokens."""
    try:
        body = answer.json()
    except AmbiguousJson:
        return "the answer gives two values to one name"
    except ValueError:
        return "the answer is not JSON"
    if not isinstance(body, Mapping):
        return "the answer is not a JSON object"
    access = body.get("accessToken") or body.get("access_token")
    refresh = body.get("refreshToken") or body.get("refresh_token")
    expires_in = body.get("expiresIn") or body.get("expires_in")
    if not is_token(access):
        return "the answer holds no usable access token"
    secret = Secret(access)
    return Pair(secret, Secret(refresh) if is_token(refresh) else None, life_of(secret, answer.server_time, expires_in))


def _message(answer: Answer, secret: Secret[str]) -> str | None:
    """Return the server's own text as one line, without what was presented: some servers repeat it."""
    text = without_secret(answer.body[:_READ], secret.reveal()).decode("utf-8", "replace")
    return one_line(text)[:_MESSAGE_LIMIT] or None
