"""Our top-level packages `worker` and `tasks`, and other files of these names that hide them.

Python takes the first `tasks` on `sys.path`. The folder of a script, and for `celery` the current folder, come before
the installed packages, and many a Celery user has a `tasks.py` there.
"""

from importlib.util import find_spec
from pathlib import Path

NAMES = ("worker", "tasks")
OTHER_WAYS = (
    "b2copy-sync's packages are called worker and tasks. Rename the other, or start the worker with"
    " b2copy-sync worker, or use a way that imports nothing of ours: Celery's send_task to the queue"
    " b2copy.inbox, or an INSERT into b2copy_requests"
)


def check_ours(name: str) -> None:
    """Raise `ImportError` if importing `name` would give another package than ours."""
    spec = find_spec(name)
    ours = Path(__file__).resolve().parents[1] / name / "__init__.py"
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != ours:
        raise ImportError(f"{spec and spec.origin} hides our package {name!r}. {OTHER_WAYS}")


def hiding_files(folder: Path) -> list[Path]:
    """Return the files and packages in a folder that hide ours from a script or a `celery` command started there."""
    found = [one for name in NAMES for one in (folder / f"{name}.py", folder / name / "__init__.py") if one.exists()]
    ours = Path(__file__).resolve().parents[1]
    return [one for one in found if ours not in one.resolve().parents]
