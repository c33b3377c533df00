"""`webhook`: try the CRM's endpoint with a signed sample, and check a notice that it received."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.cli.conftest import Command
from tests.http.raw_server import Wire
from tests.http.test_wire import answers
from tests.webhook.conftest import SECRETS
from tests.webhook.test_endpoint import answer, head_and_body
from tests.webhook.test_notify_task import received
from worker.cli import app
from worker.testbed.local_system import Environment
from worker.webhook.signing import Secrets


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "webhook.secret"
    path.write_text(SECRETS[0])
    path.chmod(0o600)
    return path


def test_a_sample_reaches_the_crm_and_verify_finds_it_genuine(
    b2copy_sync: Command, wire: Wire, secret_file: Path
) -> None:
    settings = {"B2COPY_WEBHOOK_URL": wire.url, "B2COPY_WEBHOOK_SECRET_FILE": str(secret_file)}

    ran = b2copy_sync("webhook", "test", "--json", **settings)

    assert (ran.code, ran.document["delivered"], ran.document["status"]) == (0, True, 200)
    _, headers, body = head_and_body(wire.requests[0])
    assert json.loads(body)["type"] == "webhook.test"
    assert Secrets(SECRETS[:1]).problem(body, headers) is None
    options = ["--id", "--timestamp", "--signature"]
    values = [headers[f"webhook-{option[2:]}"] for option in options]
    command = ["webhook", "verify", "--secret-file", str(secret_file)]
    command += [part for pair in zip(options, values, strict=True) for part in pair]
    genuine, forged = (CliRunner().invoke(app, command, input=sent) for sent in (body, body + b" "))
    assert (genuine.exit_code, genuine.output) == (0, "genuine\n")
    assert (forged.exit_code, forged.output) == (1, "not to be trusted: No matching signature found\n")


def test_a_sample_is_harmless_to_a_receiver_that_does_not_look_at_the_type(
    b2copy_sync: Command, wire: Wire, secret_file: Path
) -> None:
    b2copy_sync("webhook", "test", B2COPY_WEBHOOK_URL=wire.url, B2COPY_WEBHOOK_SECRET_FILE=str(secret_file))

    data = json.loads(head_and_body(wire.requests[0])[2])["data"]
    assert (data["state"], data["key"]) == ("cancelled", "fees.process:webhook-test-only")
    assert data["payload"] == {"account_login": "0", "request_id": "webhook-test-only"}


def test_a_crm_that_refuses_the_sample_is_shown(b2copy_sync: Command, wire: Wire, secret_file: Path) -> None:
    wire.answer = answers(answer("404 Not Found", body=b"no such page"))

    ran = b2copy_sync("webhook", "test", B2COPY_WEBHOOK_URL=wire.url, B2COPY_WEBHOOK_SECRET_FILE=str(secret_file))

    assert ran.code == 1
    assert ran.out == f"not delivered: {wire.url}: notice (HTTP 404): no such page\n"


def test_the_crms_task_gets_a_sample_too(
    b2copy_sync: Command, environment: Environment, wire: Wire, secret_file: Path
) -> None:
    task = {"B2COPY_NOTIFY_TASK": "crm.fees_ended", "B2COPY_NOTIFY_QUEUE": "crm"}
    url = {"B2COPY_WEBHOOK_URL": wire.url, "B2COPY_WEBHOOK_SECRET_FILE": str(secret_file)}

    ran = b2copy_sync("webhook", "test", **task)
    assert ran.out == "delivered: task crm.fees_ended is in the queue; a worker of the CRM reads it there\n"
    both = b2copy_sync("webhook", "test", "--json", **task, **url)

    assert [one["delivered"] for one in both.document["routes"]] == [True, True]
    messages = [received(environment.broker.url) for _ in range(2)]
    assert {message.payload[0][0]["type"] for message in messages} == {"webhook.test"}


def test_without_a_url_there_is_nothing_to_try(b2copy_sync: Command) -> None:
    ran = b2copy_sync("webhook", "test")

    assert ran.code == 2
    assert ran.err == "B2COPY_WEBHOOK_URL and B2COPY_NOTIFY_TASK are not set: the CRM gets no notices\n"
