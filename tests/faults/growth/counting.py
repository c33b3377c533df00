"""Loaded into a worker (`celery worker --include`): writes the number of its SQL statements to a file."""

import itertools
import os
import threading
import time
from pathlib import Path

from sqlalchemy import Engine, event

_counter = itertools.count(1)
_statements = [0]


@event.listens_for(Engine, "before_cursor_execute")
def _count(*_: object) -> None:
    _statements[0] = next(_counter)


def _write(path: Path) -> None:
    written = -1
    while True:
        count = _statements[0]
        if count != written:
            path.with_suffix(".new").write_text(str(count))
            path.with_suffix(".new").rename(path)
            written = count
        time.sleep(0.1)


threading.Thread(
    target=_write, args=(Path(os.environ["STATEMENTS_FOLDER"]) / f"{os.getpid()}.statements",), daemon=True
).start()
