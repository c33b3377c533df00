"""What a CRM loads when it imports `tasks.enqueue`: no HTTP client, no cryptography, and no Celery before a wake-up.

SQLAlchemy (0.18 s, 30 MB) and pydantic (0.08 s, 10 MB) are most of what is left; our own files are 0.07 s and 4 MB.
"""

import os
import subprocess
import sys

MAY_LOAD = {
    "tasks", "worker",
    "sqlalchemy", "tenacity",  # the ledger; with its driver when it is opened
    "pydantic", "pydantic_core", "pydantic_settings", "annotated_types", "typing_extensions", "typing_inspection",
    "dotenv",
    "cython_runtime", "greenlet",  # by SQLAlchemy, if it is installed
}  # fmt: skip

LIST = """
import sys
import tasks.enqueue
found = {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
found.discard("sitecustomize")  # of Debian's Python
print(*sorted(name for name in found if not name.startswith("_")))
"""


def test_importing_enqueue_loads_neither_http_nor_cryptography_nor_celery() -> None:
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    listed = subprocess.run(
        [sys.executable, "-c", LIST], env=unmeasured, capture_output=True, text=True, timeout=55, check=True
    )

    assert set(listed.stdout.split()) - MAY_LOAD == set()


def test_a_worker_has_the_client_all_the_same() -> None:
    from worker.b2copy import B2Copy, client
    from worker.http import Http, Transport

    assert B2Copy is client.B2Copy
    assert Http.__module__ == "worker.http.client"
    assert Transport.__module__ == "worker.http.requests_adapter"
