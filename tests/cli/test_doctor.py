"""doctor: a line each, and the remedy."""

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from tests.cli.command import Ran
from tests.cli.conftest import Command
from tests.cli.terminal import shown, without_colours
from tests.forked import run
from tests.operations import hold_operation, make_wait, record_operation
from tests.support import until
from worker.b2copy.routes import leaderboard
from worker.cli import main
from worker.doctor.other_redis_users import listeners
from worker.ledger import Ledger, pause
from worker.ledger.b2copy_host import check_b2copy_host
from worker.ledger.notices import want_notices
from worker.ledger.reconciliation import start_run
from worker.operation import WaitReason
from worker.sandbox.control_client import SandboxControl
from worker.testbed.broker import Broker
from worker.testbed.keys import new_storage_key
from worker.testbed.local_system import Environment


def grades(ran: Ran) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for check in ran.document["checks"]:
        found.setdefault(check["check"], set()).add(check["grade"])
    return found


def messages(ran: Ran, about: str) -> str:
    return "\n".join(
        f"{check['grade']} {check['message']}: {check['remedy']}"
        for check in ran.document["checks"]
        if check["check"] == about
    )


def logins(sandbox: SandboxControl) -> list[str]:
    return [call["route"] for call in sandbox.token_calls()]


def test_a_sound_system_has_a_line_for_everything(b2copy_sync: Command, ledger: Ledger) -> None:
    ran = b2copy_sync("doctor")

    assert ran.code == 0
    assert [line.split()[:2] for line in ran.out.splitlines() if line[:4] in {"ok  ", "warn", "FAIL"}] == [
        ["ok", "settings"],
        ["ok", "keys"],
        ["ok", "keys"],
        ["ok", "ledger"],
        ["ok", "redis"],
        ["warn", "workers"],
        ["ok", "b2copy"],
        ["ok", "clock"],
        ["ok", "service_admin"],
    ]
    assert "start one: `b2copy-sync worker`" in ran.out
    assert re.search(r"answers in \d+ ms \(HTTP \d+; any status shows that it is reachable\)", ran.out)


def test_in_a_terminal_the_command_of_a_remedy_can_be_copied(environment: Environment, ledger: Ledger) -> None:
    pause(ledger, "bulk", "ann@desk", "B2COPY is upgraded, and it takes them until six in the evening")

    lines = without_colours(shown(["doctor"], 80, environment.variables)).splitlines()

    assert '     b2copy-sync resume --lane bulk --why "..."' in lines
    assert max(map(len, lines)) <= 80
    [paused] = [line for line in lines if "lane bulk is paused" in line]
    assert lines[lines.index(paused) + 1].startswith(" " * 15)  # wrapped beside the check's name
    assert lines[-1].startswith("nothing failed; 2 to look at")


def test_a_host_that_differs_from_the_ledger_about_notices_is_named(b2copy_sync: Command, ledger: Ledger) -> None:
    url = "http://127.0.0.1:1/"
    with_url = b2copy_sync("doctor", "--json", B2COPY_WEBHOOK_URL=url, B2COPY_WEBHOOK_SECRET_FILE="/dev/null")
    want_notices(ledger)
    without_url = b2copy_sync("doctor", "--json")

    assert "no notice is recorded" in messages(with_url, "notices")
    assert "this host has no B2COPY_WEBHOOK_URL" in messages(without_url, "notices")
    assert "workers then cancel what still waits" in messages(without_url, "notices")


def test_a_scheduled_reconciliation_that_nobody_begins_is_named(b2copy_sync: Command, ledger: Ledger) -> None:
    def found(every: str) -> str:
        return messages(b2copy_sync("doctor", "--json", B2COPY_RECONCILE_EVERY=every), "reconcile")

    assert found("24h") == "", "the ledger is new"
    record_operation(ledger)
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_operations SET requested_at = requested_at - 90000000")  # 25 hours
    never = found("12h")
    start_run(ledger, "beat")
    begun = found("12h")
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_reconciliation SET stepped_at = stepped_at - 90000000")

    assert never.startswith("warn B2COPY_RECONCILE_EVERY is 12.0 h, and the accounts have not been compared for 25.0 h")
    assert "`b2copy-sync beat`" in never
    assert begun == ""
    assert "for 25.0 h" in found("12h")
    assert found("24h") == "", "one may have been late"


def test_logs_in_only_if_there_is_no_session(b2copy_sync: Command, sandbox: SandboxControl) -> None:
    first = b2copy_sync("doctor", "--json")
    second = b2copy_sync("doctor", "--json")

    assert "there was no session" in messages(first, "service_admin")
    assert "is shared" in messages(second, "service_admin")
    assert logins(sandbox) == ["authexternalcrm"]


def test_login_tries_this_hosts_own_key_and_leaves_the_session_if_b2copy_refuses_it(
    b2copy_sync: Command, sandbox: SandboxControl
) -> None:
    b2copy_sync("doctor")
    unknown = b2copy_sync("doctor", "--login", "--json", B2COPY_KEY_ID="key-of-this-host")
    unharmed = b2copy_sync("session", "show", "--json").document
    known = b2copy_sync("doctor", "--login", "--json")

    assert unknown.code == 1
    assert "FAIL the login is refused: " in messages(unknown, "service_admin")
    assert "B2COPY knows no key called key-of-this-host" in messages(unknown, "service_admin")
    assert (unharmed["expires_in_s"] > 0, unharmed["refresh_token_used"], unharmed["cooldown"]) == (True, False, None)
    assert re.fullmatch(r"ok generation \d+, renewed by a login: ", messages(known, "service_admin"))
    assert logins(sandbox) == ["authexternalcrm"] * 3


def test_a_session_made_with_a_key_that_this_host_does_not_have_is_named(
    b2copy_sync: Command, ledger: Ledger, sandbox: SandboxControl
) -> None:
    b2copy_sync("doctor")
    b2copy_sync("session", "renew")  # by a refresh: the session still names the key of its login

    ran = b2copy_sync("doctor", "--json", B2COPY_KEY_ID="key-of-this-host")

    assert ran.code == 0
    assert re.fullmatch(
        r"ok session generation \d+ is shared, valid for \d+ s: \n"
        r"warn session generation \d+ was made with key test-key; this host's key key-of-this-host was not tried:"
        r" `b2copy-sync doctor --login`",
        messages(ran, "service_admin"),
    )
    assert logins(sandbox) == ["authexternalcrm", "refreshtoken"]


def test_a_host_with_another_storage_key_is_named_and_does_not_log_in_at_once(
    b2copy_sync: Command, broker: Broker, sandbox: SandboxControl, tmp_path: Path
) -> None:
    b2copy_sync("doctor")
    other = str(new_storage_key(tmp_path))

    at_once = b2copy_sync("doctor", "--json", B2COPY_STORAGE_KEY_FILE=other)
    with broker.client as client:
        session = next(client.scan_iter("b2copy:*:session"))
        client.hset(session, "obtained_at", int(client.hget(session, "obtained_at") or 0) - 60_000)
    later = b2copy_sync("doctor", "--json", B2COPY_STORAGE_KEY_FILE=other)

    warning = r"warn no storage key of this host opens the session that \S+ stored: write the same keys into .+\n"
    failure = r"FAIL another host encrypts the session with another storage key than those in our .+"
    assert at_once.code == 1
    assert re.fullmatch(warning + failure, messages(at_once, "service_admin"))
    assert re.fullmatch(warning + r"ok generation \d+, renewed by a login: ", messages(later, "service_admin"))
    assert logins(sandbox) == ["authexternalcrm"] * 2


def test_a_wrong_option_of_the_databases_url_is_a_wrong_setting(b2copy_sync: Command, sandbox: SandboxControl) -> None:
    url = "postgresql://u@127.0.0.1:1/x?schema=public"

    ran = b2copy_sync("doctor", "--offline", "--json", B2COPY_DATABASE_URL=url)

    assert ran.code == 2
    [failed] = [check for check in ran.document["checks"] if check["grade"] == "FAIL"]
    assert (failed["check"], "schema" in failed["message"]) == ("settings", True)


def test_offline_asks_nobody(b2copy_sync: Command, sandbox: SandboxControl) -> None:
    ran = b2copy_sync("doctor", "--offline", "--json", B2COPY_REDIS_URL="redis://127.0.0.1:1/0")

    assert ran.code == 0
    assert grades(ran) == {"settings": {"ok"}, "keys": {"ok"}, "the rest": {"skip"}}
    assert sandbox.counters()["calls"] == {}


def test_goes_on_after_what_fails(b2copy_sync: Command, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----\nnot one\n-----END PRIVATE KEY-----\n")
    key.chmod(0o644)

    ran = b2copy_sync(
        "doctor",
        "--json",
        B2COPY_PRIVATE_KEY_FILE=str(key),
        B2COPY_DATABASE_URL="postgresql://me:hunter2@127.0.0.1:1/crm",
        B2COPY_REDIS_URL="redis://:hunter2@127.0.0.1:1/0",
    )

    assert ran.code == 1
    assert grades(ran) == {
        "settings": {"ok"},
        "keys": {"FAIL", "ok"},
        "ledger": {"FAIL"},
        "redis": {"FAIL"},
        "workers": {"skip"},
        "b2copy": {"ok"},
        "clock": {"ok"},
        "service_admin": {"skip"},
    }
    assert "chmod 600" in messages(ran, "keys")
    assert "hunter2" not in ran.out + ran.err


def test_a_wrong_setting_is_exit_code_2_and_the_rest_is_looked_at(b2copy_sync: Command, ledger: Ledger) -> None:
    ran = b2copy_sync("doctor", "--json", B2COPY_HOST="http://b2copy.example.com", B2COPY_KEYID="x")

    assert ran.code == 2
    assert "FAIL B2COPY_KEYID is not a setting: did you mean B2COPY_KEY_ID?" in messages(ran, "settings")
    assert "FAIL B2COPY_HOST must be https" in messages(ran, "settings")
    assert grades(ran)["ledger"] == {"ok"}
    assert grades(ran)["redis"] == {"ok"}


def test_a_ledger_that_does_not_exist_fails_with_the_command(b2copy_sync: Command) -> None:
    ran = b2copy_sync("doctor", "--json")

    assert ran.code == 1
    assert re.fullmatch(
        r"FAIL sqlite:///\S+ holds no ledger yet: `b2copy-sync migrate` makes it", messages(ran, "ledger")
    )


def test_an_older_ledger_fails_with_the_command(b2copy_sync: Command, ledger: Ledger) -> None:
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_schema_version SET version_num = '0000'")

    ran = b2copy_sync("doctor", "--json")

    assert ran.code == 1
    assert "FAIL" in messages(ran, "ledger")
    assert "`b2copy-sync migrate`" in messages(ran, "ledger")


def test_a_newer_ledger_that_this_version_may_use_is_no_fault(b2copy_sync: Command, ledger: Ledger) -> None:
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_schema_version SET version_num = '0002', oldest_reader = '0001'")

    usable = b2copy_sync("doctor", "--json")
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_schema_version SET oldest_reader = '0002'")
    unusable = b2copy_sync("doctor", "--json")

    assert grades(usable)["ledger"] == {"ok"}
    assert grades(unusable)["ledger"] == {"FAIL"}
    assert "install the b2copy-sync that made it, or a newer one" in messages(unusable, "ledger")


def test_compares_our_address_with_the_one_b2copy_sees(b2copy_sync: Command, sandbox: SandboxControl) -> None:
    ran = b2copy_sync("doctor", "--json", B2COPY_DEVICE_IP="192.0.2.7")
    resting = b2copy_sync("doctor", "--json", B2COPY_DEVICE_IP="192.0.2.7")

    assert ran.code == resting.code == 1
    for one in (ran, resting):
        assert "the login is refused" in messages(one, "service_admin")
        assert "we send 192.0.2.7, B2COPY sees 127.0.0.1" in messages(one, "device_ip")
    assert logins(sandbox) == ["authexternalcrm"]


@pytest.mark.parametrize(("offset", "way"), [(90, "behind"), (-90, "ahead of")])
def test_compares_the_clocks(offset: float, way: str, b2copy_sync: Command, sandbox: SandboxControl) -> None:
    sandbox.switches(clock_offset=offset)

    ran = b2copy_sync("doctor", "--json")

    assert f"s {way} B2COPY's" in messages(ran, "clock")
    assert grades(ran)["clock"] == {"warn"}
    assert grades(ran)["service_admin"] == {"ok"}


@pytest.mark.failure_mode("F33")
def test_warns_of_a_redis_that_may_lose_messages_or_is_shared(
    b2copy_sync: Command, broker: Broker, environment: Environment
) -> None:
    with broker.client as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
    crm: Any = Celery("crm", broker=broker.url)
    crm.send_task("crm.report", queue="reports")
    crm.close()

    try:
        ran = b2copy_sync("doctor", "--json")
    finally:
        with broker.client as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "yes")

    assert grades(ran)["redis"] == {"ok", "warn", "FAIL"}
    assert "maxmemory-policy is allkeys-lru" in messages(ran, "redis")
    assert "appendonly is off" in messages(ran, "redis")
    assert "warn queues of somebody else, now or once: reports" in messages(ran, "redis")
    assert re.search(r"`export B2COPY_REDIS_URL=redis://127\.0\.0\.1:\d+/[1-9]`", messages(ran, "redis"))


def test_the_queue_of_the_crms_notices_is_no_strangers_on_our_own_broker(b2copy_sync: Command, broker: Broker) -> None:
    crm: Any = Celery("crm", broker=broker.url)

    def fees_ended() -> None:
        """Take a notice."""

    crm.task(name="crm.fees_ended")(fees_ended)
    crm.send_task("crm.fees_ended", queue="notices")
    settings = {"B2COPY_NOTIFY_TASK": "crm.fees_ended", "B2COPY_NOTIFY_QUEUE": "notices"}

    with broker.client as client, start_worker(crm, queues=["notices"], perform_ping_check=False):
        until(lambda: listeners(client))
        on_ours = b2copy_sync("doctor", "--json", **settings)
        elsewhere = b2copy_sync("doctor", "--json", **settings, B2COPY_NOTIFY_BROKER_URL="redis://127.0.0.1:1/0")
    crm.close()

    assert "notices" not in messages(on_ours, "redis") + messages(on_ours, "workers")
    assert grades(on_ours)["redis"] == {"ok"}
    assert "warn none answers: start one" in messages(on_ours, "workers")
    assert "warn queues of somebody else, now or once: notices" in messages(elsewhere, "redis")
    assert "serves notices, which is not ours" in messages(elsewhere, "workers")
    assert "until each CRM host has changed and `b2copy.inbox` here is empty" in messages(elsewhere, "redis")
    assert "until each CRM host has changed and `b2copy.inbox` here is empty" in messages(elsewhere, "workers")


def test_names_what_refuses_our_access_and_from_which_address(b2copy_sync: Command, ledger: Ledger) -> None:
    make_wait(ledger, hold_operation(ledger), wait_reason=WaitReason.NO_ACCESS)

    ran = b2copy_sync("doctor", "--json")

    assert "FAIL B2COPY refuses our access to 1 operation; our requests come from 127.0.0.1" in messages(ran, "ledger")
    assert "allow-list" in messages(ran, "ledger")


@pytest.mark.parametrize(
    ("reason", "note"),
    [
        (WaitReason.NO_SESSION, "1 operation without an access token: b2copy-sync session show"),
        (WaitReason.NO_OTHER_LOGIN, "1 operation without a token of another login: b2copy-sync doctor"),
        (
            WaitReason.NO_SEAMLESS_URL,
            "1 operation without a usable secret of seamless logins: is B2COPY_SEAMLESS_SECRET_FILE set",
        ),
    ],
)
def test_says_what_operations_lack(b2copy_sync: Command, ledger: Ledger, reason: WaitReason, note: str) -> None:
    make_wait(ledger, hold_operation(ledger), wait_reason=reason)

    assert f"warn {note}" in messages(b2copy_sync("doctor", "--json"), "ledger")


def test_says_that_a_proxy_is_not_used(b2copy_sync: Command) -> None:
    ran = b2copy_sync("doctor", "--offline", "--json", HTTPS_PROXY="http://proxy.example:3128")

    assert "warn HTTPS_PROXY is set and is not used" in messages(ran, "settings")


def test_names_each_connection_that_may_be_plain_text_to_another_host(b2copy_sync: Command) -> None:
    settings = {"B2COPY_REDIS_URL": "redis://10.0.0.5/0", "B2COPY_DATABASE_URL": "postgresql://10.0.0.5/d"}

    refused = b2copy_sync("doctor", "--offline", "--json", **settings)
    allowed = b2copy_sync(
        "doctor",
        "--offline",
        "--json",
        **settings,
        B2COPY_REDIS_PLAINTEXT="allowed",
        B2COPY_DATABASE_PLAINTEXT="allowed",
    )

    assert "FAIL B2COPY_REDIS_URL must be rediss://" in messages(refused, "settings")
    assert "B2COPY_DATABASE_URL" not in messages(refused, "settings")  # it is verified
    for name in ("REDIS", "DATABASE"):
        line = f"ok B2COPY_{name}_URL leads to another host without verified TLS: B2COPY_{name}_PLAINTEXT=allowed"
        assert line in messages(allowed, "settings")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p@hunter2@127.0.0.1:1/0",
        "redis://u:a%2Fhunter2@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=hunter2",
        "rediss://127.0.0.1:1/0?username=u&password=hunter2",
    ],
)
def test_shows_no_password_of_a_redis_url(url: str, b2copy_sync: Command) -> None:
    for ran in (b2copy_sync("doctor", B2COPY_REDIS_URL=url), b2copy_sync("doctor", "--json", B2COPY_REDIS_URL=url)):
        assert "hunter2" not in ran.out + ran.err
        assert ran.code in {1, 2}


@pytest.mark.parametrize(
    "url",
    ["postgresql://h1:5432,h2:5432/x", "postgresql://u:hunter2@h:${PORT}/x", "postgresql+psycopg2://u:hunter2@h/x"],
)
def test_an_unusable_database_url_is_a_line_and_no_traceback(url: str, b2copy_sync: Command) -> None:
    ran = b2copy_sync("doctor", "--json", B2COPY_DATABASE_URL=url)

    assert ran.code in {1, 2}
    assert "FAIL" in {grade for found in grades(ran).values() for grade in found}
    assert "Traceback" not in ran.err
    assert "hunter2" not in ran.out + ran.err


def test_a_redis_that_forbids_client_is_examined_all_the_same(b2copy_sync: Command, broker: Broker) -> None:
    with broker.client as client:
        client.execute_command("ACL", "SETUSER", "default", "-client")
    try:
        ran = b2copy_sync("doctor", "--json")
    finally:
        with broker.client as client:
            client.execute_command("ACL", "SETUSER", "default", "+client")

    assert "Traceback" not in ran.err
    assert grades(ran)["redis"] == {"ok"}
    assert grades(ran)["workers"] == {"warn"}


def test_a_right_that_redis_refuses_is_named_with_the_file_that_has_all_rights(
    b2copy_sync: Command, ledger: Ledger, broker: Broker
) -> None:
    with broker.client as client:
        client.execute_command("ACL", "SETUSER", "default", "-scan")
    try:
        ran = b2copy_sync("doctor", "--json")
    finally:
        with broker.client as client:
            client.execute_command("ACL", "SETUSER", "default", "+scan")

    refused = [one for one in ran.document["checks"] if one["grade"] == "FAIL"]
    assert refused
    assert all("deploy/redis/users.acl" in one["remedy"] for one in refused), refused


def main_with_a_route_of_the_back_office() -> None:
    leaderboard.LEADERBOARD = replace(leaderboard.LEADERBOARD, login="back_office")
    main()


class TestTheBackOfficesSignIn:
    @pytest.fixture(autouse=True)
    def password(self, environment: Environment, ledger: Ledger) -> Path:
        file = environment.folder / "password"
        self.write(file, "sandbox")
        environment.settings |= {
            "B2COPY_BACK_OFFICE_EMAIL": "office@broker.example",
            "B2COPY_BACK_OFFICE_PASSWORD_FILE": str(file),
            "B2COPY_ACCOUNTS_LOGIN": "back_office",
        }
        return file

    @staticmethod
    def write(file: Path, password: str) -> None:
        file.write_text(password)
        file.chmod(0o600)

    def test_signs_in_only_if_there_is_no_session(self, b2copy_sync: Command, sandbox: SandboxControl) -> None:
        first = b2copy_sync("doctor", "--json")
        second = b2copy_sync("doctor", "--json")
        unused = b2copy_sync("doctor", "--json", "--login", B2COPY_ACCOUNTS_LOGIN="service_admin")

        assert first.code == second.code == unused.code == 0
        renewed = r"ok there was no session: generation \d+, renewed by a login: "
        assert re.fullmatch(renewed, messages(first, "back_office"))
        assert re.search(r"ok session generation \d+ is shared, valid for", messages(second, "back_office"))
        assert "warn B2COPY_BACK_OFFICE_EMAIL and" in messages(unused, "back_office")
        assert re.search(r"ok generation \d+, renewed by a login", messages(unused, "back_office"))
        assert logins(sandbox).count("signin") == 2

    def test_a_route_may_name_the_login_itself(self, environment: Environment, tmp_path: Path) -> None:
        by_default = environment.variables | {"B2COPY_ACCOUNTS_LOGIN": "service_admin"}
        unset = {name: value for name, value in by_default.items() if not name.startswith("B2COPY_BACK_OFFICE_")}

        used = run(main_with_a_route_of_the_back_office, tmp_path, by_default, ["b2copy-sync", "doctor", "--json"])
        lacking = run(main_with_a_route_of_the_back_office, tmp_path, unset, ["b2copy-sync", "doctor", "--json"])

        assert grades(used)["back_office"] == {"ok"}
        assert messages(lacking, "back_office") == (
            "FAIL a route of B2COPY uses this login, and it is not set: set B2COPY_BACK_OFFICE_EMAIL and"
            " B2COPY_BACK_OFFICE_PASSWORD_FILE; operations that use this login wait meanwhile, and none fails"
        )

    def test_a_refused_password_is_told_again_and_presented_once(
        self, b2copy_sync: Command, sandbox: SandboxControl, password: Path
    ) -> None:
        self.write(password, "hunter2")
        first = b2copy_sync("doctor", "--json")
        again = b2copy_sync("doctor", "--json", "--login")

        for ran in (first, again):
            assert ran.code == 1
            assert "FAIL the login is refused: " in messages(ran, "back_office")
            assert "wrong e-mail or password" in messages(ran, "back_office")
            assert f"put the right password into {password}" in messages(ran, "back_office")
            assert "`b2copy-sync session forget --login back_office`" in messages(ran, "back_office")
            assert "hunter2" not in ran.out + ran.err
            assert grades(ran)["service_admin"] == {"ok"}  # withdrawals go on
        assert logins(sandbox).count("signin") == 1

        self.write(password, "sandbox")
        assert grades(b2copy_sync("doctor", "--json"))["back_office"] == {"ok"}

    def test_a_locked_account_and_a_second_factor_have_a_remedy_of_their_own(
        self, b2copy_sync: Command, sandbox: SandboxControl
    ) -> None:
        sandbox.switches(two_factor=True)
        second_factor = b2copy_sync("doctor", "--json")
        resting = b2copy_sync("doctor", "--json")
        sandbox.switches(two_factor=False, locked=True)
        locked = b2copy_sync("doctor", "--json", "--login")

        for ran in (second_factor, resting):
            assert "B2COPY asks office@broker.example for a second factor" in messages(ran, "back_office")
            assert "switch it off for this account" in messages(ran, "back_office")
            assert "`b2copy-sync session renew --login back_office`" in messages(ran, "back_office")
        assert "the account is locked" in messages(locked, "back_office")
        assert "after the account was unlocked" in messages(locked, "back_office")
        assert second_factor.code == resting.code == locked.code == 1

    @pytest.mark.parametrize(
        ("fault", "problem"),
        [("absent", "cannot be read"), ("public", "chmod 600"), ("empty", "one line of UTF-8 text")],
    )
    def test_an_unusable_file_is_named_with_the_remedy(
        self, fault: str, problem: str, b2copy_sync: Command, sandbox: SandboxControl, password: Path
    ) -> None:
        if fault == "absent":
            password.unlink()
        elif fault == "public":
            password.chmod(0o644)
        else:
            password.write_text("")

        ran = b2copy_sync("doctor", "--json")

        assert ran.code == 1
        assert f"FAIL B2COPY_BACK_OFFICE_PASSWORD_FILE: {password}" in messages(ran, "back_office")
        assert problem in messages(ran, "back_office")
        assert "signin" not in logins(sandbox)

    def test_says_what_it_cannot_tell(self, b2copy_sync: Command, sandbox: SandboxControl) -> None:
        sandbox.faults({"what": "status", "status": 503, "route": "signin", "retry_after": "30"})
        unavailable = b2copy_sync("doctor", "--json")
        without_redis = b2copy_sync("doctor", "--json", B2COPY_REDIS_URL="redis://127.0.0.1:1/0")

        assert "HTTP 503" in messages(unavailable, "back_office")
        assert "operations that use this login wait meanwhile" in messages(unavailable, "back_office")
        assert "FAIL there is no session without Redis" in messages(without_redis, "back_office")


def test_a_ledger_of_another_b2copy_fails(b2copy_sync: Command, ledger: Ledger, environment: Environment) -> None:
    with ledger.writing() as connection:
        check_b2copy_host(connection, "https://b2copy.example.com")

    ran = b2copy_sync("doctor", "--json")
    ready = b2copy_sync("health", "--ready")
    compared = b2copy_sync("reconcile")

    assert ran.code == 1
    problem = f"B2COPY_HOST is {environment.sandbox.url}, and this ledger belongs to https://b2copy.example.com"
    assert f"FAIL {problem}" in messages(ran, "ledger")
    assert (ready.code, compared.code) == (1, 2)
    assert problem in ready.out + ready.err
    assert problem in compared.err


def test_a_redis_database_that_another_ledger_uses_fails(b2copy_sync: Command, ledger: Ledger, broker: Broker) -> None:
    now = int(time.time())
    with broker.client as client:
        client.zadd("b2copy:ledgers", {ledger.id: now, "ended-long-ago": now - 40, "of-a-wrong-clock": now + 3600})
        alone = b2copy_sync("doctor", "--json")
        client.zadd("b2copy:ledgers", {"theirs\n": now})
        shared = b2copy_sync("doctor", "--json")

    assert "FAIL" not in grades(alone)["redis"]
    assert (shared.code, "FAIL" in grades(shared)["redis"]) == (1, True)
    assert "FAIL B2COPY_REDIS_URL: workers of another ledger (theirs\\n) use this Redis database" in messages(
        shared, "redis"
    )
    assert "`export B2COPY_REDIS_URL=" in messages(shared, "redis")
