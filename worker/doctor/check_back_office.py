"""Whether the Back Office's session exists, or a sign-in succeeds; and why the Back Office refuses it.

It presents no password that was refused before: that is remembered in the ledger, for workers and for this check.
"""

import logging
from collections.abc import Iterator

from worker.doctor import CheckResult
from worker.doctor.check_session import report_session
from worker.errors import B2CopyError, CredentialsRejected, SettingsError, StoreUnavailable
from worker.instances import back_office
from worker.session import check_keys
from worker.session.back_office_login import check_password
from worker.settings import Settings

NAME = "sign-in"
_EFFECT = "operations that use this login wait meanwhile, and no other one does"


def check(settings: Settings, login: bool) -> Iterator[CheckResult]:
    """Report on the session that exists. Without one, sign in like a worker would, so that the reason is known."""
    if settings.back_office_email is None:
        return
    if "back_office" not in (settings.accounts_login, settings.widgets_login):
        message = f"{settings.back_office_email} is set, and no route uses this login"
        remedy = "set B2COPY_ACCOUNTS_LOGIN or B2COPY_WIDGETS_LOGIN to back_office, or remove the e-mail address"
        yield CheckResult(NAME, "warn", message, remedy)
    try:
        check_keys(settings)
    except SettingsError as error:
        yield CheckResult(NAME, "skip", f"not without the keys: {str(error).splitlines()[0]}")
        return
    logging.getLogger("worker.session").setLevel(logging.CRITICAL)
    try:
        check_password(settings)
        yield from report_session(NAME, back_office(), login)
    except SettingsError as error:  # names the file or the ledger, and the remedy
        yield CheckResult(NAME, "FAIL", str(error).splitlines()[0])
    except CredentialsRejected as error:
        yield _refused(error.server_message or str(error), settings)
    except StoreUnavailable:
        yield CheckResult(NAME, "FAIL", "there is no session without Redis")
    except B2CopyError as error:
        yield CheckResult(NAME, "FAIL", str(error), _EFFECT)


def _refused(reason: str, settings: Settings) -> CheckResult:
    email, file = settings.back_office_email, settings.back_office_password_file
    if "second factor" in reason:
        message = f"the Back Office asks {email} for a second factor, which no program can give"
        remedy = (
            "switch it off for this account, or set B2COPY_ACCOUNTS_LOGIN and B2COPY_WIDGETS_LOGIN to service_admin."
            " Then: `b2copy-sync session renew --login back_office`"
        )
    else:
        message = f"the Back Office refuses {email}: {reason}"
        remedy = (
            f"put the right password into {file}, and it is tried at once. If the account was locked and is unlocked"
            " now: `b2copy-sync session forget --login back_office`"
        )
    return CheckResult(NAME, "FAIL", message, f"{_EFFECT}; {remedy}")
