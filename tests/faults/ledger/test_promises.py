"""What the judge of a fault run calls a broken promise."""

from types import SimpleNamespace
from typing import Any

from tests.faults.ledger.promises import Accepted, result_of_another


def request(what: str, name: str = "enqueue-1") -> Accepted:
    kind = "fees.process" if what in {"none_due", "pending", "error"} else "call"
    return Accepted("enqueue", what, f"{kind}:{name}", 0.0)


def row(**columns: Any) -> Any:
    return SimpleNamespace(**{"id": 1, "state": "succeeded", "result": '{"name": "enqueue-1"}'} | columns)


def test_a_call_that_succeeded_has_the_answer_to_what_it_sent() -> None:
    for what in ("call", "ordered", "repeatable"):
        assert result_of_another(request(what), row()) is None
        for result in ('{"name":"enqueue-2"}', '{"name":"enqueue-1","more":1}', "{}", None):
            assert result_of_another(request(what), row(result=result)) == f"call:enqueue-1 has the result {result}"

    assert result_of_another(request("call"), row(state="failed", result=None)) is None
    assert result_of_another(request("none_due"), row(result='{"status":"SUCCESS"}')) is None
