"""How long a token lives, and what it tells about itself."""

import base64
import hashlib
import pickle
from typing import Any

import jwt
import pytest

from worker.session.secret import Secret
from worker.session.tokens import Pair, Token, fingerprint, life_of

SERVER_TIME = 1_800_000_000.0
NESTED = base64.urlsafe_b64encode(b"[" * 50_000).decode()


def token(**claims: Any) -> str:
    return jwt.encode(claims, "not ours to verify, and long enough for HS256", algorithm="HS256")


@pytest.mark.failure_mode("F28")
@pytest.mark.parametrize(
    ("access", "expires_in", "life"),
    [
        ("opaque", None, None),
        ("opaque", 300, 300.0),
        ("opaque", "300", 300.0),
        ("opaque", 0, None),
        ("opaque", 1, 1.0),
        ("opaque", -5, None),
        ("opaque", "soon", None),
        ("opaque", True, None),
        ("opaque", float("nan"), None),
        ("opaque", 1e18, None),
        ("opaque", float("inf"), None),
        ("opaque", 10**400, None),
        (f"a.{NESTED}.c", None, None),
        ("opaque", {"seconds": 3}, None),
        ("a.b.c", None, None),
        ("a.W10.c", None, None),
        ("opaque", 0.5, 0.5),
        ("opaque", 0.49, None),
        ("opaque", "1e-9", None),
        (token(exp=SERVER_TIME + 0.1), None, None),
        ("opaque", 30 * 86400, 30 * 86400.0),
        ("opaque", 30 * 86400 + 1, None),
        ("a.b", None, None),
        (f"{token(iat=1000, exp=1900)}.more", None, None),
        (token(iat=1000, exp=1900), None, 900.0),
        (token(iat=1000, exp=1900), 300, 300.0),
        (token(iat=1000, exp=1900), 900_000, 900.0),  # milliseconds
        (token(iat=1000, exp=87_400), 86_400_000, 86_400.0),
        (token(iat=1000, exp=1900), "soon", 900.0),
        (token(iat=1900, exp=1000), 300, 300.0),
        (token(iat=1000), 300, 300.0),
        (token(iat=1000, exp=1900, a=1), None, 900.0),
        (token(iat=1000, exp=1900, ab=1), None, 900.0),
        (token(iat=1000, exp=1900, abc=1), None, 900.0),
        (token(exp=SERVER_TIME + 60), None, 60.0),
        (token(iat=1900, exp=1000), None, None),
        (token(exp=SERVER_TIME - 60), None, None),
        (token(iat=1000), None, None),
        (token(), None, None),
    ],
)
def test_a_life_that_cannot_be_true_is_not_believed(access: str, expires_in: Any, life: float | None) -> None:
    assert life_of(Secret(access), SERVER_TIME, expires_in) == life


def test_the_fingerprint_of_a_token_is_the_same_in_every_version() -> None:
    assert fingerprint(Secret("access")) == hashlib.sha256(b"access").hexdigest()[:12]


def test_an_expiry_alone_means_nothing_without_the_servers_clock() -> None:
    assert life_of(Secret(token(exp=SERVER_TIME + 60)), None) is None


@pytest.mark.failure_mode("F51")
@pytest.mark.parametrize(
    "secret", [Token(Secret("canary-access"), 7), Pair(Secret("canary-access"), Secret("canary-refresh"), 3.0)]
)
def test_a_token_shows_its_fingerprint_and_never_itself(secret: Token | Pair) -> None:
    shown = f"{secret!r} {secret} {[secret]}"

    assert "canary" not in shown
    assert fingerprint(Secret("canary-access")) in shown


@pytest.mark.parametrize(
    "secret", [Token(Secret("canary-access"), 7), Pair(Secret("canary-access"), Secret("canary-refresh"), 3.0)]
)
def test_a_token_does_not_leave_its_process(secret: Token | Pair) -> None:
    with pytest.raises(TypeError, match="does not leave its process"):
        pickle.dumps(secret)
