"""Get the URL that logs a client in, with the secret that B2COPY and we share."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from worker.b2copy.routes.seamless_login import GET_AUTH_URL, SeamlessUrl, Visitor
from worker.b2copy.seamless_secret import seamless_secret
from worker.current_user import current_user
from worker.errors import AccessRejected, NoSeamlessUrl, SettingsError
from worker.instances import ledger
from worker.ledger.refused_secret import HOLD_S, May, may_present, note_acceptance, note_refusal, was_refused
from worker.operation_kind import Call
from worker.settings import Settings

_REFUSED_HINT = (
    "B2COPY refuses the shared secret: compare B2COPY_SEAMLESS_SECRET_FILE with the Back Office, which may have blanked"
    " its secret when other settings of that page were saved"
)


async def seamless_url(
    call: Call,
    settings: Settings,
    login: str,
    platform: int,
    in_thread: Callable[..., Coroutine[Any, Any, Any]] = asyncio.to_thread,
) -> SeamlessUrl:
    """Return the URL. A secret that B2COPY refuses is presented once a minute, by the whole fleet.

    `in_thread` calls what blocks: its first argument with the others.

    Raises `NoSeamlessUrl` without a usable secret and while the secret is refused, `AccessRejected` if B2COPY refuses
    this account and accepts the secret for others.
    """
    account = f"{platform}/{login}"
    try:
        secret = await in_thread(seamless_secret, settings)  # reads a file
    except SettingsError as error:  # which would say that the service admin's login fails
        raise NoSeamlessUrl(str(error)) from None
    visitor = Visitor(account=login, secret_key=secret, platform=str(platform))
    asked_at = time.monotonic()
    may = await in_thread(may_present, ledger(), secret, current_user())
    if may is May.NO:
        wait_s = _wait_s(is_refused=was_refused(ledger(), secret, account))
        raise NoSeamlessUrl(f"{_REFUSED_HINT}; it is presented once a minute", retry_after=wait_s)
    try:
        url: SeamlessUrl = await call(GET_AUTH_URL, visitor.fields())
    except AccessRejected as error:
        if await in_thread(note_refusal, ledger(), secret, current_user(), account, may, asked_at):
            message = f"{error.message}: B2COPY refuses this account, and accepts the shared secret for others"
            raise AccessRejected(message, error.status, error.server_message) from None
        raise NoSeamlessUrl(_REFUSED_HINT, error.status, error.server_message, _wait_s(is_refused=True)) from None
    await in_thread(note_acceptance, ledger(), secret, account)
    return url


def _wait_s(is_refused: bool) -> float:
    """Return after how many seconds an account may ask again while the secret is refused.

    `is_refused`: B2COPY refused the secret for this account. Perhaps it refuses this account alone. So this account
    waits longer than the hold, and the others, whose waits are shorter, present the secret before it does.

    The waits differ. Otherwise all operations are due at the same time, the ledger takes the oldest first, and this may
    be the refused one each time.
    """
    longest_s = HOLD_S * 2 if is_refused else HOLD_S / 3
    return longest_s * random.uniform(0.75, 1.0)  # noqa: S311
