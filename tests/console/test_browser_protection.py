"""A form must come from the console's own pages, and every answer binds the browser."""

from collections.abc import Callable

import pytest

from tests.console.conftest import ADDRESS, As, client_of
from tests.console.test_roles import TABLE, address
from tests.operations import fail_operation
from worker.console.browser_protection import HEADERS, foreign_origin
from worker.console.process_state import Console
from worker.console.roles import Role
from worker.errors import SettingsError
from worker.ledger import Ledger, active_flags
from worker.settings import ConsoleSettings, load

OpenConsole = Callable[..., Console]
OWN = "https://ops.example.com"


@pytest.mark.parametrize(
    ("site", "origin", "permitted"),
    [
        ("same-origin", OWN, True),
        ("same-origin", None, True),
        ("same-site", OWN, False),
        ("same-site", "null", False),
        ("cross-site", OWN, False),
        ("cross-site", None, False),
        ("none", None, False),
        ("", None, False),
        (None, OWN, True),
        (None, "HTTPS://OPS.EXAMPLE.COM", True),
        (None, "null", False),
        (None, "http://ops.example.com", False),
        (None, "https://ops.example.com.evil.example", False),
        (None, "", False),
        (None, None, False),
    ],
)
def test_only_forms_of_our_own_pages_are_taken(site: str | None, origin: str | None, permitted: bool) -> None:
    assert (foreign_origin(site, origin, OWN) is None) == permitted


def test_a_foreign_form_changes_nothing_and_is_given_the_reason(open_console: OpenConsole, ledger: Ledger) -> None:
    client = client_of(open_console())
    form = {"note": "from somewhere else", "form": "1"}

    refused = client.post("/fleet/pause?lane=money", data=form, headers={"sec-fetch-site": "cross-site"})
    old = client.post(
        "/fleet/pause?lane=money", data=form, headers={"sec-fetch-site": "", "origin": "http://evil.example"}
    )

    assert (refused.status_code, old.status_code) == (403, 403)
    assert "Sec-Fetch-Site is cross-site" in refused.text
    assert active_flags(ledger) == {}
    assert client.post("/fleet/pause?lane=money", data=form).status_code == 303
    assert list(active_flags(ledger)) == ["pause:money"]


def test_behind_a_proxy_the_origin_is_the_one_in_the_browser(open_console: OpenConsole) -> None:
    client = client_of(open_console(console_access="proxy", console_origin=OWN))
    form = {"note": "a reason that is long enough"}
    del client.headers["sec-fetch-site"]

    assert client.post("/fleet/pause", data=form, headers={"origin": ADDRESS}).status_code == 403
    assert client.post("/fleet/pause", data=form, headers={"origin": OWN}).status_code == 303


def test_every_answer_has_the_headers(open_console: OpenConsole) -> None:
    client = client_of(open_console())

    for path in (*(address(path) for _, path in TABLE), "/healthz", "/static/console.css", "/nothing", "/static/no"):
        answer = client.get(path)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_fault_of_ours_has_the_headers_and_its_log_shows_no_payload(
    open_console: OpenConsole, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    fail_operation(ledger, "W1")
    with ledger.writing() as connection:  # as another program could have stored it
        change = "result = 'account 1007'"
        connection.exec_driver_sql(f"UPDATE b2copy_operations SET {change}")
    client = client_of(open_console())

    answer = client.get("/operation?key=fees.process:W1")

    assert (answer.status_code, "its log names where" in answer.text) == (500, True)
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert "GET /operation failed" in caplog.text
    assert "operation_of" in caplog.text
    assert "JSONDecodeError" in caplog.text
    assert "1007" not in caplog.text


@pytest.mark.parametrize(
    ("given", "own", "foreign"),
    [
        ({"console_access": "none"}, 403, 403),
        ({"console_access": "none", "console_origin": OWN}, 200, 403),
        ({"console_access": "password", "console_origin": OWN}, 200, 403),
        ({"console_access": "proxy", "console_origin": OWN}, 200, 403),
        ({"console_access": "proxy"}, 200, 200),
    ],
)
def test_only_our_own_names_are_served(
    open_console: OpenConsole, given: dict[str, str], own: int, foreign: int
) -> None:
    client = client_of(open_console(As(ann={Role.VIEWER}), **given))
    wanted = {"127.0.0.1:8080": 200, "localhost": 200, "[::1]:80": 200, "ops.example.com": own, "OPS.example.com": own}
    wanted |= {"evil.example": foreign, "ops.example.com.evil.example": foreign, "": foreign}

    for host, status in wanted.items():
        assert client.get("/", headers={"host": host}).status_code == status, host
    assert client.get("/healthz", headers={"host": "10.1.2.3:8080"}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["ops.example.com", "https://", "https://ops.example.com/", "ftp://x", "https://a@b"]
)
def test_an_origin_that_no_browser_sends_is_refused(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", "sqlite:////tmp/ledger.db")
    monkeypatch.setenv("B2COPY_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("B2COPY_CONSOLE_ORIGIN", OWN)
    assert load(ConsoleSettings).console_origin == OWN
    monkeypatch.setenv("B2COPY_CONSOLE_ORIGIN", origin)
    with pytest.raises(SettingsError, match="B2COPY_CONSOLE_ORIGIN must be scheme and host"):
        load(ConsoleSettings)


def test_a_form_has_a_limit(open_console: OpenConsole) -> None:
    client = client_of(open_console())

    assert client.post("/fleet/pause", data={"note": "x" * 70_000}).status_code == 413
    assert client.post("/fleet/pause", data={f"f{number}": "1" for number in range(600)}).status_code == 400
    assert client.post("/fleet/pause", content=b"note=a+reason+%00+long").status_code == 400
