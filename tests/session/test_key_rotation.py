"""Keys that are replaced, or become unusable, while the fleet runs."""

from pathlib import Path

import pytest

from tests.conftest import Configure, Member
from tests.session.fleet import token_or_none
from tests.support import until
from worker.errors import (
    CredentialsRejected,
)
from worker.sandbox.control_client import SandboxControl
from worker.testbed.keys import new_key_pair, new_storage_key


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
        other = member(configure(storage_key_file=new_storage_key(tmp_path)))

        assert not other.state().readable
        assert other.current().generation
        assert other.state().readable
        assert sandbox.counters()["logins"] == 2


class TestKeysThatGoBadAtWork:
    """They were checked at start: later on they are a login that cannot be made, and no operation fails for it."""

    @pytest.mark.parametrize("setting", ["private_key_file", "storage_key_file"])
    def test_nobody_may_log_in_until_they_are_repaired(
        self, member: Member, configure: Configure, tmp_path: Path, setting: str
    ) -> None:
        settings = configure()
        original = settings.storage_key_file if setting == "storage_key_file" else settings.private_key_file[0]
        copy = tmp_path / "copy"
        copy.write_bytes(original.read_bytes())
        copy.chmod(0o644)
        session = member(configure(**{setting: copy}), recheck=0.05, refused_cooldown=0.2)

        with pytest.raises(CredentialsRejected, match="chmod 600"):
            session.current()

        copy.chmod(0o600)
        assert until(lambda: token_or_none(session))
