"""What must stay true of the source for the protocol to hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = [path for folder in ("worker", "tasks") for path in sorted((ROOT / folder).rglob("*.py"))]
SESSION = ROOT / "worker" / "session"


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))


@pytest.mark.failure_mode("F13")
def test_one_function_talks_to_the_token_endpoints() -> None:
    naming = [path for path in OURS if "/adminservice/" in path.read_text()]
    sending = [
        (path.name, function.name)
        for path in SESSION.glob("*.py")
        for function in functions(path)
        if "transport.send" in ast.unparse(function)
    ]

    assert [path for path in naming if "sandbox" not in path.parts] == [SESSION / "service_admin_login.py"]
    assert sending == [("token_endpoints.py", "post")]


@pytest.mark.failure_mode("F13")
def test_only_the_leader_logs_in_or_refreshes() -> None:
    asking = {
        path.name
        for path in SESSION.glob("*.py")
        for call in (".log_in(", ".refresh(")
        if f"_login{call}" in path.read_text()
    }

    assert asking == {"renewal_leader.py"}


@pytest.mark.failure_mode("F22", "F52")
def test_no_task_takes_or_returns_a_token() -> None:
    tasks = [path for path in OURS if "tasks" in path.relative_to(ROOT).parts[:1]]
    arguments = [
        argument.arg
        for path in tasks
        for function in functions(path)
        for argument in ast.walk(function.args)
        if isinstance(argument, ast.arg)
    ]

    assert tasks
    assert arguments
    assert not [name for name in arguments if "token" in name or "bearer" in name]
    assert not [path for path in tasks if "Token" in path.read_text()]


def test_a_call_takes_its_token_from_the_session_when_it_is_sent() -> None:
    keeping = [
        ast.unparse(node)
        for path in OURS
        if "sandbox" not in path.parts and path.name != "tokens.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "access" and isinstance(node.ctx, ast.Store)
    ]

    assert keeping == []


def test_the_session_imports_nothing_from_above() -> None:
    allowed = (
        "worker.session",
        "worker.http",
        "worker.redis_connection",
        "worker.per_process",
        "worker.errors",
        "worker.settings",
        "worker.watch",
    )
    modules = [
        node.module or ""
        for path in SESSION.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
    ]
    ours = [module for module in modules if module.split(".")[0] in {"worker", "tasks", "tests"}]

    assert ours
    assert [module for module in ours if not module.startswith(allowed) and module != "worker"] == []
