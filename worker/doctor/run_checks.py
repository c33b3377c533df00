"""All checks, in the order in which one depends on the other."""

from collections.abc import Iterable, Iterator

from worker.doctor import (
    CheckResult,
    check_b2copy,
    check_key_files,
    check_ledger,
    check_redis,
    check_session,
    check_settings,
    check_workers,
)


def examine(login: bool = False, offline: bool = False) -> Iterator[CheckResult]:
    """Run the checks. `login` logs in even if the session is valid; `offline` opens no connection."""
    readable = yield from check_settings.check()
    if readable.worker:
        yield from _guarded("keys", check_key_files.check(readable.worker))
    url_problem = check_ledger.url_problem(readable.ledger) if readable.ledger else None
    if url_problem:
        yield CheckResult("settings", "FAIL", url_problem)
    if offline:
        yield CheckResult("the rest", "skip", "not checked, because of --offline")
        return
    if readable.ledger and not url_problem:
        yield from _guarded("ledger", check_ledger.check(readable.ledger))
    if readable.crm:
        yield from _guarded("redis", check_redis.check(readable.crm))
        yield from _guarded("workers", check_workers.check(readable.crm))
    if readable.worker:
        yield from _guarded("b2copy", check_b2copy.check(readable.worker))
        for each in readable.worker.logins:
            yield from _guarded(each, check_session.check(readable.worker, each, login))
        yield from _guarded("logins", check_session.check_unset(readable.worker))


def _guarded(name: str, results: Iterable[CheckResult]) -> Iterator[CheckResult]:
    """Turn an error that a check did not foresee into a result, so that the other checks still run."""
    try:
        yield from results
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        yield CheckResult(name, "FAIL", f"this check ended with {type(error).__name__}: {text}", "please report it")
