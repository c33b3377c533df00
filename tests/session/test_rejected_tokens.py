"""What a 401 on a call does to the session."""

from collections.abc import Callable

import pytest

from tests.conftest import Configure, Member
from tests.session.fleet import together, token_calls
from worker.errors import (
    SessionUnavailable,
)
from worker.sandbox.control_client import SandboxControl
from worker.session.tokens import Token


class TestRejectedTokens:
    @pytest.mark.failure_mode("F17")
    def test_sixteen_401s_make_one_renewal(self, member: Member, sandbox: SandboxControl) -> None:
        members = [member() for _ in range(16)]
        rejected = [session.current() for session in members]
        sandbox.revoke_all()

        tokens = together(*[lambda s=s, t=t: s.rejected(t) for s, t in zip(members, rejected, strict=True)])

        assert len(set(tokens)) == 1
        assert tokens[0].generation > rejected[0].generation
        assert sandbox.counters()["logins"] == 2

    def test_a_late_401_uses_what_is_there(self, member: Member, sandbox: SandboxControl) -> None:
        session, other = member(), member()
        old = session.current()
        other.renew(force=True, wait=15)
        calls = token_calls(sandbox)

        assert session.rejected(old) == other.current()
        assert token_calls(sandbox) == calls

    def test_a_rejected_token_is_used_by_nobody_during_a_cooldown(
        self, member: Member, sandbox: SandboxControl
    ) -> None:
        session, other = member(recheck=0.0), member(recheck=0.0)
        token = session.current()
        other.current()
        sandbox.faults({"what": "status", "status": 503, "route": "token", "retry_after": "30"})

        asking: list[Callable[[], Token]] = [lambda: session.rejected(token), session.current, other.current]
        for asks in asking:
            with pytest.raises(SessionUnavailable):
                asks()

    def test_a_guessed_life_grows_back(self, member: Member, configure: Configure, sandbox: SandboxControl) -> None:
        session = member(configure(token_ttl=100))
        session.rejected(session.current())
        assert (session.state().expires_in or 0) <= 10

        session.renew(force=True, wait=15)

        assert 10 < (session.state().expires_in or 0) <= 12.5
