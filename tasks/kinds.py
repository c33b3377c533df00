"""All kinds there are."""

from typing import Any

from tasks.calls import CALL
from tasks.fees import FEES
from tasks.kind import Kind

KINDS: dict[str, Kind[Any]] = {kind.name: kind for kind in (FEES, CALL)}
