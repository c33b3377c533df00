"""`python -m tests.console.screenshots FOLDER`: every page, light and dark, desktop and phone, to be looked at."""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.console import browser
from tests.console.sample import fill, fill_minutes
from tests.console.server import listening
from tests.operations import find_operation
from worker.console.serve import make_console
from worker.ledger import open_ledger
from worker.ledger.approvals import decide_or_propose
from worker.ledger.migrations import migrate
from worker.settings import ConsoleSettings, load

PAGES = {
    "now": "/",
    "work-list": "/todo",
    "operations": "/operations",
    "failed": "/operations?state=failed",
    "operation": "/operation?key=fees.process:W3",
    "unresolved": "/operation?key=call:create-77",
    "imports": "/imports",
    "import-cancel": "/imports/cancel?batch=march-77aa01bc",
    "approvals": "/approvals",
    "audit": "/audit",
    "system": "/system",
    "replay": "/operation/replay?key=fees.process:W3",
    "stop-asking": "/operation/stop-asking?key=fees.process:W2",
    "bulk": "/bulk/replay?state=failed",
    "pause": "/fleet/pause?lane=money",
    "error": "/operations?state=bogus",
}
SIZES = {"desktop": (1280, 900), "phone": (360, 740)}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        url = f"sqlite:///{temporary}/ledger.db"
        migrate(url)
        os.environ.update(B2COPY_DATABASE_URL=url, B2COPY_REDIS_URL="redis://127.0.0.1:1/0", B2COPY_FOUR_EYES="money")
        ledger = open_ledger(url)
        fill(ledger)
        fill_minutes(ledger)
        strict = replace(ledger, needs_approval=lambda kind, lane: True)
        decide_or_propose(strict, "replay", find_operation(ledger, "W3"), "ann", "the account has positions again")
        console = make_console(load(ConsoleSettings), alone=True, wake_lane=lambda lane: None)
        with listening(console) as address, browser.started() as chromium:
            for size, (width, height) in SIZES.items():
                for scheme in ("light", "dark"):
                    context = chromium.new_context(
                        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=1
                    )
                    page = context.new_page()
                    for name, path in PAGES.items():
                        page.goto(address + path)
                        page.screenshot(path=folder / f"{name}-{size}-{scheme}.png", full_page=True)
                    context.close()
        ledger.close()


if __name__ == "__main__":
    main()
