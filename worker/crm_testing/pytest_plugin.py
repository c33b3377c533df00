"""pytest plugin: the fixture `b2copy`, a B2COPY and a worker for the tests of a CRM. See deploy/testing-your-crm.md.

pytest imports this at its start in every project that has b2copy-sync installed. So nothing but pytest is imported here
before a test uses the fixture. It is installed as the module `pytest_b2copy` (see pyproject.toml), because a CRM may
have a package `worker` of its own, which Python would find first.
"""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from worker.crm_testing.b2copy_fixture import Sandbox
    from worker.crm_testing.ledger_for_tests import Ledgers

_USED: pytest.StashKey["Sandbox"] = pytest.StashKey()


@pytest.fixture
def b2copy_database_url() -> str | None:
    """Override it to return the URL of the CRM's own test database, if that is to hold the ledger's tables."""
    return None


@pytest.fixture(scope="session")
def _b2copy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("b2copy")


@pytest.fixture(scope="session")
def _b2copy_ledgers(_b2copy_folder: Path) -> Iterator["Ledgers"]:
    try:
        from worker.crm_testing.b2copy_fixture import Sandbox  # noqa: F401
        from worker.crm_testing.ledger_for_tests import Ledgers
    except ImportError as error:
        pytest.fail(
            f"the fixture b2copy cannot be used: {error}. It needs `pip install 'b2copy-sync[sandbox]'`, and no other"
            " packages called worker or tasks in front of those of b2copy-sync",
            pytrace=False,
        )
    ledgers = Ledgers(_b2copy_folder)
    yield ledgers
    ledgers.close()


@pytest.fixture
def b2copy(
    request: pytest.FixtureRequest,
    b2copy_database_url: str | None,
    _b2copy_folder: Path,
    _b2copy_ledgers: "Ledgers",
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator["Sandbox"]:
    """A B2COPY of this test's own, and what a worker does: `tasks.enqueue` records, `b2copy.run_until_idle()` works."""
    from worker.crm_testing.b2copy_fixture import open_sandbox

    with open_sandbox(_b2copy_folder, _b2copy_ledgers, b2copy_database_url, monkeypatch) as sandbox:
        request.node.stash[_USED] = sandbox
        yield sandbox


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    """Add what happened at B2COPY to the report of a test that has failed."""
    report = yield
    if report.when == "call" and report.failed and (sandbox := item.stash.get(_USED, None)):
        try:
            log = sandbox.call_log()
        except Exception as error:  # the test may have made the database unusable; an error here would end pytest
            log = f"what happened cannot be read: {type(error).__name__}: {error}"
        report.sections.append(("b2copy sandbox", log))
    return report
