"""Where a generic call may go."""

import pytest

from worker.b2copy.routes.generic import check_allowed, checked_path
from worker.errors import BadPayload

UPDATE = "/api/admin/clients/v2/client/clientservice/update"
ALL = ["/api/admin/*"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "https://elsewhere.example/api/admin/a/v1/b/c",
        "//elsewhere.example/api/admin/a/v1/b/c",
        "/api/admin/clients/v2/../../auth/v2/admin",
        "/api/admin/clients/v2/./client/update",
        "/api/admin/clients/v2/%2e%2e/auth/update",
        "/api/admin/clients/v2/client%2fclientservice/update",
        "/api/admin/clients/v2//clientservice/update",
        "/api/admin/clients/v2/client/clientservice/update/",
        "/api/admin/clients/v2/client/clientservice/update?x=1",
        "/api/admin/clients/v2/client/clientservice/update#x",
        "/api/admin/clients/v2/client/clientservice/update;x",
        "/api/admin/clients/v2/client/clientservice/update\\x",
        "/api/admin/clients/v2/client/clientservice/update\n",
        "/api/admin/clients/v2/client/clientservice/update\0",
        "/api/admin/clients/v\u0662/client/clientservice/update",
        "/api/admin/clients/v2/client/\uff43lientservice/update",
        "/API/admin/clients/v2/client/clientservice/update",
        "/api/v2/b2copy/accounts",
        "/api/admin/" + "x" * 100_000,
        UPDATE + "e" * 300,
    ],
)
def test_a_path_that_is_not_one_of_the_admin_api_is_refused(path: str) -> None:
    with pytest.raises(BadPayload, match=r"path: .* is not /api/admin/") as refused:
        checked_path(path)
    assert len(str(refused.value)) < 450


def test_a_path_of_255_characters_is_not_too_long() -> None:
    path = UPDATE + "e" * (255 - len(UPDATE))

    assert checked_path(path) == path
    with pytest.raises(BadPayload, match="at most 255 characters"):
        checked_path(path + "e")


@pytest.mark.parametrize(
    "path",
    [
        "/api/admin/auth/v2/admin/adminservice/authexternalcrm",
        "/api/admin/auth/v2/admin/adminservice/refreshtoken",
        "/api/admin/auth/v2/admin/adminservice/anything",
        "/api/admin/Auth/v2/admin/adminservice/anything",
        "/api/admin/AUTH/v3/admin/AdminService/RefreshToken",
        "/api/admin/other/v2/admin/adminservice/refreshtoken",
        "/api/admin/fees/v2/fee/feeservice/processext",
        "/api/admin/fees/v2/fee/FeeService/ProcessExt",
        "/api/admin/fees/v3/fee/feeservice/processext",
        "/api/admin/fees/v2/feeservice/processext/x",
        "/api/admin/other/v2/adminservice/RefreshToken",
        "/api/admin/other/v2/adminservice/RefreshToken/x",
    ],
)
def test_a_login_and_what_has_a_kind_of_its_own_is_refused_in_any_case_and_version(path: str) -> None:
    with pytest.raises(BadPayload, match="not for generic calls"):
        checked_path(path)


@pytest.mark.parametrize(
    ("allowed", "taken"),
    [
        (["/api/admin/*"], True),
        (["/api/admin/clients/*"], True),
        (["/api/admin/accounts/*", UPDATE], True),
        (["/api/admin/Clients/v2/client/clientservice/update"], True),
        (["/api/admin/clients/v2/client/clientservice/get"], False),
        (["/api/admin/client"], False),
    ],
)
def test_the_settings_list_which_paths_are_allowed(allowed: list[str], taken: bool) -> None:
    if taken:
        check_allowed(UPDATE, allowed)
    else:
        with pytest.raises(BadPayload, match="not among B2COPY_CALL_PATHS"):
            check_allowed(UPDATE, allowed)
