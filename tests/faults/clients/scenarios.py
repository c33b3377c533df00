"""A client is registered and its account opened, and the worker is killed at every call and every commit.

A row is a kill point. A column is what B2COPY does with a second registration (and a second account), and what the
setting B2COPY_DUPLICATE_CLIENTS says of it. `unknown` meets the worst B2COPY, which registers a client again.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

from tests.faults.clients.killed_worker import opening_of, registration_of, run
from tests.faults.ledger.system import DATABASES, postgres
from tests.faults.table import Scenario
from worker.ledger import find, open_ledger
from worker.operation import Operation, State
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment

TITLE = "Registration and account, the worker SIGKILLed at each point: how they end by the duplicate switch"

SWITCHES = {"unknown": "created", "refused": "refused", "returned": "returned"}
CALLS = ("auth_url", "wizard.init", "wizard", "accounts.create")
COMMITS = 5  # of a worker that is not killed: claim, begin the wizard, settle and claim twice, and an empty claim
POINTS = [f"{when} {what}" for what in [f"the call {name}" for name in CALLS] for when in ("before", "after")]
POINTS += [f"{when} commit {number}" for number in range(1, COMMITS + 1) for when in ("before", "after")]
ONCE = "1 client, 1 account"
_logins = count(700100)


def run_point(point: str | None, database: str, broker: Any = None, sandbox: Any = None) -> dict[str, str]:
    """Return how both operations end, for each switch."""
    with Environment(broker, sandbox) as environment:
        secret = environment.folder / "secret"
        secret.write_text("sandbox-secret")
        secret.chmod(0o600)
        environment.settings["B2COPY_SEAMLESS_SECRET_FILE"] = str(secret)
        environment.settings |= {"B2COPY_CALL_DEADLINE": "0.6", "B2COPY_LATE_EFFECT": "0.6"}
        if database == "postgresql":
            environment.settings["B2COPY_DATABASE_URL"] = postgres().url()
        open_ledger(environment.database_url, create=True).close()
        return {knowledge: _end(environment, knowledge, point) for knowledge in SWITCHES}


def _end(environment: Environment, knowledge: str, point: str | None) -> str:
    control, login = environment.sandbox.control, str(next(_logins))
    duplicates = SWITCHES[knowledge]
    control.switches(duplicate_clients=duplicates, duplicate_accounts=duplicates, clients="registered")
    variables = environment.variables | {"B2COPY_DUPLICATE_CLIENTS": knowledge}
    code = run(variables, login, point)
    if point is not None and code != -9:
        return f"the worker was not killed ({code})"
    if point is not None and (code := run(variables, login, None)) != 0:
        return f"not ended ({code})"
    return _described(environment, control, login)


def _described(environment: Environment, control: SandboxControl, login: str) -> str:
    ledger = open_ledger(environment.database_url)
    registration, opening = find(ledger, registration_of(login)), find(ledger, opening_of(login))
    ledger.close()
    assert registration is not None
    assert opening is not None
    made = f"{_times(control, 'clients.register', login)} client, {_times(control, 'accounts.create', login)} account"
    ends = [_failure(one) for one in (registration, opening) if one.state != State.SUCCEEDED]
    return ", ".join([made, *ends])


def _failure(operation: Operation) -> str:
    if operation.state == State.WAITING:
        return f"account waits {operation.wait_reason}"
    step = f" ({operation.unknown_step})" if operation.outcome_unknown else ""
    return f"{operation.kind} {operation.failure_reason}{step}"


def _times(control: SandboxControl, kind: str, login: str) -> int:
    return sum(effect["times"] for effect in control.effects(kind) if effect["key"] == f"1/{login}")


UNRESOLVED = {
    f"{clients} client, 0 account, clients.register unresolved (wizard), account waits behind_parent"
    for clients in (0, 1)
}
ID_UNKNOWN = "1 client, 0 account, accounts.create client_unknown"


BEFORE_THE_WIZARD = {f"{when} the call {name}" for when in ("before", "after") for name in ("auth_url", "wizard.init")}
BEFORE_THE_WIZARD |= {"before commit 1", "after commit 1", "before commit 2"}  # of the claim; that the wizard begins
REGISTERED = {"after commit 3"}  # the registration has succeeded, and the opening is claimed


def holds(point: str, row: Mapping[str, Any]) -> Sequence[str]:
    """One client and one account, unless B2COPY hid that it has the client (unknown), or hid its id (refused).

    If the worker was killed before it began the wizard, or when the registration had succeeded, it is one client and
    one account under every switch.
    """
    if point in BEFORE_THE_WIZARD | REGISTERED:
        return [f"{switch}: {end}" for switch, end in row.items() if end != ONCE]
    allowed = {"unknown": {ONCE} | UNRESOLVED, "refused": {ONCE, ID_UNKNOWN}, "returned": {ONCE}}
    return [f"{switch}: {end}" for switch, end in row.items() if end not in allowed[switch]]


SCENARIOS = [
    Scenario(f"{point}, {database}", partial(run_point, point, database), partial(holds, point))
    for database in DATABASES
    for point in POINTS
]
