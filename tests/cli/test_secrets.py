"""No command shows a secret, however it fails, and none gets into ledger, evidence, Redis or its append-only file."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.command import Ran, run
from tests.refusing_postgres import refusing_server
from tests.session.test_secrets import ASSERTION, dumped
from tests.webhook.conftest import SECRETS
from worker.ledger import Ledger
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process

WRONG = "canary-of-a-password"
FEES = ["fees", "--account", "7", "--request-id"]

OF_THE_WHOLE_SYSTEM = [
    [*FEES, "W1", "--wait"],
    [*FEES, "W2", "--wait", "--json"],
    ["clients", "register", "700100", "--wait", "--json"],
    ["accounts", "list", "--json"],
    ["session", "show", "--json"],
    ["session", "renew"],
    ["session", "renew", "--login", "back_office"],
    ["doctor"],
    ["health"],
    ["webhook", "test", "--json"],
    ["status", "W1", "--json"],
    ["status", "W2"],
    ["list", "--json"],
    ["failed", "list"],
    ["failed", "show", "clients.register:1/700100"],
    ["pause", "--why", "a test"],
    ["resume", "--why", "a test"],
    ["migrate"],
    ["purge", "--older-than", "400d"],
    ["session", "forget"],
]  # fmt: skip

OF_A_BROKEN_ONE = [
    [*FEES, "W3"],
    ["status", "W1"],
    ["doctor"],
    ["migrate"],
    ["session", "renew"],
    ["accounts", "list"],
    ["seamless-url", "700100"],
    ["webhook", "test"],
]


@pytest.fixture
def secrets(environment: Environment) -> dict[str, str]:
    """Every secret that can be set, in files of the environment."""
    files = {
        "B2COPY_SEAMLESS_SECRET_FILE": "sandbox-secret",
        "B2COPY_BACK_OFFICE_PASSWORD_FILE": "sandbox-password",
        "B2COPY_WEBHOOK_SECRET_FILE": SECRETS[0],
        "B2COPY_CONSOLE_PROXY_SECRET_FILE": "canary-of-a-proxys-secret-0123456789",
    }
    for name, secret in files.items():
        write(environment, name, secret)
    environment.settings["B2COPY_BACK_OFFICE_EMAIL"] = "crm@broker.example"
    environment.settings["B2COPY_WEBHOOK_URL"] = "http://127.0.0.1:9/notices"
    password = urlsplit(environment.broker.url).password
    assert password is not None
    keys = [environment.settings[f"B2COPY_{name}_KEY_FILE"] for name in ("PRIVATE", "STORAGE")]
    texts = [Path(path).read_text().replace("-----BEGIN PRIVATE KEY-----", "").split()[0] for path in keys]
    return files | {"redis": password, "private": texts[0], "storage": texts[1], "assertion": ASSERTION}


def write(environment: Environment, name: str, secret: str) -> str:
    file = environment.folder / f"{name.lower()}-{len(secret)}"
    file.write_text(secret)
    file.chmod(0o600)
    environment.settings[name] = str(file)
    return str(file)


@pytest.fixture
def refusing_postgres() -> Iterator[int]:
    with refusing_server() as (port, _):
        yield port


@pytest.fixture
def run_all(environment: Environment, tmp_path: Path) -> Callable[..., list[Ran]]:
    """Run commands, three at a time."""

    def one(number: int, command: list[str], settings: dict[str, str]) -> Ran:
        folder = tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        return run(folder, environment.variables | settings, *command)

    def many(commands: list[list[str]], **settings: str) -> list[Ran]:
        with ThreadPoolExecutor(3) as threads:
            return list(threads.map(lambda each: one(each[0], each[1], settings), enumerate(commands)))

    return many


def test_no_command_shows_a_secret_of_a_system_that_works(
    environment: Environment,
    secrets: dict[str, str],
    ledger: Ledger,
    worker: Callable[..., Process],
    sandbox: SandboxControl,
    run_all: Callable[..., list[Ran]],
) -> None:
    process = worker("--loglevel", "DEBUG")
    sandbox.faults({"what": "status", "status": 401, "route": "processext", "next": 1})
    ran = [one for command in OF_THE_WHOLE_SYSTEM[:3] for one in run_all([command])]
    ran += run_all(OF_THE_WHOLE_SYSTEM[3:-1]) + run_all(OF_THE_WHOLE_SYSTEM[-1:])

    usage = [f"{command}: {one.err}" for command, one in zip(OF_THE_WHOLE_SYSTEM, ran, strict=True) if one.code == 2]
    assert not usage
    ledger_files = [path.read_bytes().decode("latin-1") for path in environment.folder.glob("ledger.sqlite*")]
    sinks = [text for one in ran for text in (one.out, one.err)]
    sinks += [*ledger_files, *dumped(environment.broker), process.log.read_text()]
    tokens = [pair[name] for pair in sandbox.pairs() for name in ("access", "refresh")]
    assert len(tokens) >= 4
    for secret in [*secrets.values(), *tokens]:
        assert not [sink for sink in sinks if secret in sink]


@pytest.mark.parametrize("broken", ["redis", "ledger", "URLs", "files"])
def test_no_command_shows_a_secret_when_it_fails(
    environment: Environment,
    secrets: dict[str, str],
    ledger: Ledger,
    refusing_postgres: int,
    run_all: Callable[..., list[Ran]],
    broken: str,
) -> None:
    address = f"127.0.0.1:{refusing_postgres}"
    broker = f"127.0.0.1:{environment.broker.port}"
    changes = {
        "redis": {"B2COPY_REDIS_URL": f"redis://:{WRONG}@{broker}/0"},
        "ledger": {"B2COPY_DATABASE_URL": f"postgresql://crm:{WRONG}@{address}/crm"},
        "URLs": {
            "B2COPY_DATABASE_URL": f"postgresql://crm:{WRONG}@{address}/crm?schema={WRONG}",
            "B2COPY_REDIS_URL": f"redis://:{WRONG}/x@{broker}/0?password={WRONG}",
        },
        "files": {
            "B2COPY_PRIVATE_KEY_FILE": write(environment, "key", f"-----BEGIN {WRONG}-----\n{WRONG}"),
            "B2COPY_STORAGE_KEY_FILE": write(environment, "storage", WRONG),
            "B2COPY_SEAMLESS_SECRET_FILE": write(environment, "seamless", WRONG),
            "B2COPY_BACK_OFFICE_PASSWORD_FILE": write(environment, "office", WRONG),
            "B2COPY_WEBHOOK_SECRET_FILE": write(environment, "webhook", WRONG),
        },
    }[broken]

    ran = run_all(OF_A_BROKEN_ONE, **changes)

    assert [one for one in ran if one.code], "something must fail"
    sinks = [text for one in ran for text in (one.out, one.err)]
    sinks += [path.read_bytes().decode("latin-1") for path in environment.folder.glob("ledger.sqlite*")]
    sinks += dumped(environment.broker)
    for secret in [*secrets.values(), WRONG]:
        assert not [sink for sink in sinks if secret in sink]
