"""Whether a worker with these settings could work now: a quick look for a readiness probe."""

import redis
from sqlalchemy.exc import SQLAlchemyError

from worker.doctor.check_redis import connect
from worker.errors import B2CopyError, SettingsError
from worker.ledger import open_ledger
from worker.ledger.b2copy_host import find_host_problem
from worker.session import TERMINAL, SharedSession, check_keys
from worker.settings import Settings


def not_ready(settings: Settings) -> str:
    """Return why a worker could not work now, in one line; empty if it could. Logs in nowhere.

    A session that has expired is no obstacle, because the next call renews it. A login that B2COPY refuses is one.
    """
    try:
        check_keys(settings)
        ledger = open_ledger(settings.database_url)
        try:
            with ledger.reading() as connection:
                problem = find_host_problem(connection, settings.host)
        finally:
            ledger.close()
        if problem:
            return problem
    except SettingsError as error:
        return str(error).splitlines()[0]
    except SQLAlchemyError as error:
        return f"the ledger cannot be used: {str(getattr(error, 'orig', None) or error).strip().splitlines()[0]}"
    try:
        client = connect(settings)
        try:
            client.ping()
        finally:
            client.close()
        cooldown = SharedSession(settings).state().cooldown
    except (redis.RedisError, B2CopyError) as error:
        return f"Redis cannot be used: {error}"
    if cooldown is not None and cooldown.kind == TERMINAL:
        return f"our login fails: {cooldown.reason}"
    return ""
