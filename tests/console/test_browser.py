"""The console in a real Chromium: without JavaScript, with it, and against foreign pages.

`make test` takes the way of an operator and the foreign pages; `make browser` takes all of it, and then chromium and
playwright must be there (TEST_BROWSER=required).
"""

import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console import browser
from tests.console.conftest import EVERYBODY, As
from tests.console.sample import fill, fill_minutes
from tests.console.screenshots import PAGES
from tests.console.server import listening
from tests.operations import find_operation, record_operations
from worker.console.serve import make_console
from worker.ledger import Ledger, active_flags, audit_of, open_ledger
from worker.operation import State
from worker.settings import ConsoleSettings

ABSENT = browser.why_absent()
REQUIRED = os.environ.get("TEST_BROWSER") == "required"
if ABSENT and REQUIRED:
    raise RuntimeError(ABSENT)
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
long_run = pytest.mark.skipif(not REQUIRED, reason="takes long: make browser")

# A foreign name that leads to this machine, as an attacker's page would have one.
FOREIGN = "--host-resolver-rules=MAP *.example 127.0.0.1"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.started(FOREIGN) as started:
        yield started


@pytest.fixture(scope="module")
def served(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Ledger]]:
    path = tmp_path_factory.mktemp("console") / "ledger.db"
    shutil.copy(migrated_file, path)
    ledger = open_ledger(f"sqlite:///{path}")
    fill(ledger)
    fill_minutes(ledger)
    settings = ConsoleSettings(database_url=f"sqlite:///{path}", redis_url="redis://127.0.0.1:1/0")
    console = make_console(settings, True, lambda lane: None)
    console.access = As(**EVERYBODY)
    with listening(console) as address:
        yield address, ledger
    console.ledger.close()
    ledger.close()


@pytest.fixture(scope="module")
def seen() -> dict[str, list[str]]:
    """What the pages asked for and complained about."""
    return {"requests": [], "messages": []}


def open_page(chromium: Any, seen: dict[str, list[str]], **options: Any) -> Any:
    context = chromium.new_context(**options)
    page = context.new_page()
    page.on("request", lambda request: seen["requests"].append(request.url))
    page.on("console", lambda message: seen["messages"].append(message.text))
    page.on("pageerror", lambda error: seen["messages"].append(str(error)))
    return page


def test_without_javascript_a_person_finds_an_operation_and_replays_it(
    chromium: Any, served: tuple[str, Ledger], seen: dict[str, list[str]]
) -> None:
    address, ledger = served
    page = open_page(chromium, seen, java_script_enabled=False)
    page.goto(address)
    page.get_by_role("searchbox").fill("W3")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{address}/operation?key=*")
    assert page.get_by_role("heading", level=1).inner_text() == "fees.process:W3"
    assert "no open positions" in page.inner_text("main")

    page.get_by_role("link", name="Replay").click()
    page.get_by_label("Your reason").fill("the account has positions again")
    page.get_by_role("button", name="Replay").click()
    page.wait_for_url(f"{address}/operation?key=fees.process%3AW3")

    assert "queued" in page.inner_text(".standing")
    assert find_operation(ledger, "W3").state == State.QUEUED
    page.context.close()


@long_run
def test_without_a_mouse_a_lane_is_paused(
    chromium: Any, served: tuple[str, Ledger], seen: dict[str, list[str]]
) -> None:
    address, ledger = served
    page = open_page(chromium, seen)
    page.goto(f"{address}/fleet/pause?lane=default")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("the default lane makes trouble")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{address}/system**")

    assert active_flags(ledger)["pause:default"].note == "the default lane makes trouble"
    page.context.close()


def test_a_double_click_acts_once(chromium: Any, served: tuple[str, Ledger], seen: dict[str, list[str]]) -> None:
    address, ledger = served
    page = open_page(chromium, seen, java_script_enabled=False)
    page.goto(f"{address}/operation/resolve-done?key=call:create-77")
    page.get_by_label("Your reason").fill("the account stands in B2COPY's list")
    page.get_by_role("button", name="It was done").dblclick()
    page.wait_for_url(f"{address}/operation?key=call%3Acreate-77")

    assert [entry.action for entry in audit_of(ledger, "call:create-77")] == ["resolve, succeeded"]
    page.context.close()


@long_run
def test_a_refresh_shows_news_and_leaves_text_focus_selection_and_what_is_open(
    chromium: Any, served: tuple[str, Ledger], seen: dict[str, list[str]]
) -> None:
    address, ledger = served
    page = open_page(chromium, seen)
    page.goto(f"{address}/operations?state=queued&lane=money")
    page.evaluate("document.getElementById('find').focus(); document.getElementById('find').value = 'half a name'")
    record_operations(ledger, "fresh")
    page.get_by_role("link", name="fees.process:fresh").wait_for(timeout=15_000)

    assert page.evaluate("[document.activeElement.id, document.activeElement.value]") == [
        "find",
        "half a name",
    ]

    page.locator("input[name=account]").fill("typing in the filter")
    asked = len(seen["requests"])
    page.wait_for_timeout(3_500)
    assert len(seen["requests"]) == asked, "a page with typed text refreshes itself"

    page.goto(address)
    page.locator("summary").first.click()
    with page.expect_response(f"{address}/"):
        pass
    page.wait_for_timeout(100)
    assert page.locator("details").first.evaluate("details => details.open")
    page.context.close()


def test_a_page_of_another_origin_changes_nothing(
    chromium: Any, served: tuple[str, Ledger], seen: dict[str, list[str]], tmp_path: Path
) -> None:
    address, ledger = served
    port = address.rpartition(":")[2]
    (tmp_path / "evil.html").write_text(
        f'<form method="post" action="http://127.0.0.1:{port}/fleet/pause?lane=money">'
        '<input name="note" value="from a foreign page"><button>Win</button></form>'
    )
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: handler(*given, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answers = []
    context = chromium.new_context()
    for host in ("evil.example", "127.0.0.1", "localhost"):  # another site, another port, another name
        page = context.new_page()
        page.goto(f"http://{host}:{server.server_port}/evil.html")
        with page.expect_navigation() as navigation:
            page.click("button")
        answers.append(navigation.value.status)
    page = context.new_page()
    answers.append(page.goto(f"http://rebound.example:{port}/").status)
    context.close()
    server.shutdown()
    server.server_close()

    assert answers == [403, 403, 403, 403]
    assert "pause:money" not in active_flags(ledger)


@long_run
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_an_accessibility_fault_or_is_wider_than_a_phone(
    chromium: Any, served: tuple[str, Ledger], seen: dict[str, list[str]], scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    address, _ = served
    page = open_page(chromium, seen, color_scheme=scheme, viewport={"width": 360, "height": 740}, bypass_csp=True)
    for name, path in PAGES.items():
        page.goto(address + path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{name} is {width} wide"
        found = Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == [], name
    page.context.close()


def test_no_page_asks_another_host_or_complains(served: tuple[str, Ledger], seen: dict[str, list[str]]) -> None:
    address, _ = served

    assert seen["requests"]
    assert [url for url in seen["requests"] if not url.startswith(f"{address}/")] == []
    assert [text for text in seen["messages"] if "400 (Bad Request)" not in text] == []
