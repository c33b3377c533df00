"""The URL that logs a client in to B2COPY without a password (only for a standalone solution).

Documentation: docs.b2copy.b2broker.com, seamless-authorization-only-for-a-standalone-solution. Anybody who has the URL
is logged in. So nothing of the answer is quoted, and the token in it is shown by no repr.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

from pydantic import Field, PlainSerializer, SecretStr

from worker.b2copy.response_mapping import data_of
from worker.b2copy.route import Request, Route
from worker.errors import UnknownOutcome

_NAME = "auth_url"

Hidden = Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value())]
"""A secret that a request carries: shown by no repr, written only into the message."""


class Visitor(Request):
    """Whom the URL logs in: `account` is the MT login, `secret_key` the one that the Back Office shows."""

    account: str = Field(alias="account_id", min_length=1)
    secret_key: Hidden
    platform: str = Field("1", alias="investment_platform_id", min_length=1)


class SeamlessUrl:
    """`reveal()` is the URL, `token` what stands last in its path. No repr, log line or pickle shows it.

    The token is empty if the URL has none, or if it cannot be split, like one with a bracket that is not closed.
    """

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def reveal(self) -> str:
        return self._url

    @property
    def token(self) -> SecretStr:
        try:
            path = urlsplit(self._url).path
        except ValueError:
            path = ""
        return SecretStr(path.rstrip("/").rpartition("/")[2])

    def __repr__(self) -> str:
        return "<SeamlessUrl>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a seamless URL is a login: pass on what reveal() returns, to the client alone")


def read_url(body: Any, sent: Mapping[str, Any]) -> SeamlessUrl:
    """Return the URL. The documentation does not name its field: it is the only https URL of the answer.

    Raises `UnknownOutcome` if there is not exactly one, or if it does not end in a token.
    """
    data = data_of(body, _NAME, is_secret=True)
    values = data.values() if isinstance(data, dict) else [data]
    urls = [SeamlessUrl(value) for value in values if isinstance(value, str) and value.startswith("https://")]
    if len(urls) != 1 or not urls[0].token.get_secret_value():
        raise UnknownOutcome(f"{_NAME}: an answer with {len(urls)} URLs, or with one that has no token", 200)
    return urls[0]


GET_AUTH_URL = Route(
    name=_NAME,
    page_url="https://docs.b2copy.b2broker.com/seamless-authorization-only-for-a-standalone-solution",
    method="POST",
    path="/api/v1/standalone/auth/getAuthUrl",
    read=read_url,
    login=None,
    has_effect=False,
    also_as={"secret_key": "secrete_key"},
    secrets=("secret_key",),
    is_secret=True,
)
