"""Run the story of a book: ten clients are registered, their accounts opened, their withdrawals' fees charged."""

import time

from worker.demo.book import CLIENTS, BookReport, Client, line_of
from worker.demo.book_view import BookView
from worker.demo.interrupts import Interrupts
from worker.demo.run import INTERVAL_S, QUICK_POLLS, TIME_LIMIT_S, TOKEN_LIFETIME_S, run_and_report, start
from worker.demo.view import View
from worker.ledger import find_many
from worker.operation import State
from worker.testbed.local_system import Environment

PRODUCT_CURRENCY_ID = 1


def run_book(view: View, console: bool = False) -> BookReport:
    """Run the story and return the report. Raises as `worker.demo.run.run`."""
    clients = [Client(number) for number in range(1, CLIENTS + 1)]
    book_view = BookView(view)
    book_view.opening()
    environment = Environment(
        access_lifetime=TOKEN_LIFETIME_S, clients="registered", logins={one.login: one.rule for one in clients}
    )
    secret = environment.folder / "seamless-secret"
    secret.write_text("sandbox-secret")  # the sandbox's own, see its switches
    secret.chmod(0o600)
    environment.settings |= {**QUICK_POLLS, "B2COPY_SEAMLESS_SECRET_FILE": str(secret)}
    return run_and_report(
        environment,
        view,
        lambda interrupts: _run(clients, environment, book_view, interrupts, console),
        book_view.report,
        console,
    )


def _run(
    clients: list[Client], environment: Environment, view: BookView, interrupts: Interrupts, console: bool
) -> BookReport:
    start(environment, view.view, "registers clients, opens accounts, has fees charged", console)
    from tasks import enqueue
    from worker.instances import ledger

    began = time.monotonic()
    for one in clients:
        enqueue.register_client(login=one.login, crm_id=one.crm_id, by="demo")
        enqueue.open_account(
            login=one.login, product_currency_id=PRODUCT_CURRENCY_ID, registration=one.registration,
            is_master=one.is_master, by="demo",
        )  # fmt: skip
    view.view.started("CRM", f"enqueued {len(clients)} registrations, and {len(clients)} accounts that come after them")
    requested: set[str] = set()
    with view.progress():
        while True:
            interrupts.exit_if_signalled()
            found = find_many(
                ledger(), [key for one in clients for key in (one.registration, one.opening, one.fees) if key]
            )
            for one in clients:  # what a CRM does when a client asks for money
                opening = found.get(one.opening)
                if one.withdrawal and one.withdrawal not in requested and opening and opening.state == State.SUCCEEDED:
                    enqueue.fees(account_login=one.login, request_id=one.withdrawal, by="demo")
                    requested.add(one.withdrawal)
            lines = [line_of(ledger(), one, found) for one in clients]
            view.show(time.monotonic() - began, lines)
            if all(line.payout for line in lines) or time.monotonic() - began > 2 * TIME_LIMIT_S:
                break
            time.sleep(INTERVAL_S)
    counters = environment.sandbox.control.counters()
    effects = counters["effects"]
    return BookReport(
        lines=lines,
        registered=effects.get("clients.register", {}).get("distinct", 0),
        opened=effects.get("accounts.create", {}).get("distinct", 0),
        twice=sum(kind["more_than_once"] for kind in effects.values()),
        logins=counters["logins"],
        seconds=time.monotonic() - began,
    )
