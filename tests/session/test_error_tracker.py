"""An error tracker gets no secret: sentry-sdk with its Celery integration sends each frame's variables."""

import json
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Configure, Member
from tests.session.test_secrets import ASSERTION, FEES, PAYLOAD
from tests.support import post
from worker.http import Http
from worker.sandbox.control_client import SandboxControl

sentry_sdk = pytest.importorskip("sentry_sdk", reason="sentry-sdk is not installed: what it would send is not tested")


@pytest.fixture
def events() -> Iterator[list[str]]:
    """Return what the tracker was sent, as JSON."""
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.transport import Transport

    sent: list[str] = []

    class Collect(Transport):  # type: ignore[misc,unused-ignore]
        def capture_envelope(self, envelope: Any) -> None:
            sent.extend(json.dumps(item.payload.json) for item in envelope.items if item.payload.json)

    client = sentry_sdk.Client(
        dsn="http://key@127.0.0.1:1/1", transport=Collect, integrations=[CeleryIntegration()],
        default_integrations=False, include_local_variables=True, max_breadcrumbs=0,
        event_scrubber=sentry_sdk.scrubber.EventScrubber(denylist=[]),  # nothing is hidden by the tracker itself
    )  # fmt: skip
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(client)
        yield sent
    client.close(timeout=0)


def captured(act: Callable[[], Any]) -> str:
    """Do what fails, hand its error to the tracker, and return the error's text."""
    try:
        act()
    except Exception as error:
        sentry_sdk.capture_exception(error)
        return "".join(traceback.format_exception(error))
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("status", [429, 401, 503])
def test_a_failing_login_and_refresh_send_no_secret(
    events: list[str], member: Member, configure: Configure, sandbox: SandboxControl, status: int
) -> None:
    settings = configure()
    session = member(settings, token_deadline=0.5, login_attempts=1)
    http = Http({"service_admin": session}, settings)
    post(http, FEES, PAYLOAD)
    sandbox.faults({"what": "status", "status": status, "route": "token"})

    captured(lambda: session.renew(force=True, wait=15))
    sandbox.revoke_all()
    captured(lambda: post(http, FEES, PAYLOAD))
    sandbox.faults()

    tokens = [pair[name] for pair in sandbox.pairs() for name in ("access", "refresh")]
    private = settings.private_key_file[0].read_text().splitlines()[1]
    assert len(events) == 2
    assert all('"vars"' in event for event in events)
    for secret in [*tokens, private, ASSERTION]:
        assert not [event for event in events if secret in event]


def test_an_internal_error_with_the_session_and_the_settings_in_its_frame_sends_no_secret(
    events: list[str], member: Member, configure: Configure, sandbox: SandboxControl
) -> None:
    session = member(configure())
    post(Http({"service_admin": session}, configure()), FEES, PAYLOAD)
    settings = configure(redis_url="redis://:hunter2@127.0.0.1:1/0", database_url="postgresql://u:hunter2@h/d")

    def fail() -> None:
        known, token = settings, session.current()
        raise KeyError(type(known), type(token))

    captured(fail)
    # The tracker also sends the lines of the source around the fault, and this test's own hold the password.
    event = json.loads(events[0])
    for frame in event["exception"]["values"][0]["stacktrace"]["frames"]:
        for name in ("pre_context", "context_line", "post_context"):
            frame.pop(name, None)
    shown = json.dumps(event)

    tokens = [pair[name] for pair in sandbox.pairs() for name in ("access", "refresh")]
    assert len(events) == 1
    assert "Settings(" in shown
    for secret in [*tokens, "hunter2@"]:
        assert secret not in shown
