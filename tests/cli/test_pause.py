"""pause and resume."""

from tests.cli.conftest import Command
from worker.ledger import Ledger, active_flags


def test_a_second_pause_does_not_change_the_first(b2copy_sync: Command, ledger: Ledger) -> None:
    first = b2copy_sync("pause", "--lane", "bulk", "--why", "B2COPY asked for it", "--by", "ann")
    second = b2copy_sync("pause", "--lane", "bulk", "--why", "me too", "--by", "bob", "--json")

    assert first.code == 0
    assert (second.document["actor"], second.document["note"]) == ("ann", "B2COPY asked for it")
    assert active_flags(ledger).keys() == {"pause:bulk"}


def test_resume_ends_one_pause_and_names_the_others(b2copy_sync: Command, ledger: Ledger) -> None:
    b2copy_sync("pause", "--why", "x")
    b2copy_sync("pause", "--lane", "bulk", "--why", "x")

    ran = b2copy_sync("resume", "--why", "done")
    again = b2copy_sync("resume", "--why", "done", "--json")

    assert ran.out.splitlines()[0] == "all lanes are resumed"
    assert "still paused: bulk" in ran.out
    assert again.document == {"lane": "all", "was_paused": False, "still_paused": ["bulk"]}
    assert active_flags(ledger).keys() == {"pause:bulk"}


def test_resume_fails_if_there_is_no_such_pause(b2copy_sync: Command, ledger: Ledger) -> None:
    b2copy_sync("pause", "--lane", "bulk", "--why", "x")

    ran = b2copy_sync("resume", "--why", "done")
    as_json = b2copy_sync("resume", "--why", "done", "--json")

    assert (ran.code, as_json.code) == (1, 1)
    assert ran.out.splitlines() == [
        "nothing to resume: there is no pause of all lanes",
        "still paused: bulk (b2copy-sync resume --lane bulk --why ...)",
    ]
    assert as_json.document["still_paused"] == ["bulk"]
    assert active_flags(ledger).keys() == {"pause:bulk"}
