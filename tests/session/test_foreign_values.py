"""Corrupt or foreign values in the session's Redis keys: no session, one login, and never an error that is not ours."""

from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import Member
from tests.support import until
from worker.errors import SessionUnavailable
from worker.sandbox.control_client import SandboxControl
from worker.session.shared_session import SharedSession
from worker.testbed.broker import Broker

SESSION = """generation blob expires_at renew_after obtained_at life origin credential written_by fingerprint
             refresh_token_used_by"""
FIELDS = {
    "session": SESSION.split(),
    "renewal_lease": ["owner", "generation", "length"],
    "cooldown": ["class", "reason", "until", "length", "failures"],
}
ODD = [b"", b"abc", b"\xff\xfe", b"-1", b"0", b"1e400", b"nan", b"inf", b"0x10", b"1_000", b" 7 ", b"\xc2\xb2", b"1.5"]
ODD += [b"9" * 15, b"9" * 400, b"\0", b"x" * 100_000]
VALUES = st.binary(max_size=30) | st.sampled_from(ODD) | st.integers(0, 10**16).map(lambda number: b"%d" % number)
HASHES = st.fixed_dictionaries(
    {}, optional={key: st.dictionaries(st.sampled_from(names), VALUES, min_size=1) for key, names in FIELDS.items()}
)
STRINGS = st.fixed_dictionaries({}, optional={"last_generation": VALUES, "pace": VALUES})


def token_of(session: SharedSession) -> object:
    """Return a token, or None while the operation would wait. Any other error, a refused login too, fails the test."""
    try:
        session.renew()
        return session.current(wait=0.2)
    except SessionUnavailable:
        return None


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(hashes=HASHES, strings=STRINGS)
@example(hashes={"session": {"generation": b"abc"}}, strings={})
@example(hashes={"session": {"origin": b"\xff\xfe"}}, strings={})
@example(hashes={"session": {"generation": b"9" * 15}}, strings={"last_generation": b"9" * 15})
@example(hashes={"cooldown": {"class": b"terminal", "until": b"9" * 15}}, strings={"pace": b"nobody"})
@example(hashes={"renewal_lease": {"owner": b"nobody"}}, strings={})
def test_any_value_in_any_field_costs_a_login_at_most(
    hashes: dict[str, dict[str, bytes]],
    strings: dict[str, bytes],
    member: Member,
    broker: Broker,
    sandbox: SandboxControl,
) -> None:
    session = member(recheck=0.001, lease=0.2)
    assert until(lambda: token_of(session))
    logins = sandbox.counters()["logins"]
    prefix = session.state().identity.key_prefix
    with redis.Redis.from_url(broker.url) as client:
        for key, fields in hashes.items():
            client.hset(f"{prefix}:{key}", mapping=fields)
        for key, value in strings.items():
            client.set(f"{prefix}:{key}", value)

    assert until(lambda: token_of(session))
    newcomer = member(lease=0.2)
    assert until(lambda: token_of(newcomer))
    assert sandbox.counters()["logins"] <= logins + 1
    assert sandbox.counters()["refresh_reuses"] == 0


@pytest.mark.parametrize("field", ["generation", "expires_at", "renew_after", "obtained_at", "life"])
def test_whatever_is_no_number_is_no_session(field: str, member: Member, broker: Broker) -> None:
    session = member(recheck=0.001)
    with redis.Redis.from_url(broker.url) as client:
        for value in (value for value in ODD if not value.isdigit() or len(value) > 15):
            assert until(lambda: session.renew(wait=1).outcome == "fresh")  # no renewal is left running
            client.hset(f"{session.state().identity.key_prefix}:session", field, value)
            assert session.state().generation == 0


@pytest.mark.parametrize("key", ["session", "renewal_lease", "last_generation", "cooldown", "pace"])
@pytest.mark.parametrize("kind", ["string", "list", "hash"])
def test_a_key_of_another_type_is_no_obstacle(key: str, kind: str, member: Member, broker: Broker) -> None:
    session = member(recheck=0.001)
    before = session.current()
    name = f"{session.state().identity.key_prefix}:{key}"
    with redis.Redis.from_url(broker.url) as client:
        client.delete(name)
        make: dict[str, Any] = {
            "string": lambda: client.set(name, "x"),
            "list": lambda: client.rpush(name, "x"),
            "hash": lambda: client.hset(name, "x", "y"),
        }
        make[kind]()

    assert until(lambda: token_of(session))
    renewal = until(lambda: renewed(member()))
    assert renewal > before.generation


def renewed(session: SharedSession) -> int:
    renewal = session.renew(force=True, wait=15)
    return renewal.generation if renewal.outcome in {"refresh", "login"} else 0
