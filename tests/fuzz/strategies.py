"""Random input that is often nearly right: wholly random bytes are refused at the first check."""

import base64
import json
from typing import Any

from hypothesis import strategies as st

from worker.settings import Settings

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_ids = st.text(max_size=12) | st.sampled_from(
    [
        "7",
        "00123",
        "W1",
        "W~1",
        "1.5e5",
        "nan",
        "\u202d7",
        "7\u200b",
        "\uff17",
        "a b",
        "é",
        "\ud800",
        "x" * 300,
        "",
        "=1",
        "\x00",
    ]
)
_paths = st.sampled_from(
    ["/api/admin/x/v1/p/s/m", "/api/admin/Auth/v2/a/b/c", "/api/admin/../x",
     "/api/admin/fees/v2/fee/feeservice/PROCESSEXT"]
) | st.text(max_size=40)  # fmt: skip
_fields = {
    "account_login": _ids,
    "request_id": _ids,
    "path": _paths,
    "payload": st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    "key": _ids,
    "entity": _ids | st.none(),
    "parent": _ids | st.none() | st.just("call:W1"),
    "repeatable": st.booleans(),
}
_named = st.fixed_dictionaries({}, optional={name: values | json_values for name, values in _fields.items()})
_kwargs = st.one_of(
    st.fixed_dictionaries({"account_login": _ids, "request_id": _ids}),
    st.fixed_dictionaries({"path": _paths, "payload": _fields["payload"], "key": _ids}, optional={"entity": _ids}),
    _named,
    st.dictionaries(st.text(max_size=8), json_values, max_size=3),
)


def arguments() -> st.SearchStrategy[tuple[list[Any], dict[str, Any]]]:
    """Arguments of a message, as they come out of JSON."""
    return st.tuples(st.lists(json_values | _ids, max_size=4), _kwargs).map(lambda pair: json.loads(json.dumps(pair)))


_URLS = {"database_url", "redis_url", "host"}  # settings that may hold a password


@st.composite
def envelopes(draw: st.DrawFn) -> bytes:
    """Items of a queue: whole messages, messages with something else in a place, and bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    parts = [draw(st.lists(json_values, max_size=3)), draw(_kwargs), draw(st.just({}) | json_values)]
    content: Any = draw(st.just(parts) | st.just({"args": parts[0], "kwargs": parts[1]}) | json_values)
    raw = draw(st.just(json.dumps(content).encode()) | st.binary(max_size=80))
    header = st.text(max_size=20) | json_values
    headers = {"task": "b2copy.fees.process", "id": draw(st.text(min_size=1, max_size=40))}
    headers |= draw(
        st.dictionaries(
            st.sampled_from(["task", "id", "origin", "eta", "expires", "problem", "compression", "lang"]),
            header,
            max_size=3,
        )
    )
    whole = {
        "body": base64.b64encode(raw).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {"body_encoding": "base64", "delivery_tag": "t"},
    }
    whole |= (
        draw(st.dictionaries(st.sampled_from(sorted(whole)), json_values, max_size=2)) if draw(st.booleans()) else {}
    )
    return json.dumps(whole).encode("utf-8", "surrogatepass")


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, list[bytes], bytes]:
    """Status, header lines and body of an answer."""
    status = draw(
        st.sampled_from([200, 201, 202, 204, 205, 301, 307, 400, 401, 403, 404, 408, 409, 425, 429, 500, 501, 503])
        | st.integers(100, 999)
    )
    value = st.binary(max_size=40) | st.sampled_from(
        [
            b"0",
            b"5",
            b"-1",
            b"1e400",
            b"\xb2",
            b"Wed, 21 Oct 2015 07:28:00 GMT",
            b"Fri, 01 Jan 0001 00:00:00 GMT",
            b"9" * 30,
        ]
    )
    names = st.sampled_from(
        [b"Retry-After", b"Date", b"Content-Length", b"Transfer-Encoding", b"Content-Type"]
    ) | st.binary(max_size=10)
    lines = draw(st.lists(st.builds(lambda name, text: name + b": " + text, names, value), max_size=4))
    state = st.sampled_from([0, 1, 2, 3, 4, "2", "FEE_PROCESS_STATUS_SUCCESS", 2.0, True, None, "²"]) | json_values
    near = st.fixed_dictionaries(
        {"status": state},
        optional={
            "account_login": st.just("123456") | json_values,
            "request_id": st.just("W1") | json_values,
            "message": json_values,
            "error": json_values,
            "details": json_values,
        },
    )
    pair = st.fixed_dictionaries(
        {"accessToken": st.just("at-canary-0123456789") | json_values},
        optional={"refreshToken": st.just("rt-canary-0123456789") | json_values, "expiresIn": json_values},
    )
    raw = draw(
        st.one_of(
            (near | pair | json_values).map(lambda body: json.dumps(body).encode("utf-8", "surrogatepass")),
            st.binary(max_size=200),
            st.sampled_from([b"", b"[" * 5000, b"<" * 5000, b"\xef\xbb\xbf{}", b"1e999"]),
        )
    )
    return status, lines, raw


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Suffix and content of an import file."""
    if draw(st.booleans()):
        lines = draw(st.lists(_kwargs.map(json.dumps) | st.text(max_size=60), max_size=4))
        return ".jsonl", "\n".join(lines).encode("utf-8", "surrogatepass")
    separator = draw(st.sampled_from([",", ";", "\t"]))
    heading = draw(st.lists(st.sampled_from([*_fields, "x", "account_login "]), min_size=1, max_size=5))
    cells = st.text(max_size=15) | _ids | st.sampled_from(['"', '="1"', "'7", "#N/A", "1,234", '"a\nb"'])
    rows = [heading, *draw(st.lists(st.lists(cells, max_size=5), max_size=4))]
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(separator.join(row) for row in rows)
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return ".csv", text.encode(encoding, "replace")


def environments(secret: str) -> st.SearchStrategy[dict[str, str]]:
    """Values for some settings, among them URLs with the password `secret`."""
    text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
    host = st.sampled_from(["h", "127.0.0.1", "[::1]", "h1,h2", "h:1", "h:x", "", "h:99999"]) | text
    option = st.sampled_from(
        [
            "",
            "?db=5",
            "?sslmode=on",
            "?sslmode=require",
            "?schema=x",
            "?host=a&host=b",
            "?host=a,b&port=1,2,3",
            "?hostaddr=10.0.0.1&sslmode=verify-full",
            "?service=x&sslrootcert=/ca.pem",
            "?ssl_cert_reqs=none",
            "?socket_timeout=4",
        ]
    )
    scheme = st.sampled_from(
        ["redis", "rediss", "postgresql", "postgres", "postgresql+psycopg2", "sqlite", "https", "mysql", "unix"]
    )
    url = st.builds(
        lambda a, b, c, d: f"{a}://u:{secret}@{b}/{c}{d}", scheme, host, st.sampled_from(["", "0", "d", "9x"]), option
    )
    number = st.sampled_from(["0", "-1", "5m", "1e9", "inf", "nan", "10/second", "x/second", "\uff11", "true"])
    others = sorted(set(Settings.model_fields) - _URLS)
    return st.builds(
        lambda urls, values: urls | values,
        st.dictionaries(st.sampled_from(sorted(_URLS)), url, max_size=3),
        st.dictionaries(st.sampled_from(others), number | text, max_size=6),
    )
