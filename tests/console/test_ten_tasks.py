"""An operator's ten tasks in a real Chromium, and what each costs."""

from contextlib import closing
from pathlib import Path

import pytest

from tests.console import browser
from tests.console.conftest import EVERYBODY, As
from tests.console.server import listening
from tests.console.ten_tasks import TASKS, Hand, fill_for_tasks
from tests.console.test_browser import long_run
from worker.console.serve import make_console
from worker.ledger import open_ledger
from worker.session import SharedSession
from worker.settings import ConsoleSettings, Settings, load
from worker.testbed.local_system import Environment

ABSENT = browser.why_absent()
HANDBOOK = Path(__file__).parents[2] / "deploy" / "README.md"


def test_the_handbook_says_what_each_task_costs() -> None:
    rows = [f"| {task.question} | {task.clicks} | {task.texts} |" for task in TASKS]

    assert "\n".join(rows) in HANDBOOK.read_text()


@long_run
@pytest.mark.skipif(bool(ABSENT), reason=ABSENT)
@pytest.mark.timeout(300)
def test_ten_tasks_are_done_with_the_console_alone(
    active_environment: Environment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SharedSession(load(Settings)).current()
    ledger = open_ledger(active_environment.database_url)
    fill_for_tasks(ledger)
    console = make_console(load(ConsoleSettings), True, lambda lane: None)
    console.access = As(**EVERYBODY)
    rows = []
    with closing(ledger), closing(console.ledger), listening(console) as address, browser.started() as chromium:
        context = chromium.new_context(extra_http_headers={"x-test-person": "bob"}, accept_downloads=True)
        for task in TASKS:
            hand = Hand(context.new_page(), address)
            task.do(hand, ledger, tmp_path)
            rows.append((task, hand.clicks, hand.texts))

    with capsys.disabled():
        print(f"\n{'clicks':>6} {'texts':>5}  task")
        for task, clicks, texts in rows:
            print(f"{clicks:6} {texts:5}  {task.question}")
    assert [(task.question, clicks, texts) for task, clicks, texts in rows] == [
        (task.question, task.clicks, task.texts) for task in TASKS
    ]
