"""Settings: typed, read once, and wrong ones named with their remedy."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.tls import sign
from worker.errors import SettingsError
from worker.queues import QUEUES, UNACKED
from worker.settings import PLAINTEXT_SETTING, ConsoleSettings, CrmSettings, LedgerSettings, Settings, load, variable
from worker.testbed.keys import write_secret
from worker.testbed.local_system import Environment

Monkey = pytest.MonkeyPatch


def refused(kind: type[LedgerSettings] = Settings) -> str:
    with pytest.raises(SettingsError) as caught:
        load(kind)
    return str(caught.value)


def test_a_worker_reads_its_settings(active_environment: Environment) -> None:
    settings = load(Settings)

    assert settings.host == active_environment.sandbox.url
    assert settings.key_id == [active_environment.keys.key_id]
    assert settings.private_key_file == [active_environment.keys.private_file]


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        (LedgerSettings, {"B2COPY_DATABASE_URL"}),
        (CrmSettings, {"B2COPY_DATABASE_URL", "B2COPY_REDIS_URL"}),
        (
            Settings,
            {
                "B2COPY_DATABASE_URL",
                "B2COPY_REDIS_URL",
                "B2COPY_HOST",
                "B2COPY_ADMIN_ID",
                "B2COPY_KEY_ID",
                "B2COPY_PRIVATE_KEY_FILE",
                "B2COPY_DEVICE_IP",
                "B2COPY_STORAGE_KEY_FILE",
            },
        ),
    ],
)
def test_each_reader_names_all_its_missing_settings_at_once(kind: type[LedgerSettings], needed: set[str]) -> None:
    lines = refused(kind).splitlines()

    assert {line.split()[0] for line in lines} == needed
    assert all(" is not set: " in line for line in lines)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("B2COPY_REDISURL", "B2COPY_REDIS_URL"),
        ("B2COPY_PRIVATE_KEY_FILES", "B2COPY_PRIVATE_KEY_FILE"),
        ("B2COPY_RATELIMIT", "B2COPY_RATE_LIMIT"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_closest_name(
    active_environment: Environment, monkeypatch: Monkey, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "x")

    assert refused() == f"{name} is not a setting: did you mean {meant}?"


def test_a_setting_in_lower_case_is_refused(active_environment: Environment, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("B2COPY_RATE_LIMIT", "10/second")
    monkeypatch.setenv("b2copy_rate_limit", "0")

    assert refused() == "b2copy_rate_limit is not a setting: did you mean B2COPY_RATE_LIMIT?"


def test_an_unknown_setting_is_refused(active_environment: Environment, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("B2COPY_QWERTZUIOPASDFGHJKLYXCV", "x")

    assert (
        refused()
        == "B2COPY_QWERTZUIOPASDFGHJKLYXCV is not a setting: remove it, or see deploy/env.example for what there is"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "b2copy.example.com"),
        ("host", "http://b2copy.example.com"),
        ("host", "ftp://b2copy.example.com"),
        ("host", "https://user:word@b2copy.example.com"),
        ("host", "https://@b2copy.example.com"),
        ("host", "https://:@b2copy.example.com"),
        ("host", "https://."),
        ("host", "https://b2copy.example.com/api"),
        ("host", "https://b2copy.example.com?x=1"),
        ("host", "https://b2copy.example.com:0"),
        ("host", "https://b2copy.example.com:99999"),
        ("host", "https://"),
        ("host", "http://127.0.0.1.example.com"),
        ("webhook_url", "crm.example.com/hook"),
        ("webhook_url", "ftp://crm.example.com/hook"),
        ("webhook_url", "https://user:word@crm.example.com/hook"),
        ("webhook_url", "https://:@crm.example.com/hook"),
        ("webhook_url", "https://crm.example.com/hook#part"),
        ("webhook_url", "https://crm.example.com/a hook"),
        ("webhook_url", "https://169.254.169.254/latest"),
        ("webhook_url", "https://[fe80::1]/hook"),
        ("webhook_url", "https://[fe80::1%25eth0]/hook"),
        ("webhook_url", "https://[::ffff:169.254.169.254]/hook"),
        ("webhook_url", "https://[64:ff9b::a9fe:a9fe]/hook"),
        ("webhook_url", "https://[fd00:ec2::254]/hook"),
        ("webhook_url", "https://168.63.129.16/machine"),
        ("webhook_url", "https://192.0.0.192/opc/v1"),
        ("webhook_url", "https://[64:ff9b:1:a9fe:a9:fe00::]/hook"),
        ("webhook_url", "https://[2001:0:102:304:0:0:5601:5601]/hook"),
        ("notify_task", "fees ended"),
        ("notify_queue", ""),
        ("notify_broker_url", "amqp://crm-broker/0"),
        ("redis_url", "localhost:6379"),
        ("redis_url", "http://localhost"),
        ("redis_url", "redis://localhost/0?health_check_interval=30"),
        ("redis_url", "redis://10.0.0.5:6379/0"),
        ("redis_url", "rediss://redis.example.com/0?ssl_cert_reqs=none"),
        ("redis_url", "redis://localhost/\u0661"),
        ("redis_plaintext", "yes"),
        ("database_plaintext", "yes"),
        ("database_url", "postgresql://db/x?host=h1,h2&port=1,2,3"),
        ("database_url", "ledger.sqlite"),
        ("database_url", "sqlite:///relative.sqlite"),
        ("database_url", "mysql://host/name"),
        ("admin_id", ""),
        ("admin_id", "forty-two"),
        ("admin_id", "-1"),
        ("admin_id", "4\u0662"),
        ("device_ip", "here"),
        ("device_ip", "300.1.1.1"),
        ("device_ip", "0.0.0.0"),
        ("device_ip", "224.0.0.1"),
        ("device_ip", "::ffff:0.0.0.0"),
        ("key_id", ""),
        ("key_id", ","),
        ("key_id", "one,two"),
        ("admin_id_type", "long"),
        ("assertion_ttl", "1801"),
        ("assertion_ttl", "30m1s"),
        ("call_deadline", "0"),
        ("call_deadline", "an hour"),
        ("rate_limit", ""),
        ("rate_limit", " "),
        ("rate_limit", "10"),
        ("rate_limit", "0/second"),
        ("rate_limit", "10/fortnight"),
        ("rate_limit", "11/minute"),
        ("rate_limit", "719/hour"),
        ("rate_limit", "1\u0660/second"),
        ("concurrency", "0"),
        ("concurrency", "501"),
        ("concurrency", "ten"),
        ("max_attempts", "0"),
        ("token_ttl", "0"),
        ("token_ttl", "-5"),
        ("token_ttl", "0.01"),
        ("token_ttl", "0.9"),
        ("fees_restart", "never"),
        ("fees_deadline", "nan"),
        ("fees_deadline", "inf"),
        ("fees_deadline", "1e300"),
        ("fees_deadline", "36501d"),
        ("fees_deadline", "5M"),
        ("fees_deadline", "\uff15m"),
        ("retention", "1_000"),
        ("admin_id", " 42"),
        ("key_id", "k\u200b"),
        ("key_id", "k\x1b[31m"),
        ("issuer", " "),
        ("issuer", "b2copy-sync\r"),
        ("host", "https://b2copy example.com"),
        ("host", "https://b2copy.example.com\u202e"),
        ("host", "https://b2c\u043epy.example.com"),
        ("host", "https://b2copy%0d.example.com"),
        ("host", "https://one,two"),
        ("traces_url", "https://a collector/v1/traces"),
        ("traces_url", "https://@collector/v1/traces"),
        ("metrics_listen", "]]:9464"),
        ("metrics_listen", "a host:9464"),
        ("heartbeat_file", ""),
        ("storage_key_file", ""),
        ("seamless_secret_file", ""),
    ],
)
def test_an_unusable_value_is_refused_with_the_name_of_its_setting(
    active_environment: Environment, monkeypatch: Monkey, name: str, value: str
) -> None:
    monkeypatch.setenv(variable(name), value)

    [line] = refused().splitlines()

    assert line.startswith(variable(name))


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("host", "https://B2Copy.Example.com/", "https://b2copy.example.com"),
        ("host", "http://localhost:8080", "http://localhost:8080"),
        ("host", "http://[::1]:8080", "http://[::1]:8080"),
        ("database_url", "postgres://ada@localhost/ledger", "postgresql+psycopg://ada@localhost/ledger"),
        ("database_url", "postgresql://ada@localhost/ledger", "postgresql+psycopg://ada@localhost/ledger"),
        ("database_url", "sqlite:////var/lib/ledger.sqlite", "sqlite:////var/lib/ledger.sqlite"),
        ("redis_url", "rediss://:word@redis.example.com:6380/3", "rediss://:word@redis.example.com:6380/3"),
        ("device_ip", " 2001:DB8::1 ", "2001:db8::1"),
        ("device_ip", "::ffff:203.0.113.7", "203.0.113.7"),
        ("rate_limit", "10 / second", "10/second"),
        ("rate_limit", "12/minute", "12/minute"),
        ("rate_limit", "720/hour", "720/hour"),
        ("rate_limit", "0", "0"),
        ("fees_deadline", "72h", 72 * 3600.0),
        ("retention", "400d", 400 * 86400.0),
        ("retention", "86400", 86400.0),
        ("calls_deadline", "60m", 3600.0),
        ("token_ttl", "5m", 300.0),
        ("token_ttl", "1.5", 1.5),
        ("assertion_ttl", "1800", 1800.0),
    ],
)
def test_a_usable_value_is_read(
    active_environment: Environment, monkeypatch: Monkey, name: str, value: str, read: str | float
) -> None:
    monkeypatch.setenv(variable(name), value)

    assert getattr(load(Settings), name) == read


@pytest.mark.parametrize("field", PLAINTEXT_SETTING)
def test_plain_text_to_another_host_needs_a_setting_that_allows_it(
    active_environment: Environment, monkeypatch: Monkey, field: str
) -> None:
    read_by_all = {
        "redis_url": "redis://10.0.0.5:6379/0",
        "database_url": "postgresql://u:hunter2@db.internal/d?sslmode=require",
        "webhook_url": "HTTP://crm.internal/hook",
        "notify_broker_url": "redis://crm.internal:6379/1",
    }
    monkeypatch.setenv("B2COPY_WEBHOOK_SECRET_FILE", "/etc/b2copy/webhook.secret")
    monkeypatch.setenv("B2COPY_NOTIFY_TASK", "crm.tasks.fees_ended")
    monkeypatch.setenv(variable(field), read_by_all[field])
    allows = variable(PLAINTEXT_SETTING[field])
    [line] = refused().splitlines()
    assert line.startswith(f"{variable(field)} must ")
    assert line.endswith(f"Where the network between is encrypted, set {allows}=allowed")
    assert "hunter2" not in line
    with pytest.raises(ValidationError):  # so doctor, which reads what it can, does not connect to it
        Settings()

    monkeypatch.setenv(allows, "allowed")
    read = str(getattr(load(Settings), field))
    assert read.replace("+psycopg", "") == read_by_all[field]


@pytest.mark.parametrize(
    ("spelling", "read"),
    [
        ("https://B2COPY.example.com:443", "https://b2copy.example.com"),
        ("https://b2copy.example.com:0443", "https://b2copy.example.com"),
        ("https://b2copy.example.com:", "https://b2copy.example.com"),
        ("https://b2copy.example.com.", "https://b2copy.example.com"),
        ("HTTPS://b2copy.example.com/", "https://b2copy.example.com"),
        ("https://b2copy.example.com:08443", "https://b2copy.example.com:8443"),
        ("https://b2copy.example.com:80", "https://b2copy.example.com:80"),
        ("http://localhost:80", "http://localhost"),
        ("http://[0:0:0:0:0:0:0:1]:80", "http://[::1]"),
    ],
)
def test_each_spelling_of_the_host_is_one_host(
    active_environment: Environment, monkeypatch: Monkey, spelling: str, read: str
) -> None:
    """The name of the session's keys holds it: two workers with two spellings would log each other out."""
    monkeypatch.setenv("B2COPY_HOST", spelling)

    assert load(Settings).host == read


@pytest.mark.parametrize("spelling", ["https://ops.example.com", "https://OPS.example.com:443"])
def test_the_consoles_origin_is_read_as_browsers_send_it(
    active_environment: Environment, monkeypatch: Monkey, spelling: str
) -> None:
    monkeypatch.setenv("B2COPY_CONSOLE_ORIGIN", spelling)

    assert load(ConsoleSettings).console_origin == "https://ops.example.com"


def test_keys_are_lists_newest_first(active_environment: Environment, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("B2COPY_KEY_ID", "new, old")
    monkeypatch.setenv("B2COPY_PRIVATE_KEY_FILE", "/keys/new.pem, /keys/old.pem")

    settings = load(Settings)

    assert settings.key_id == ["new", "old"]
    assert settings.private_key_file == [Path("/keys/new.pem"), Path("/keys/old.pem")]


@pytest.mark.parametrize(("general", "ours"), [("REDIS_URL", "redis_url"), ("DATABASE_URL", "database_url")])
def test_our_own_variable_comes_before_the_general_one(
    active_environment: Environment, monkeypatch: Monkey, general: str, ours: str
) -> None:
    before = getattr(load(Settings), ours)
    url = {"REDIS_URL": "rediss://other/1", "DATABASE_URL": "sqlite:////other"}[general]
    monkeypatch.setenv(general, url)
    assert getattr(load(Settings), ours) == before

    monkeypatch.delenv(variable(ours))
    assert getattr(load(Settings), ours) == url


def test_every_setting_has_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_a_refused_url_does_not_show_its_password(active_environment: Environment, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("B2COPY_REDIS_URL", "http://:pass-word@host")
    monkeypatch.setenv("B2COPY_DATABASE_URL", "mysql://ada:pass-word@db/x")

    assert "pass-word" not in refused()


@pytest.mark.parametrize("name", ["REDIS_PASSWORD_FILE", "DATABASE_URL", "HOST", "DEVICE_IP", "x\ny"])
@pytest.mark.parametrize("value", ["\r", "/a\nforged", "a\x1b[31m", "\u2028", "\u202e"])
def test_each_problem_is_one_line_whatever_the_variables_hold(
    active_environment: Environment, monkeypatch: Monkey, name: str, value: str
) -> None:
    monkeypatch.setenv(f"B2COPY_{name}", value)

    with pytest.raises(SettingsError) as caught:
        load(Settings)

    lines = str(caught.value).splitlines()
    assert all(line.startswith("B2COPY_") and line.isprintable() for line in lines), lines


def test_notices_must_be_signed(active_environment: Environment, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("B2COPY_WEBHOOK_URL", "https://crm.example.com/hook?of=b2copy")

    assert refused() == "B2COPY_WEBHOOK_SECRET_FILE is not set: notices to B2COPY_WEBHOOK_URL must be signed"
    assert load(CrmSettings).webhook_url == "https://crm.example.com/hook?of=b2copy"  # a CRM host signs nothing


def test_private_addresses_may_be_notified(active_environment: Environment, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("B2COPY_WEBHOOK_SECRET_FILE", "/etc/b2copy/webhook.secret")
    for host in ("10.0.0.5", "192.168.1.7", "172.16.0.1", "[fd00::5]", "crm.internal", "169.253.0.1", "[::1]"):
        monkeypatch.setenv("B2COPY_WEBHOOK_URL", f"https://{host}/hook")
        assert load(Settings).webhook_url == f"https://{host}/hook"


def test_the_crms_broker_needs_a_task(active_environment: Environment, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("B2COPY_NOTIFY_BROKER_URL", "rediss://crm.internal:6379/1")
    assert refused().startswith("B2COPY_NOTIFY_TASK is not set")

    monkeypatch.setenv("B2COPY_NOTIFY_TASK", "crm.tasks.fees_ended")
    assert load(Settings).wants_notices


@pytest.mark.parametrize("queue", [*QUEUES, "b2copy.other", UNACKED])
def test_no_queue_of_ours_is_taken_for_the_crms(
    active_environment: Environment, monkeypatch: Monkey, queue: str
) -> None:
    """In the inbox, each notice would become a message to us, whose end would be another notice."""
    monkeypatch.setenv("B2COPY_NOTIFY_TASK", "crm.tasks.fees_ended")
    monkeypatch.setenv("B2COPY_NOTIFY_QUEUE", queue)

    assert refused().startswith(f"B2COPY_NOTIFY_QUEUE must be a queue of the CRM's own, and {queue!r} is one of ours")


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({"NOTIFY_QUEUE": "crm"}, "B2COPY_NOTIFY_TASK is not set"),
        (
            {"NOTIFY_TASK": "crm.fees_ended", "NOTIFY_BROKER_PASSWORD_FILE": "crm.password"},
            "B2COPY_NOTIFY_BROKER_URL is not set",
        ),
        ({"FEES_POLL_FIRST": "300", "FEES_POLL_MAX": "60"}, "B2COPY_FEES_POLL_FIRST is longer"),
        ({"CALL_DEADLINE": "30", "LATE_EFFECT": "20"}, "B2COPY_LATE_EFFECT is shorter than B2COPY_CALL_DEADLINE"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    active_environment: Environment, monkeypatch: Monkey, tmp_path: Path, values: dict[str, str], missing: str
) -> None:
    file = tmp_path / "crm.password"
    file.write_text("of the CRM's broker")
    file.chmod(0o600)
    for name, value in values.items():
        monkeypatch.setenv(f"B2COPY_{name}", str(file) if value == file.name else value)

    assert missing in refused()


@pytest.mark.parametrize(
    ("access", "name", "value"),
    [
        ("none", "CONSOLE_PASSWORD_FILE", "/people"),
        ("proxy", "CONSOLE_PASSWORD_FILE", "/people"),
        ("none", "CONSOLE_TRUSTED_PROXIES", "10.0.0.5"),
        ("password", "CONSOLE_PROXY_SECRET_FILE", "/secret"),
    ],
)
def test_the_console_does_not_start_without_the_access_that_its_other_settings_are_for(
    active_environment: Environment, monkeypatch: Monkey, access: str, name: str, value: str
) -> None:
    """It would show everything to whoever reaches the proxy."""
    monkeypatch.setenv("B2COPY_CONSOLE_ACCESS", access)
    monkeypatch.setenv(f"B2COPY_{name}", value)

    with pytest.raises(SettingsError, match=f"B2COPY_CONSOLE_ACCESS is {access}, but B2COPY_{name}"):
        load(ConsoleSettings)


def test_the_passwords_in_urls_are_in_no_repr(active_environment: Environment, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", "postgresql://u:hunter2@db/x")
    monkeypatch.setenv("B2COPY_REDIS_URL", "rediss://u:hunter3@redis/0?password=hunter3")

    with pytest.raises(SettingsError):  # an option that is refused
        load(Settings)
    monkeypatch.setenv("B2COPY_REDIS_URL", "rediss://u:hunter3@redis/0")

    assert "hunter" not in repr(load(Settings)) + str(load(Settings))


@pytest.mark.parametrize(
    ("name", "url", "read"),
    [
        ("redis", "rediss://ada@redis/1", "rediss://ada:p%40ss%2F%3Bword@redis/1"),
        ("redis", "rediss://redis/1", "rediss://:p%40ss%2F%3Bword@redis/1"),
        ("database", "postgresql://ada@[::1]/x?sslmode=allow", "ada:p%40ss%2F%3Bword@[::1]/x?sslmode=allow"),
        ("database", "postgresql://ada@/x?host=/a@b", "ada:p%40ss%2F%3Bword@/x?host=/a@b"),
    ],
)
def test_a_password_is_read_from_a_file(
    active_environment: Environment, monkeypatch: Monkey, tmp_path: Path, name: str, url: str, read: str
) -> None:
    write_secret(tmp_path / "password", b"p@ss/;word\n")
    monkeypatch.setenv(variable(f"{name}_password_file"), str(tmp_path / "password"))
    monkeypatch.setenv(variable(f"{name}_url"), url)

    assert getattr(load(CrmSettings), f"{name}_url").endswith(read)


@pytest.mark.parametrize(
    ("url", "content", "mode", "problem"),
    [
        ("postgresql://ada@db/x", b"word", 0o644, "_PASSWORD_FILE is not usable: {path} has mode 0644"),
        ("postgresql://ada@db/x", b"\nword", 0o600, "_PASSWORD_FILE is not usable: {path} has no password"),
        (
            "postgresql://ada@db/x",
            b"w\xf6rd",
            0o600,
            "_PASSWORD_FILE is not usable: {path} must hold one line of UTF-8",
        ),
        (
            "postgresql://ada@db/x",
            b"\xef\xbb\xbfword",
            0o600,
            "_PASSWORD_FILE is not usable: {path} must hold one line",
        ),
        ("postgresql://ada@db/x", "word\n".encode("utf-16"), 0o600, "_PASSWORD_FILE is not usable: {path} must hold"),
        ("postgresql://ada@db/x", b"wo\x00rd", 0o600, "_PASSWORD_FILE is not usable: {path} must hold one line"),
        ("postgresql://ada:pw@db/x", b"word", 0o600, "_URL must not hold a password while"),
        ("postgresql://db/x", b"word", 0o600, "_URL must name the user"),
    ],
)
def test_a_password_file_that_cannot_be_meant_is_refused(
    active_environment: Environment,
    monkeypatch: Monkey,
    tmp_path: Path,
    url: str,
    content: bytes,
    mode: int,
    problem: str,
) -> None:
    path = tmp_path / "password"
    write_secret(path, content)
    path.chmod(mode)
    monkeypatch.setenv("B2COPY_DATABASE_PASSWORD_FILE", str(path))
    monkeypatch.setenv("B2COPY_DATABASE_URL", url)

    [line] = refused().splitlines()

    assert line.startswith("B2COPY_DATABASE" + problem.format(path=path))
    assert "word" not in line.replace("password", "")


REVOKED = sign("our authority").list_revoked()


@pytest.mark.parametrize("field", [name for name in Settings.model_fields if name.endswith("ca_file")])
@pytest.mark.parametrize(
    "text", [None, "", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", REVOKED]
)
def test_a_file_without_certificates_is_refused(
    active_environment: Environment, monkeypatch: Monkey, tmp_path: Path, field: str, text: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv(variable(field), str(path))

    assert refused().startswith(f"{variable(field)} is not usable: {path} does not hold PEM certificates")


def test_a_duration_is_refused_with_how_one_looks(active_environment: Environment, monkeypatch: Monkey) -> None:
    monkeypatch.setenv("B2COPY_FEES_DEADLINE", "3 days")

    assert refused().startswith("B2COPY_FEES_DEADLINE must be a duration such as 90s, 5m, 72h or 400d")

    monkeypatch.setenv("B2COPY_FEES_DEADLINE", "9" * 400)

    assert refused().startswith("B2COPY_FEES_DEADLINE must be at most 36500d")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("RETENTION", "400", "at least 1d: a number without a unit means seconds, so write 400d"),
        ("RETENTION", "23h", "at least 1d"),
        ("FEES_DEADLINE", "72", "at least 1h: a number without a unit means seconds, so write 72h"),
        ("CALLS_DEADLINE", "3", "at least 1h"),
    ],
)
def test_a_number_of_days_or_hours_without_its_unit_is_refused(
    active_environment: Environment, monkeypatch: Monkey, name: str, value: str, problem: str
) -> None:
    """A purge would remove almost everything, or whatever waits for B2COPY for some minutes would fail."""
    monkeypatch.setenv(f"B2COPY_{name}", value)

    assert refused().startswith(f"B2COPY_{name} must be {problem}")


@pytest.mark.parametrize(
    "email",
    [
        " ada@crm.example.com",
        "ada@crm.example.com\nInjected: x",
        "ada @crm.example.com",
        "ada@crm@example.com",
        "ada\u200b@crm.example.com",
    ],
)
def test_an_e_mail_address_is_read_whole(active_environment: Environment, monkeypatch: Monkey, email: str) -> None:
    monkeypatch.setenv("B2COPY_BACK_OFFICE_PASSWORD_FILE", "/etc/b2copy/back-office.password")
    monkeypatch.setenv("B2COPY_BACK_OFFICE_EMAIL", "ada@crm.example.com")
    assert load(Settings).back_office_email == "ada@crm.example.com"

    monkeypatch.setenv("B2COPY_BACK_OFFICE_EMAIL", email)

    assert refused().startswith("B2COPY_BACK_OFFICE_EMAIL ")


@pytest.mark.parametrize("listen", ["[::1]:9464", "::1:9464", "metrics.internal:9464", ":9464", "0.0.0.0:9464"])
def test_metrics_are_served_at_any_address(active_environment: Environment, monkeypatch: Monkey, listen: str) -> None:
    monkeypatch.setenv("B2COPY_METRICS_LISTEN", listen)

    assert (load(Settings).metrics_listen or "").endswith(listen)


def test_a_word_that_a_setting_does_not_know_is_refused_with_those_that_it_knows(
    active_environment: Environment, monkeypatch: Monkey
) -> None:
    monkeypatch.setenv("B2COPY_FOUR_EYES", "some")

    assert refused() == "B2COPY_FOUR_EYES must be off, money or all"
