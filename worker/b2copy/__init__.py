"""B2COPY's API: one method per call, and the one place that tells what an answer means."""

from worker.b2copy.client import B2Copy
from worker.b2copy.fees import FeeState, FeeStatus

__all__ = ["B2Copy", "FeeState", "FeeStatus"]
