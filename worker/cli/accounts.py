"""`accounts`: open master and investment accounts at B2COPY, and list them."""

from typing import Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import EXITS
from worker.cli.options import By, Json, Login, Platform
from worker.cli.wait_for_end import Timeout, Wait, follow

app = typer.Typer(help="Accounts at B2COPY: open and list them.", no_args_is_help=True, epilog=EXITS)


@app.command("open", epilog=EXITS)
def open_(
    login: Login,
    by: By,
    product_currency_id: Annotated[
        int, typer.Option("--product-currency-id", help="B2COPY's number of a product's currency, from its support.")
    ],
    platform: Platform = 1,
    client_id: Annotated[int | None, typer.Option("--client-id", help="B2COPY's id of the client.")] = None,
    registration: Annotated[
        str | None, typer.Option(help="The key of the client's registration, which goes first.")
    ] = None,
    is_master: Annotated[bool, typer.Option("--master/--investor", help="Which sort of account.")] = False,
    name: Annotated[str | None, typer.Option(help="The account's name.")] = None,
    description: Annotated[str | None, typer.Option(help="The account's description.")] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Open an account for an MT login that exists. The same login gets one account.

    Without --client-id and --registration the client is the one that the identity map holds for the login.
    """
    from tasks import enqueue
    from worker.settings import CrmSettings, load

    load(CrmSettings)
    recorded = enqueue.open_account(
        login=login, platform=platform, product_currency_id=product_currency_id, client_id=client_id,
        registration=registration, is_master=is_master, name=name, description=description, by=by,
    )  # fmt: skip
    follow(recorded, wait, timeout, as_json)


@app.command("list", epilog=EXITS)
def list_(
    platform: Annotated[int | None, typer.Option(help="Only this trading platform.")] = None,
    login: Annotated[str | None, typer.Option(help="Only this MT login.")] = None,
    email: Annotated[str | None, typer.Option(help="Only those of the client with this e-mail address.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="No more than this many.")] = 100,
    offset: Annotated[int, typer.Option(min=0, help="Leave out so many of the first.")] = 0,
    as_json: Json = False,
) -> None:
    """List accounts as B2COPY has them, a page at a time. Asks B2COPY, so it needs a worker's settings."""
    from worker.b2copy.routes.account_list import AccountSearch
    from worker.http import event_loop
    from worker.instances import b2copy
    from worker.settings import Settings, load

    load(Settings)
    search = AccountSearch(
        platform=platform, number=login, email=email, limit=limit, offset=offset, sort_by="created_at", sort_order="asc"
    )
    accounts = [account for account in event_loop().run(b2copy().accounts(search)) if account.number]
    if as_json:
        output.document([account.model_dump(mode="json") for account in accounts])
        return
    output.table(
        ("login", "platform", "account", "client", "sort", "name", "created (UTC)"),
        [
            (
                account.number, str(account.platform or ""), account.account_id or "", account.client_id or "",
                {True: "master", False: "investor", None: ""}[account.is_master], account.name or "",
                f"{account.created:%Y-%m-%d %H:%M:%S}" if account.created else "",
            )
            for account in accounts
        ],
    )  # fmt: skip
