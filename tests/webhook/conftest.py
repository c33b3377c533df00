"""`endpoint`: a CRM's webhook at `wire`, whose notices `secrets` sign."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.http.raw_server import Wire
from worker.settings import Settings
from worker.webhook.endpoint import Endpoint

SECRETS = ("whsec_" + "bmV3" * 8, "whsec_" + "b2xk" * 8)  # newest first

MakeEndpoint = Callable[..., Endpoint]


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "webhook.secret"
    path.write_text(SECRETS[0] + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def endpoint(wire: Wire, secret_file: Path) -> MakeEndpoint:
    """Return a function that makes an endpoint; `settings` replace the usual ones."""

    def make(**settings: Any) -> Endpoint:
        usual: dict[str, Any] = {
            "webhook_url": f"{wire.url}/hooks?of=b2copy",
            "webhook_secret_file": secret_file,
            "webhook_ca_file": None,
            "concurrency": 2,
        }
        return Endpoint(Settings.model_construct(**usual | settings))

    return make
