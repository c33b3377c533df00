"""Random requests to the console: every route and method, any person, any parameters, fields and headers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

from hypothesis import strategies as st
from starlette.testclient import TestClient

from tasks.registry import ALL_KINDS
from tests.console.conftest import ADDRESS, EVERYBODY, As
from tests.console.markup import check
from worker.console.app import PAGES, make_app
from worker.console.operation_actions import ACTIONS
from worker.console.process_state import Console
from worker.ledger import open_ledger
from worker.ledger.query_limits import limit_queries
from worker.settings import ConsoleSettings

CANARY = "<zz9 onload=a>"
PATHS = [page.path for page in PAGES]
_TEXTS = (
    CANARY, f'"{CANARY}', f"'{CANARY}", "javascript:zz9", "\x00", "\ud800", "\u202e\x1b[31m", "x" * 5_000, "%", "_",
    "\\", "-1", "0", "1", "2", "9" * 40, str(2**63), "1e9", "\u0663", "5m", "999999d", "2026-02-30T25:61",
    "2026-11-26T14:30", "0001-01-01", "9999-12-31", "all", "money", "bulk", "failed", "open", "waiting", "unresolved",
    "rejected", "oldest", "fees.process", "call", "fees.process:W1", "fees.process:W2", "fees.process:W3",
    "call:create-77", "pause:bulk", "book-3f9a2c11", "march-77aa01bc",
    "A1", "a good reason of mine", "1-1.1764154534000", "7-1.1 8-1.2", "{{7*7}}",
    "9" * 18 + "-1.1",
)  # fmt: skip
_NAMES = (
    "key", "find", "state", "lane", "kind", "reason", "account", "batch", "since", "until", "older", "newer", "age",
    "sort", "after", "actor", "subject", "before", "made", "renewed", "id", "note", "seen", "form", "shown",
    "client_id", "payment_account", "account_id", "batch", "unknown",
)  # fmt: skip
_ACTIONS = (*ACTIONS, "pause", "resume", "renew", "approve", "reject", "withdraw", "..", CANARY)
# By chance alone hardly a request would do anything: what people do, and to what that is there.
_DEEDS = (
    *(("/operation/{action}", action, ("key", f"fees.process:W{n}")) for action in ACTIONS for n in (1, 2, 3)),
    *(("/fleet/{action}", action, ("lane", lane)) for action in ("pause", "resume") for lane in ("money", "all")),
    *(("/imports/{action}", action, ("batch", "book-3f9a2c11")) for action in ("pause", "resume", "cancel")),
    *(("/approvals/{action}", action, ("id", "1")) for action in ("approve", "reject")),
    ("/approvals/withdraw", "", ("id", "1")),
    ("/bulk/replay", "", ("state", "failed")),
)
_values = st.sampled_from(_TEXTS) | st.text(max_size=30)
_pairs = st.lists(st.tuples(st.sampled_from(_NAMES) | st.text(max_size=8), _values), max_size=6)
_headers = st.fixed_dictionaries(
    {"x-test-person": st.sampled_from([*EVERYBODY, "stranger"])},
    optional={
        "sec-fetch-site": st.sampled_from(["same-origin"] * 4 + ["cross-site", "zz9"]),
        "origin": st.sampled_from([ADDRESS, "null", "http://evil.example", "<zz9"]),
        "content-type": st.sampled_from(["application/x-www-form-urlencoded", "multipart/form-data", "zz9"]),
        "cookie": st.sampled_from(["b2copy=zz9", "=", ";"]),
        "hx-request": st.just("true"),
    },
)


class Request(NamedTuple):
    """One request. Parameters and fields may hold what no text may hold: they are sent as bytes."""

    method: str
    path: str
    action: str
    query: list[tuple[str, str]]
    fields: list[tuple[str, str]] | bytes
    headers: Mapping[str, str]


def requests(paths: list[str] = PATHS) -> st.SearchStrategy[Request]:
    """Return requests to these paths, and to some that show or change nothing."""
    others = ["/healthz", "/readyz", "/login", "/logout", "/static/", f"/{CANARY}"]
    acting = st.builds(
        lambda deed, others, fields, person: Request(
            "POST", deed[0], deed[1], [deed[2], *others], [*fields, ("note", "a good reason of mine")],
            {"x-test-person": person, "origin": ADDRESS, "content-type": "application/x-www-form-urlencoded"},
        ),
        st.sampled_from([deed for deed in _DEEDS if deed[0] in paths] or _DEEDS),
        st.just([]) | _pairs,
        st.just([]) | _pairs,
        st.sampled_from(["ann", "bob", "operator", "approver"]),
    )  # fmt: skip
    return acting | st.builds(
        Request,
        st.sampled_from(["GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"]),
        st.sampled_from(paths * 3 + others),
        st.sampled_from(_ACTIONS),
        _pairs,
        _pairs | st.binary(max_size=60),
        _headers,
    )


@contextmanager
def console_on(url: str) -> Iterator[TestClient]:
    """Open a console on a ledger, with people of every role."""
    ledger = open_ledger(url, pool_size=2, max_overflow=0)
    limit_queries(ledger.engine)
    settings = ConsoleSettings(database_url=url, redis_url="redis://127.0.0.1:1/0")
    console = Console(ledger, settings, As(**EVERYBODY), ALL_KINDS, False, "no keys", lambda lane: None)
    with TestClient(make_app(console), base_url=ADDRESS, follow_redirects=False) as client:
        yield client
    ledger.close()


def send(client: TestClient, request: Request) -> int:
    """Send a request. Fails if the console has a fault, or if what it was sent becomes markup. Returns the status."""
    path = quote_from_bytes(_bytes(request.path.replace("{action}", request.action)), safe="/.")
    body = request.fields if isinstance(request.fields, bytes) else _encoded(request.fields)
    answer = client.request(
        request.method, f"{path}?{_encoded(request.query).decode()}", content=body, headers=dict(request.headers)
    )
    assert answer.status_code < 500, (answer.status_code, answer.text)
    kind = answer.headers.get("content-type", "")
    if kind.startswith("text/html") and request.method != "HEAD":
        assert "<zz9" not in answer.text
        check(answer.text, request)
    else:
        assert kind.partition(";")[0] in {"", "text/plain", "text/csv", "application/json", "text/html"}, kind
    assert answer.headers["x-content-type-options"] == "nosniff"
    location = answer.headers.get("location", "/")
    assert location.startswith(("/", ADDRESS + "/")), location
    assert not location.startswith("//"), location
    return answer.status_code


def _encoded(pairs: list[tuple[str, Any]]) -> bytes:
    return "&".join("=".join(quote_from_bytes(_bytes(text)) for text in pair) for pair in pairs).encode()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
