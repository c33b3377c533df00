"""Our Celery app takes its settings from B2COPY_ variables alone."""

import subprocess
import sys
from pathlib import Path

from worker.testbed.local_system import Environment

SHOW = """
from worker.app import app
for connection in (app.connection_for_read(), app.connection_for_write(), app.connection()):
    print(connection.hostname, connection.port)
print(type(app.backend).__name__, app.conf.accept_content, app.conf.task_always_eager, app.loader.__module__)
"""


def test_no_variable_of_a_crms_own_celery_changes_ours(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "crm_celery.py").write_text(
        "task_always_eager = True\naccept_content = ['pickle']\nbroker_url = 'redis://crm.example/1'\n"
    )
    foreign = {
        "CELERY_BROKER_URL": "redis://crm.example:1/5",
        "CELERY_BROKER_READ_URL": "redis://crm.example:1/5",
        "CELERY_BROKER_WRITE_URL": "redis://crm.example:1/5",
        "CELERY_RESULT_BACKEND": "redis://crm.example:1/6",
        "CELERY_LOADER": "default",
        "CELERY_CONFIG_MODULE": "crm_celery",
        "DJANGO_SETTINGS_MODULE": "crm.settings",  # which Celery would import
    }
    variables = environment.variables | foreign | {"PYTHONPATH": str(tmp_path)}

    shown = subprocess.run(
        [sys.executable, "-c", SHOW], env=variables, capture_output=True, text=True, timeout=30, check=True
    ).stdout.splitlines()

    assert shown[:3] == [f"127.0.0.1 {environment.broker.port}"] * 3
    assert shown[3] == "DisabledBackend ['json'] False worker.celery_settings"
