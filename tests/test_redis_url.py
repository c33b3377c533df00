"""B2COPY_REDIS_URL: one form for all clients, and what cannot be obeyed is refused."""

from typing import Any

import pytest
import redis
from kombu.connection import Connection

from worker.redis_url import (
    checked_redis_url,
    verifies_certificate,
    without_password,
    without_query,
)


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("redis://localhost", "redis://localhost/0"),
        ("redis://[::1]:6380/4", "redis://[::1]:6380/4"),
        (" redis://:a%2Fb;c@h:1/3 ", "redis://:a%2Fb%3Bc@h:1/3"),
        ("redis://ada:w@h/?db=7", "redis://ada:w@h/7"),
        ("rediss://h/0?ssl_cert_reqs=CERT_REQUIRED&ssl_check_hostname=true", "rediss://h/0"),
        ("rediss://127.0.0.1:6/0?ssl_cert_reqs=none", "rediss://127.0.0.1:6/0?ssl_cert_reqs=none"),
    ],
)
def test_a_url_gets_one_form_that_all_clients_read_alike(url: str, checked: str) -> None:
    assert checked_redis_url(url) == checked
    assert checked_redis_url(checked) == checked

    kwargs = redis.ConnectionPool.from_url(without_query(checked)).connection_kwargs
    kombu: Any = Connection(without_query(checked), ssl=True)  # type: ignore[no-untyped-call]
    assert (kombu.hostname, kombu.port or 6379, kombu.userid, kombu.password, int(kombu.virtual_host)) == (
        kwargs["host"],
        kwargs.get("port", 6379),
        kwargs.get("username"),
        kwargs.get("password"),
        kwargs["db"],
    )


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost:6379", "must be redis://"),
        ("redis:///0", "must be redis://"),
        ("redis://h1:1,h2:2/0", "must be redis://"),
        ("redis://h1;redis://h2", "must be redis://"),
        ("sentinel://h/0", "must be redis://"),
        ("redis://:pass/word@h/0", "percent-encode"),
        ("redis://:pass#word@h/0", "percent-encode"),
        ("redis://h/name", "the database is a number"),
        ("redis://h:99999/0", "must be redis://"),
        *((f"redis://:pass@h/0?{option}", "remove it") for option in (
            "health_check_interval=30", "socket_timeout=4", "protocol=3", "retry_on_timeout=true",
            "max_connections=20", "ssl_cert_reqs=required", "password=pass", "credential_provider=os.system",
        )),
        ("rediss://h/0?ssl_ca_certs=/ca.pem", "B2COPY_REDIS_CA_FILE"),
        ("rediss://h/0?ssl_cert_reqs=none", "always verified"),
        ("rediss://h/0?ssl_cert_reqs=optional", "always verified"),
        ("rediss://h/0?ssl_check_hostname=false", "always verified"),
    ],
)  # fmt: skip
def test_what_no_client_or_not_every_client_obeys_is_refused_without_the_password(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match="must") as refused:
        checked_redis_url(url)

    assert problem in str(refused.value)
    assert "pass" not in str(refused.value).replace("password", "")


def test_only_loopback_may_do_without_verification() -> None:
    assert not verifies_certificate(checked_redis_url("rediss://localhost/0?ssl_cert_reqs=none"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rediss://b2copy-worker:hunter2@redis.example:6380/0", "rediss://b2copy-worker@redis.example:6380/2"),
        ("redis://:hunter2@127.0.0.1/0", "redis://127.0.0.1/2"),
        ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379/2"),
        ("rediss://[::1]:6379/0?ssl_cert_reqs=none", "rediss://[::1]:6379/2?ssl_cert_reqs=none"),
    ],
)
def test_a_url_for_a_person_names_another_database_and_no_password(url: str, shown: str) -> None:
    assert without_password(checked_redis_url(url), 2) == shown
