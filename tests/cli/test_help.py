"""What a newcomer meets first."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from tasks.registry import KINDS
from tests.cli.command import run
from worker.cli import app, options
from worker.operation import FailureReason, State
from worker.queues import LANES, REQUEST_LANES
from worker.testbed.processes import clean_environment

HEAVY = {"celery", "sqlalchemy", "redis", "requests", "cryptography", "pydantic", "aiohttp"}


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def test_the_installed_command_lists_everything_from_any_folder_without_a_setting(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("b2copy-sync")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    ran = subprocess.run([command, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert ran.returncode == 0
    assert ran.stderr == ""
    assert "5 no such operation" in ran.stdout
    for name in ("demo", "doctor", "keygen", "migrate", "sandbox", "fees", "import", "status", "failed", "session"):
        assert f" {name} " in ran.stdout


def test_help_brings_none_of_the_heavy_packages() -> None:
    code = "import sys, worker.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert HEAVY & set(ran.stdout.split()) == set()


def test_every_command_and_every_option_is_explained() -> None:
    found = dict(commands(typer.main.get_command(app)))

    assert {
        "failed list",
        "failed show",
        "failed replay",
        "failed correct",
        "failed cancel",
        "session renew",
    } <= found.keys()
    for name, command in found.items():
        assert command.help, name
        assert command.epilog, name
        assert [param.name for param in command.params if not getattr(param, "help", "")] == [], name


def test_poll_now_says_that_it_may_send_the_operation() -> None:
    status = dict(commands(typer.main.get_command(app)))["status"]

    [text] = [param.help for param in status.params if "--poll-now" in param.opts]

    assert (
        text == "Make a waiting operation due now: a worker asks B2COPY about it, or sends it if that was not done yet."
    )


def test_the_group_failed_says_that_it_also_cancels_what_has_not_ended() -> None:
    group: Any = typer.main.get_command(app)

    assert group.commands["failed"].help == (
        "Decide about operations: list those that failed, see why, replay, correct or resolve them; cancel one that has"
        " not ended."
    )


def test_every_command_answers_programs_too() -> None:
    found = dict(commands(typer.main.get_command(app)))

    without = {name for name, command in found.items() if not any("--json" in param.opts for param in command.params)}

    # Those that run until they are stopped print nothing. What `metrics --once` prints is a format for programs.
    assert without == {"console", "metrics", "worker", "beat"}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("b2copy-sync st", ["status"]),
        ("b2copy-sync failed re", ["replay", "resolve"]),
        ("b2copy-sync list --state ", list(State)),
    ],
)
def test_a_shell_completes_commands_and_values(words: str, offered: list[str]) -> None:
    """As a bash does that has sourced `b2copy-sync --show-completion`."""
    command = Path(sys.executable).with_name("b2copy-sync")
    environment = {"PATH": f"{command.parent}:{os.environ['PATH']}"}
    source = subprocess.run(
        [command], env=environment | {"_B2COPY_SYNC_COMPLETE": "source_bash"}, capture_output=True, text=True
    )
    typed = words.split(" ")
    script = f"""
{source.stdout}
COMP_WORDS=({" ".join(typed)} "{typed[-1]}") COMP_CWORD={len(typed) - 1}
_b2copy_sync_completion b2copy-sync
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)

    assert (ran.stderr, ran.stdout.split()) == ("", offered)


def test_the_words_offered_are_the_ledgers() -> None:
    assert get_args(options.AnyLane) == LANES
    assert get_args(options.Lane) == REQUEST_LANES
    of_kinds = {reason for kind in KINDS.values() for reason in kind.failure_reasons}
    assert set(get_args(options.Reason)) == set(FailureReason) | of_kinds


def test_exit_code_3_of_a_fee_run_is_not_said_to_mean_that_nothing_was_charged() -> None:
    readme = " ".join((Path(__file__).parents[2] / "README.md").read_text().split())
    help_text = " ".join(dict(commands(typer.main.get_command(app)))["fees"].help.replace("`", "").split())

    for text in (readme.replace("`", ""), help_text):
        assert "fee_error, unresolved, exhausted or internal the fees may be charged all the same" in text


def test_a_narrow_terminal_shows_the_variable_of_the_password_file_whole(tmp_path: Path) -> None:
    ran = run(tmp_path, clean_environment(COLUMNS="80"), "console-user", "--help")

    assert "[env var: B2COPY_CONSOLE_PASSWORD_FILE]" in re.sub(r"\s*│\s*", " ", ran.out)
