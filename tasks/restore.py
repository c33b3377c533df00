"""Make a ledger that came from a backup safe for workers: see `worker.ledger.restore`."""

from tasks.registry import ALL_KINDS, KINDS
from worker.crm.requests_table import take_requests
from worker.ledger import Ledger
from worker.ledger.restore import Distrusted, check_quiet, distrust_restored
from worker.operation import OnUnknown
from worker.settings import crm_settings


def distrust(ledger: Ledger, actor: str, note: str) -> list[Distrusted]:
    """Record the rows of `b2copy_requests`, then distrust everything that could be sent. No worker may run.

    The rows may have been taken and done since the backup, so they must not be left for a worker to take as new ones.
    If this process dies between the two, repeat it before workers start. `on_unknown` of what is returned is what a
    worker with these settings will go by. Raises `NotAllowed` as `distrust_restored` does.
    """
    check_quiet(ledger)
    for _ in take_requests(ledger, KINDS, crm_settings(), may_leave=False):
        pass
    steps = {kind.name: kind.effect_step for kind in ALL_KINDS.values() if kind.effect_step}
    return [_as_workers_see_it(one) for one in distrust_restored(ledger, steps, actor, note)]


def _as_workers_see_it(one: Distrusted) -> Distrusted:
    kind = ALL_KINDS.get(one.kind)
    if kind is None or one.failed:  # a replay goes by what is stored
        return one
    return one._replace(on_unknown=kind.on_unknown_for(OnUnknown(one.on_unknown), kind.effect_step or None))
