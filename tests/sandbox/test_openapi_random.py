"""Random requests made from the OpenAPI document, valid and invalid: each answer must be one that it documents."""

from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, checks

from tests.sandbox.caller import Caller
from worker.sandbox.openapi import DOCUMENT

OPERATIONS: list[Any] = [result.ok() for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]  # type: ignore[union-attr]
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
URL_LIMIT = 8000  # characters; the HTTP server answers a request with a longer line before the sandbox sees it
QUICK = settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
CASES = [
    pytest.param(operation, mode, id=f"{operation.definition.raw['operationId']}-{mode.value}")
    for operation in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or operation.body or operation.query or operation.path_parameters
]


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_each_answer_is_a_documented_one(caller: Caller, operation: Any, mode: GenerationMode) -> None:
    access, refresh = caller.pair()
    token = refresh if operation.definition.raw["operationId"] == "refreshtoken" else access

    @QUICK
    @given(data=st.data())
    def send(data: st.DataObject) -> None:
        case: Case[Any] = data.draw(operation.as_strategy(generation_mode=mode))
        sent = requests.Request(**case.as_transport_kwargs(base_url=caller.base_url)).prepare()
        assume(len(sent.url or "") < URL_LIMIT)
        case.call_and_validate(
            base_url=caller.base_url,
            session=caller.http,
            headers={"Authorization": f"Bearer {token}"},
            checks=CHECKS,
            timeout=5,
        )

    send()
