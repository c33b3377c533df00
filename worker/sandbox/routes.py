"""The routes of B2COPY's documentation: method, path and our name for each. One request as it arrived."""

import json
from dataclasses import dataclass
from typing import Any

from yarl import URL

from worker.sandbox.responses import Refused

# Generation 2, "Admin v2"
AUTH = "/api/admin/auth/v2/admin/adminservice/authexternalcrm"
REFRESH = "/api/admin/auth/v2/admin/adminservice/refreshtoken"
PROCESS = "/api/admin/fees/v2/fee/feeservice/processext"
ADMIN = "/api/admin/"  # the paths of all methods of generation 2 begin with it
_ADMIN_SEGMENTS = 5  # that follow at most: domain, version, package, service, method
# Generation 1, "Back Office"
SIGN_IN = "/api/v2/signin"
ACCOUNTS = "/api/v2/b2copy/accounts"
CREATE = "/api/v2/b2copy/accounts/create"
DETAIL = "/api/v1/investment/widget/detail/"  # the account follows
STATISTICS = "/api/v1/investment/widget/statistics/"  # the account follows
LEADERBOARD = "/api/v1/investment/widget/leaderboard"
AUTH_URL = "/api/v1/standalone/auth/getAuthUrl"
INIT = "/api/v1/standalone/auth/init"
WIZARDS = "/api/v1/wizards/"  # the UUID follows
GENERATION1 = ("/api/v1/", ACCOUNTS)  # how the paths begin whose answers may have an envelope

_BY_PATH = {
    ("POST", AUTH): "authexternalcrm",
    ("POST", REFRESH): "refreshtoken",
    ("POST", PROCESS): "processext",
    ("POST", SIGN_IN): "signin",
    ("GET", ACCOUNTS): "accounts.list",
    ("POST", CREATE): "accounts.create",
    ("GET", LEADERBOARD): "widget.leaderboard",
    ("POST", AUTH_URL): "auth_url",
    ("GET", INIT): "wizard.init",
}
_BY_PREFIX = (
    ("GET", DETAIL, 1, "widget.detail"),
    ("GET", STATISTICS, 1, "widget.statistics"),
    ("POST", WIZARDS, 1, "wizard"),
    ("POST", ADMIN, _ADMIN_SEGMENTS, "call"),
)


def route_of(method: str, path: str) -> str:
    """Return the name of the route, or `unknown`."""
    if route := _BY_PATH.get((method, path)):
        return route
    for prefix_method, prefix, most, route in _BY_PREFIX:
        segments = path.removeprefix(prefix).split("/")
        if method == prefix_method and path.startswith(prefix) and all(segments) and len(segments) <= most:
            return route
    return "unknown"


@dataclass(slots=True)
class Call:
    """One request as it arrived. `authorization` is the raw header, `peer` the caller's IP address."""

    method: str
    url: URL
    authorization: str
    raw: bytes
    peer: str

    def bearer(self) -> str:
        """Return the token. Raises Refused (401) if there is none."""
        scheme, _, token = self.authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused(401, "Authorization: Bearer is missing")
        return token

    def json(self) -> Any:
        """Return the parsed body. Raises Refused (400) if it is not JSON."""
        try:
            return json.loads(self.raw)
        except (ValueError, RecursionError):
            raise Refused(400, "the body is not JSON") from None

    def last_segment(self) -> str:
        """Return the last segment of the path, which names an account or a wizard."""
        return self.url.path.rpartition("/")[2]
