"""What a run against a bad receiver must have shown before it counts."""

import urllib.error
import urllib.request

import pytest

from tests.faults.notices.receiver import PATH, Mode, Receiver
from tests.faults.notices.scenarios import PHASES, told

GOOD = {
    "notices": 60, "superseded": 10, "ids": 50, "slower": 1.0, "never told": 0, "changed": 0, "fell back": 0,
    "not delivered": 0, "unsigned": 0, "redirects followed": 0,
    **{f"tried: {mode}": 1 for mode, _ in PHASES},
}  # fmt: skip


def test_the_receiver_counts_deliveries_by_mode_and_who_follows_a_redirect() -> None:
    def status(mode: Mode, path: str = PATH) -> int:
        receiver.mode = mode
        url = receiver.url.removesuffix(PATH) + path
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=10)
        error.value.close()
        return error.value.code

    with Receiver() as receiver:
        assert [status("fails"), status("fails")] == [500, 500]
        assert receiver.followed == 0
        assert status("redirects") == 404  # urllib follows a redirect of a POST, by GET
        assert receiver.followed == 1
        assert status("takes", PATH + "/elsewhere") == 404

    assert receiver.requests == {"fails": 2, "redirects": 1}
    assert receiver.followed == 2
    assert receiver.received == []


def test_a_phase_without_a_delivery_and_a_followed_redirect_break_the_promise() -> None:
    assert told(GOOD) == []
    assert told(GOOD | {"redirects followed": 2}) == ["2 redirects followed"]
    for mode, _ in PHASES:
        assert told(GOOD | {f"tried: {mode}": 0}) == [f"no notice was sent in the phase '{mode}'"]
