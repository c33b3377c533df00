"""`python -m tests.cli.screenshots FOLDER`: `status --watch` and `doctor` as terminals of 80 and 120 columns show them.

Both once with nothing to look at, and once with faults planted. Needs chromium, as `make browser` does.
"""

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.cli.terminal import shown
from tests.console import browser
from tests.operations import fail_operation, hold_operation, make_wait, record_operations, succeed_operation
from worker.ledger import Ledger, open_ledger, pause
from worker.operation import WaitReason
from worker.testbed.local_system import Environment, wait_for_worker

COMMANDS = {"status": ["status", "--watch"], "doctor": ["doctor"]}
WIDTHS = (80, 120)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with Environment() as environment, browser.started() as chromium:
        ledger = open_ledger(environment.database_url, create=True)
        environment.settings["B2COPY_RATE_LIMIT"] = "10/second"
        with environment.broker.client as client:
            client.config_set("appendonly", "yes")
        wait_for_worker(environment.worker())
        for number in range(20):
            succeed_operation(ledger, f"W{number}")
        for state in ("fine", "faults"):
            if state == "faults":
                plant(ledger, environment)
            for name, arguments in COMMANDS.items():
                for columns in WIDTHS:
                    svg = picture(shown(arguments, columns, environment.variables), columns, " ".join(arguments))
                    page = chromium.new_page(viewport={"width": columns * 13, "height": 100})
                    page.set_content(svg)
                    page.locator("svg").screenshot(path=folder / f"{name}-{state}-{columns}.png")
                    page.close()
        ledger.close()


def plant(ledger: Ledger, environment: Environment) -> None:
    """Let B2COPY refuse our address, and Redis evict. Somebody has paused a lane, and some operations have failed."""
    for number in range(12):
        make_wait(ledger, hold_operation(ledger, f"N{number}", lane="bulk"), wait_reason=WaitReason.NO_ACCESS)
        fail_operation(ledger, f"F{number}")
    pause(ledger, "bulk", "ann@desk", "B2COPY is upgraded until 18:00")
    record_operations(ledger, "B1", "B2", lane="bulk")
    with environment.broker.client as client:
        client.config_set("maxmemory-policy", "allkeys-lru")


def picture(screen: str, columns: int, title: str) -> str:
    """Return the screen as SVG. A line that is longer than the terminal is broken where the terminal breaks it."""
    console = Console(record=True, width=columns, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    for line in Text.from_ansi(screen).split("\n", allow_blank=True):
        for part in line.divide(range(columns, len(line), columns)) if len(line) > columns else [line]:
            console.print(part, no_wrap=True, crop=False)
    return console.export_svg(title=f"b2copy-sync {title}")


if __name__ == "__main__":
    main()
