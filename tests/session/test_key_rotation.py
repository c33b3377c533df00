"""Keys that are replaced, or become unusable, while the fleet runs."""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import Configure, Member
from tests.session.fleet import token_calls, token_or_none
from tests.support import until
from worker.errors import CredentialsRejected, SessionUnavailable
from worker.sandbox.control_client import SandboxControl
from worker.session.shared_session import SharedSession
from worker.testbed.broker import Broker
from worker.testbed.keys import new_key_pair, new_storage_key


def renewed(session: SharedSession) -> bool:
    return session.renew(force=True, wait=15).outcome in {"refresh", "login"}


def have_one_token(one: SharedSession, other: SharedSession) -> bool:
    """A copy is used for a moment after another member has renewed the session."""
    return one.current() == other.current()


class TestKeyRotation:
    @pytest.mark.failure_mode("F56")
    def test_a_rehearsal_without_a_restart_and_without_a_failed_call(
        self, member: Member, configure: Configure, sandbox: SandboxControl, tmp_path: Path
    ) -> None:
        settings = configure()
        old_id, old_file = settings.key_id[0], settings.private_key_file[0]
        session = member(configure(key_id=f"new,{old_id}", private_key_file=f"{tmp_path}/new.pem,{old_file}"))
        session.current()
        assert session.state().credential == old_id

        new = new_key_pair(tmp_path, "new")  # written, and not yet registered
        session.forget()
        assert session.current().generation
        assert session.state().credential == old_id

        sandbox.register_key("new", new.public_key)
        session.forget()
        assert session.current().generation
        assert session.state().credential == "new"

        sandbox.withdraw_key(old_id)
        Path(old_file).rename(tmp_path / "old.pem")
        try:
            session.forget()
            assert session.current().generation
        finally:
            (tmp_path / "old.pem").rename(old_file)

    @pytest.mark.failure_mode("F56")
    def test_a_new_key_ends_the_rest_after_a_refused_login(
        self, member: Member, configure: Configure, sandbox: SandboxControl, tmp_path: Path
    ) -> None:
        wrong = new_key_pair(tmp_path, "test-key")
        session = member(configure(private_key_file=wrong.private_file), recheck=0.05)
        with pytest.raises(CredentialsRejected):
            session.current()

        wrong.private_file.unlink()
        sandbox.register_key("test-key", new_key_pair(tmp_path, "test-key").public_key)

        assert until(lambda: token_or_none(session))

    @pytest.mark.failure_mode("F57")
    def test_a_session_no_storage_key_opens_costs_one_login(
        self, member: Member, configure: Configure, sandbox: SandboxControl, tmp_path: Path
    ) -> None:
        member().current()
        other = member(configure(storage_key_file=new_storage_key(tmp_path)), other_key_pause=0.3)

        assert not other.state().readable
        assert other.current().generation
        assert other.state().readable
        assert sandbox.counters()["logins"] == 2

    @pytest.mark.failure_mode("F57")
    def test_the_storage_key_is_replaced_in_two_steps_without_a_login(
        self, member: Member, configure: Configure, sandbox: SandboxControl, tmp_path: Path
    ) -> None:
        old, new = configure().storage_key_file.read_text(), new_storage_key(tmp_path).read_text()
        hosts = []
        for number, keys in enumerate([[old], [old, new], [new, old], [new]]):
            file = tmp_path / f"keys of {number}"
            file.write_text("\n".join(key.strip() for key in keys))
            file.chmod(0o600)
            hosts.append(member(configure(storage_key_file=file), recheck=0.01))

        for before, after in pairwise(hosts):  # both run while the hosts get their next file
            for one in (before, after, before):
                assert until(partial(renewed, one))
                assert after.renew().outcome == before.renew().outcome == "fresh"
                assert until(partial(have_one_token, after, before))

        assert sandbox.counters()["logins"] == 1


class TestHostsWithDifferentStorageKeys:
    """A Secret was replaced instead of extended on one host: none of the two reads what the other one stores."""

    @pytest.fixture
    def host(self, member: Member) -> SharedSession:
        return member(recheck=0.01)

    @pytest.fixture
    def other(
        self, host: SharedSession, member: Member, configure: Configure, tmp_path: Path
    ) -> Callable[..., SharedSession]:
        return lambda **timings: member(configure(storage_key_file=new_storage_key(tmp_path)), recheck=0.01, **timings)

    def test_a_login_of_the_other_host_is_not_replaced_for_a_minute(
        self, host: SharedSession, other: Callable[..., SharedSession], sandbox: SandboxControl
    ) -> None:
        token, late = host.current(), other()

        for asks in (lambda: late.current(wait=0.1), late.current, late.renew):
            with pytest.raises(SessionUnavailable, match="another storage key") as caught:
                asks()
            assert 50 < (caught.value.retry_after or 0) <= 60

        assert host.current() == token
        assert host.renew().outcome == "fresh"
        assert sandbox.counters()["logins"] == 1

    def test_they_log_in_at_most_as_often_as_the_pause_allows_and_both_have_a_token(
        self, member: Member, configure: Configure, sandbox: SandboxControl, tmp_path: Path
    ) -> None:
        keys = [configure().storage_key_file, new_storage_key(tmp_path)]
        hosts = [member(configure(storage_key_file=key), recheck=0.01, other_key_pause=1.0) for key in keys]
        with_token: set[SharedSession] = set()

        started = time.monotonic()
        while time.monotonic() < started + 3.5:
            for host in hosts:
                with suppress(SessionUnavailable):
                    host.current(wait=0.05)
                    with_token.add(host)
                with suppress(SessionUnavailable):
                    host.renew()

        assert with_token == set(hosts)
        assert sandbox.counters()["logins"] <= 1 + (time.monotonic() - started) / 1.0

    def test_a_host_whose_token_the_other_login_ended_waits_too(
        self, member: Member, configure: Configure, sandbox: SandboxControl, tmp_path: Path
    ) -> None:
        host = member(recheck=0.01, other_key_pause=2.0)
        other = member(configure(storage_key_file=new_storage_key(tmp_path)), other_key_pause=0.1)
        sandbox.switches(one_session=True)
        ended = host.current()
        other.current()

        with pytest.raises(SessionUnavailable, match="another storage key"):
            host.rejected(ended, wait=0.05)
        assert sandbox.counters()["logins"] == 2

        assert host.current().generation > ended.generation
        assert sandbox.counters()["logins"] == 3

    def test_a_host_that_refreshes_its_session_does_not_keep_the_others_out(
        self, host: SharedSession, other: Callable[..., SharedSession], sandbox: SandboxControl
    ) -> None:
        host.current()
        assert until(lambda: renewed(host))
        assert host.state().origin == "refresh"

        assert other().current().generation
        assert sandbox.counters()["logins"] == 2

    def test_a_host_whose_sessions_live_shortly_does_not_keep_the_others_out(
        self, host: SharedSession, other: Callable[..., SharedSession], sandbox: SandboxControl
    ) -> None:
        sandbox.switches(access_format="jwt", access_lifetime=20)
        host.current()
        late = other()

        with pytest.raises(SessionUnavailable, match="another storage key") as caught:
            late.current(wait=0.05)

        assert 0 < (caught.value.retry_after or 0) <= 10.0

    def test_a_session_that_has_ended_is_replaced_at_once(
        self,
        host: SharedSession,
        other: Callable[..., SharedSession],
        broker: Broker,
        session_key: Callable[[], str],
        sandbox: SandboxControl,
    ) -> None:
        host.current()
        with broker.client as client:
            client.hset(session_key(), "expires_at", 0)

        assert other().renew().outcome == "login"
        assert sandbox.counters()["logins"] == 2

    def test_a_person_may_log_in_at_once(self, host: SharedSession, other: Callable[..., SharedSession]) -> None:
        host.current()

        assert other().renew(force=True, wait=15).outcome == "login"

    def test_it_is_logged_once_for_each_session_however_often_somebody_looks(
        self, host: SharedSession, other: Callable[..., SharedSession], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The console looks every three seconds."""
        host.current()
        looks = other()

        for _ in range(3):
            assert not looks.state().readable

        assert caplog.text.count("no storage key opens generation") == 1


@contextmanager
def unprivileged() -> Iterator[None]:
    """Let this thread, and those it starts, open only what any user may open: root may open everything."""
    libc = ctypes.CDLL(None)
    libc.setfsuid(65534)
    try:
        yield
    finally:
        libc.setfsuid(os.geteuid())


@pytest.fixture
def key_folder(configure: Configure, tmp_path: Path) -> Path:
    """The keys in a folder of their own, and settings that name it."""
    folder = tmp_path / "keys"
    folder.mkdir()
    settings = configure()
    for name, path in (
        ("private_key_file", settings.private_key_file[0]),
        ("storage_key_file", settings.storage_key_file),
    ):
        (folder / name).write_bytes(path.read_bytes())
        (folder / name).chmod(0o600)
        configure(**{name: folder / name})
    return folder


class TestKeysThatBecomeUnusable:
    """They were checked at start: later on they are a login that cannot be made, and no operation fails for it."""

    @pytest.mark.parametrize("name", ["private_key_file", "storage_key_file"])
    def test_nobody_logs_in_until_they_are_repaired(self, member: Member, key_folder: Path, name: str) -> None:
        (key_folder / name).chmod(0o644)
        session = member(recheck=0.05, refused_cooldown=0.2)

        with pytest.raises(CredentialsRejected, match="chmod 600"):
            session.current()

        (key_folder / name).chmod(0o600)
        assert until(lambda: token_or_none(session))

    def test_callers_wait_while_their_folder_cannot_be_searched(
        self, member: Member, key_folder: Path, sandbox: SandboxControl
    ) -> None:
        session = member(recheck=0.05)
        key_folder.chmod(0)
        try:
            with unprivileged():
                with pytest.raises(CredentialsRejected, match=r"cannot be read \(Permission denied\)"):
                    session.current()
                with pytest.raises(CredentialsRejected, match=r"cannot be read \(Permission denied\)"):
                    session.renew()
        finally:
            key_folder.chmod(0o700)

        assert token_calls(sandbox) == 0
        assert until(lambda: token_or_none(session))  # at once: other keys than those that were refused

    @pytest.mark.parametrize("broken", ["x" * 300, "private_key_file"], ids=["name too long", "loop of links"])
    def test_a_path_that_leads_nowhere_is_reported_with_its_reason(
        self, member: Member, key_folder: Path, broken: str
    ) -> None:
        (key_folder / "private_key_file").unlink()
        (key_folder / "private_key_file").symlink_to(broken)

        with pytest.raises(CredentialsRejected, match=r"private_key_file cannot be read \(.+\)"):
            member().current()

    def test_a_process_with_a_token_of_its_own_goes_on_with_it(self, member: Member, key_folder: Path) -> None:
        session, other = member(recheck=0.001), member()
        token = session.current()
        other.renew(force=True, wait=15)
        (key_folder / "storage_key_file").chmod(0o644)

        assert session.current() == token
        assert not session.state().readable
        (key_folder / "storage_key_file").chmod(0o600)
        assert until(lambda: session.current() == other.current())


class TestOneHostWithAnUnusableStorageKey:
    """It cannot store a token pair, so it requests none, and it does not stop the hosts whose key is usable."""

    @pytest.fixture
    def healthy(self, member: Member) -> SharedSession:
        return member()

    @pytest.fixture
    def storage_key_file(self, healthy: SharedSession, configure: Configure, tmp_path: Path) -> Path:
        file = tmp_path / "storage_key_file"
        file.write_bytes(configure().storage_key_file.read_bytes())
        file.chmod(0o600)
        return file

    @pytest.fixture
    def broken(self, member: Member, configure: Configure, storage_key_file: Path) -> SharedSession:
        return member(configure(storage_key_file=storage_key_file))

    def test_it_does_not_log_in_and_the_others_do(
        self, healthy: SharedSession, broken: SharedSession, storage_key_file: Path, sandbox: SandboxControl
    ) -> None:
        storage_key_file.chmod(0o644)

        with pytest.raises(CredentialsRejected, match="chmod 600"):
            broken.current()

        started = time.monotonic()
        assert healthy.current().generation
        assert time.monotonic() - started < 3
        assert sandbox.counters()["logins"] == 1
        with pytest.raises(CredentialsRejected, match="chmod 600"):
            broken.current()
        assert healthy.state().cooldown is None

    def test_with_a_token_of_its_own_it_leaves_the_renewal_to_the_others(
        self,
        healthy: SharedSession,
        broken: SharedSession,
        storage_key_file: Path,
        sandbox: SandboxControl,
        due: Callable[[], None],
    ) -> None:
        token = broken.current()
        due()
        storage_key_file.chmod(0o644)

        with pytest.raises(CredentialsRejected, match="chmod 600"):
            broken.renew()

        assert broken.current() == token
        assert healthy.renew().outcome == "refresh"
        assert token_calls(sandbox) == 2

    def test_a_key_that_becomes_unusable_during_a_login_loses_no_pair(
        self, broken: SharedSession, storage_key_file: Path, sandbox: SandboxControl
    ) -> None:
        sandbox.switches(latency={"token": 0.5})
        token: list[object] = []
        caller = threading.Thread(target=lambda: token.append(broken.renew().outcome))
        caller.start()
        until(lambda: broken.state().leader)
        storage_key_file.chmod(0o644)
        caller.join()

        assert token == ["login"]
        assert sandbox.counters()["logins"] == 1
