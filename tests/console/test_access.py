"""Who may come in: by a proxy's word, by password, or only from this machine."""

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
from argon2 import PasswordHasher
from starlette.requests import Request
from starlette.testclient import TestClient

from tests.console.conftest import ADDRESS, client_of
from tests.operations import fail_operation
from worker.console import password_access
from worker.console.access import ProxyAccess, read_secret
from worker.console.app import make_app
from worker.console.password_access import PasswordAccess, read_people, set_person
from worker.console.process_state import Console
from worker.console.roles import Role
from worker.console.serve import check_listen, make_console, split_address
from worker.errors import SettingsError
from worker.ledger import Ledger
from worker.settings import ConsoleSettings

OpenConsole = Callable[..., Console]
SECRET = "s" * 40
PASSWORD = "correct horse battery"


def by_proxy(console: OpenConsole, trusted: str = "127.0.0.0/8") -> Console:
    return console(ProxyAccess([trusted], SECRET), console_access="proxy")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-forwarded-user": "ann", "x-forwarded-groups": "staff, b2copy-viewer", "x-console-secret": SECRET}, 200),
        ({"x-forwarded-user": "ann", "x-forwarded-groups": "b2copy-operator", "x-console-secret": SECRET}, 200),
        ({"x-forwarded-user": "ann", "x-forwarded-groups": "staff", "x-console-secret": SECRET}, 403),
        ({"x-forwarded-user": "ann", "x-console-secret": SECRET}, 403),
        ({"x-forwarded-user": "ann", "x-forwarded-groups": "b2copy-viewer"}, 401),
        ({"x-forwarded-user": "ann", "x-forwarded-groups": "b2copy-viewer", "x-console-secret": "x" * 40}, 401),
        ({"x-forwarded-user": "  ", "x-forwarded-groups": "b2copy-viewer", "x-console-secret": SECRET}, 401),
        ({"x-forwarded-user": "a" * 101, "x-forwarded-groups": "b2copy-viewer", "x-console-secret": SECRET}, 401),
        ({"x-forwarded-groups": "b2copy-viewer", "x-console-secret": SECRET}, 401),
        ({}, 401),
    ],
)
def test_a_proxy_names_the_person(open_console: OpenConsole, headers: dict[str, str], status: int) -> None:
    client = TestClient(make_app(by_proxy(open_console)), base_url=ADDRESS, client=("127.0.0.1", 5000))
    assert client.get("/", headers=headers).status_code == status
    foreign = TestClient(make_app(by_proxy(open_console)), base_url=ADDRESS, client=("10.9.9.9", 5000))
    assert foreign.get("/", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Jürgen".encode(), "Jürgen"),
        ("Ольга".encode(), "Ольга"),
        ("ж".encode() * 100, "ж" * 100),
        ("ж".encode() * 101, None),
        ("Jürgen".encode("latin-1"), None),
        ("J\u202erg".encode(), None),
        (b"J\x7frg", None),
        ("\u00a0ann".encode(), None),
        (b" ann\t", "ann"),
    ],
)
def test_a_proxy_writes_a_name_as_utf_8(name: bytes, known: str | None) -> None:
    """The request as uvicorn gives it: the client of tests writes other bytes for what is not UTF-8."""
    headers = [(b"x-forwarded-user", name), (b"x-forwarded-groups", b"b2copy-viewer"), (b"x-console-secret", b"s" * 40)]
    request = Request({"type": "http", "headers": headers, "client": ("127.0.0.1", 5000)})

    person = ProxyAccess(["127.0.0.0/8"], SECRET).person(request)

    assert (person and person.name) == known


@pytest.mark.parametrize("doubled", ["x-forwarded-groups", "x-forwarded-user", "x-console-secret"])
def test_a_header_that_stands_twice_names_nobody(open_console: OpenConsole, doubled: str) -> None:
    headers = {"x-forwarded-user": "ann", "x-forwarded-groups": "b2copy-viewer", "x-console-secret": SECRET}
    by_client = {"x-forwarded-user": "bob", "x-forwarded-groups": "b2copy-approver", "x-console-secret": SECRET}
    client = TestClient(make_app(by_proxy(open_console)), base_url=ADDRESS, client=("127.0.0.1", 5000))

    assert client.get("/", headers=list(headers.items())).status_code == 200
    assert client.get("/", headers=[*headers.items(), (doubled, by_client[doubled])]).status_code == 401


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people"
    set_person(path, "ann", PASSWORD, [Role.OPERATOR])
    set_person(path, "bob", "another long password", [Role.VIEWER, Role.APPROVER])
    return path


def test_the_file_of_people_is_private_and_holds_no_password(people: Path) -> None:
    assert people.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in people.read_text()
    assert "$argon2id$" in people.read_text()
    assert {name: person.roles for name, (_, person) in read_people(people).items()} == {
        "ann": {Role.OPERATOR},
        "bob": {Role.VIEWER, Role.APPROVER},
    }
    people.chmod(0o440)  # as systemd and Kubernetes mount it
    assert set(read_people(people)) == {"ann", "bob"}
    for others_may in (0o644, 0o660):
        people.chmod(others_may)
        with pytest.raises(SettingsError, match="chmod 600"):
            read_people(people)


def test_the_file_of_people_stays_its_owners_and_private(people: Path) -> None:
    owner = 65_534 if os.geteuid() == 0 else os.geteuid()  # root writes the file of the user who runs the console
    os.chown(people, owner, -1)
    left_over = people.with_name("people.new")
    left_over.write_text("of a process that was killed")
    left_over.chmod(0o644)

    set_person(people, "ann", "a new long password", [Role.OPERATOR])

    assert people.stat().st_uid == owner
    assert people.stat().st_mode & 0o777 == 0o600
    assert set(read_people(people)) == {"ann", "bob"}
    assert list(people.parent.iterdir()) == [people]


def test_a_link_to_another_file_is_not_followed(people: Path, tmp_path: Path) -> None:
    """Root may change the file in a folder of another user, who must not get what is in root's files."""
    link = tmp_path / "link"
    link.symlink_to(people)
    before = people.read_bytes()

    with pytest.raises(SettingsError, match="is a link"):
        set_person(link, "cid", "a new long password", [Role.OPERATOR])

    assert (people.read_bytes(), link.is_symlink()) == (before, True)


def test_a_file_that_may_not_be_read_is_said_to_be_anothers(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "open", refuse)  # as for a user who is not root
    with pytest.raises(SettingsError, match="belongs to another user"):
        set_person(people, "ann", "a new long password", [Role.OPERATOR])


def test_the_file_of_another_user_is_left_as_it_is(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = people.read_bytes()
    if os.geteuid() == 0:
        os.chown(people, 65_534, -1)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown" if os.geteuid() == 0 else "fchmod", refuse)  # as for a user who is not root
    with pytest.raises(SettingsError, match="belongs to another user"):
        set_person(people, "ann", "a new long password", [Role.OPERATOR])

    assert people.read_bytes() == before
    assert list(people.parent.iterdir()) == [people]


def test_people_who_are_added_at_once_are_all_in_the_file(people: Path) -> None:
    names = [f"person {number}" for number in range(6)]
    start = threading.Barrier(len(names))

    def add(name: str) -> None:
        start.wait()
        set_person(people, name, PASSWORD, [Role.VIEWER])

    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(add, names))

    assert set(read_people(people)) == {"ann", "bob", *names}


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        (b"\xffann:hash:viewer\n", "is not UTF-8 text"),
        (b"ann:hash:approver\n", "line 3 names 'ann' a second time"),
        (b"carl:hash:owner\n", "line 3 is not name:hash:roles"),
    ],
)
def test_a_file_of_people_that_cannot_be_meant_is_refused(people: Path, added: bytes, problem: str) -> None:
    people.write_bytes(people.read_bytes() + added)

    with pytest.raises(SettingsError, match=problem):
        read_people(people)


def test_a_byte_order_mark_is_no_part_of_a_name(people: Path) -> None:
    people.write_bytes(b"\xef\xbb\xbf" + people.read_bytes())

    assert set(read_people(people)) == {"ann", "bob"}


@pytest.mark.parametrize(("name", "password"), [("a:b", PASSWORD), ("", PASSWORD), (" a", PASSWORD), ("a", "short")])
def test_a_name_or_password_that_cannot_be_used_is_refused(tmp_path: Path, name: str, password: str) -> None:
    with pytest.raises(SettingsError):
        set_person(tmp_path / "people", name, password, [Role.VIEWER])
    assert not (tmp_path / "people").exists()


def test_a_person_logs_in_and_out(open_console: OpenConsole, people: Path) -> None:
    client = client_of(open_console(PasswordAccess(people, False), console_access="password"))

    assert client.get("/").headers["location"] == "/login"
    assert client.post("/login", data={"name": "ann", "password": "wrong one, sorry"}).status_code == 401
    entered = client.post("/login", data={"name": "ann", "password": PASSWORD})
    cookie = entered.headers["set-cookie"]
    assert entered.status_code == 303
    assert {part.strip().lower() for part in cookie.split(";")[1:]} >= {"httponly", "samesite=strict", "path=/"}
    page = client.get("/")
    assert (page.status_code, "ann" in page.text) == (200, True)
    client.post("/logout")

    assert client.get("/").headers["location"] == "/login"


def test_over_https_the_cookie_is_bound_to_the_host(open_console: OpenConsole, people: Path) -> None:
    client = client_of(open_console(PasswordAccess(people, True), console_access="password"))

    cookie = client.post("/login", data={"name": "ann", "password": PASSWORD}).headers["set-cookie"]

    assert cookie.startswith("__Host-b2copy=")
    assert "secure" in cookie.lower()


def test_a_change_of_the_file_ends_all_sessions(open_console: OpenConsole, people: Path) -> None:
    client = client_of(open_console(PasswordAccess(people, False), console_access="password"))
    client.post("/login", data={"name": "ann", "password": PASSWORD})
    assert client.get("/").status_code == 200

    set_person(people, "carl", "yet another password", [Role.VIEWER])

    assert client.get("/").status_code == 303


def test_a_password_file_that_others_may_read_closes_the_console_and_the_log_says_why(
    open_console: OpenConsole, people: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(open_console(PasswordAccess(people, False), console_access="password"))
    client.post("/login", data={"name": "ann", "password": PASSWORD})
    people.chmod(0o644)

    for answer in (client.get("/"), client.get("/login"), client.post("/login", data={"name": "ann"})):
        assert (answer.status_code, answer.text) == (
            503,
            "The console's settings cannot be used: its log says which and why.\n",
        )
    assert f"chmod 600 {people}" in caplog.text

    people.chmod(0o600)
    assert client.get("/login").status_code == 200


def test_passwords_cannot_be_tried_without_end(
    open_console: OpenConsole, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(password_access, "TRIES_PER_S", 0.001)
    monkeypatch.setattr(password_access, "TRIES_AT_ONCE", 4)
    monkeypatch.setattr(password_access, "WRONG_S", 0.0)
    client = client_of(open_console(PasswordAccess(people, False), console_access="password"))

    tries = [client.post("/login", data={"name": f"eve {n}", "password": "guess"}).status_code for n in range(6)]

    assert tries == [401] * 4 + [429] * 2


def test_wrong_tries_in_a_persons_name_do_not_lock_the_person_out(
    open_console: OpenConsole, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(password_access, "WRONG_S", 0.0)
    client = client_of(open_console(PasswordAccess(people, False), console_access="password"))

    for _ in range(6):
        assert client.post("/login", data={"name": "ann", "password": "guess"}).status_code == 401

    assert client.post("/login", data={"name": "ann", "password": PASSWORD}).status_code == 303


def test_a_flood_of_logins_has_two_passwords_verified_at_once(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, highest, lock = 0, 0, threading.Lock()

    class Counted(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            nonlocal at_once, highest
            with lock:
                at_once += 1
                highest = max(highest, at_once)
            try:
                return super().verify(hash, password)
            finally:
                with lock:
                    at_once -= 1

    monkeypatch.setattr(password_access, "_HASHER", Counted())
    access = PasswordAccess(people, False)
    with ThreadPoolExecutor(4) as threads:
        tokens = list(threads.map(lambda _: access.log_in("ann", PASSWORD), range(4)))

    assert len(set(tokens)) == 4
    assert highest == 2


def test_a_login_under_way_does_not_survive_a_change_of_the_file(
    people: Path, monkeypatch: pytest.MonkeyPatch, open_console: Callable[..., Console]
) -> None:
    access = PasswordAccess(people, False)

    class Slow(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            verified = super().verify(hash, password)
            people.write_text("")  # ann is removed meanwhile
            access._read()  # as for the page of another person
            return verified

    monkeypatch.setattr(password_access, "_HASHER", Slow())

    assert access.log_in("ann", PASSWORD) is None
    assert access._sessions == {}


def settings(console_url: str, **given: object) -> ConsoleSettings:
    return ConsoleSettings(database_url=console_url, redis_url="redis://127.0.0.1:1/0", **given)  # type: ignore[arg-type]


def test_others_reach_no_console_without_access_control(console_url: str) -> None:
    check_listen(settings(console_url), "127.0.0.1")
    check_listen(settings(console_url, console_access="proxy"), "0.0.0.0")
    check_listen(settings(console_url, console_access="password", console_origin="https://x.example"), "10.0.0.1")
    for given, host in (({}, "0.0.0.0"), ({}, "192.168.1.5"), ({"console_access": "password"}, "10.0.0.1")):
        with pytest.raises(SettingsError, match=host):
            check_listen(settings(console_url, **given), host)


def test_without_access_control_the_console_only_reads(console_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for alone in (False, True):
        console = make_console(settings(console_url), alone, lambda lane: None)
        assert console.read_only is not alone
        page = client_of(console).get("/system").text
        assert ("/fleet/pause" in page) is alone
        assert client_of(console).get("/fleet/pause").status_code == (200 if alone else 404)
        console.ledger.close()


def test_the_console_knows_notices_too(console_url: str, ledger: Ledger) -> None:
    fail_operation(ledger, "N1", kind="crm.notify", lane="notify", failure_reason="gone")
    console = make_console(settings(console_url), True, lambda lane: None)
    client = client_of(console)

    assert "crm.notify:N1" in client.get("/operations?kind=crm.notify").text
    assert "moves money" not in client.get("/operation?key=crm.notify:N1").text
    assert client.get("/operations?find=N1").headers["location"] == "/operation?key=crm.notify%3AN1"
    console.ledger.close()


@pytest.mark.parametrize(
    "given",
    [
        {"console_access": "proxy"},
        {"console_access": "proxy", "console_trusted_proxies": ["10.0.0.1"]},
        {"console_access": "password"},
        {"console_access": "password", "console_password_file": Path("/nowhere/people")},
    ],
)
def test_incomplete_settings_are_refused_with_the_name_of_what_is_missing(
    console_url: str, given: dict[str, object]
) -> None:
    with pytest.raises(SettingsError, match="B2COPY_CONSOLE_"):
        make_console(settings(console_url, **given), False, lambda lane: None)


def test_the_proxys_secret_is_long_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    wrong = (("short", 0o600), (SECRET, 0o644), ("\ufeff" + SECRET, 0o600), (SECRET + "\u00e9", 0o600))
    for content, mode in (*wrong, (f"{SECRET}\n{SECRET}", 0o600)):
        path.write_text(content)
        os.chmod(path, mode)
        with pytest.raises(SettingsError, match="B2COPY_CONSOLE_PROXY_SECRET_FILE"):
            read_secret(path)
    path.write_text(f"{SECRET}\n")
    os.chmod(path, 0o640)
    assert read_secret(path) == SECRET


@pytest.mark.parametrize("text", ["8080", "127.0.0.1", "example.com:80", "127.0.0.1:0", "127.0.0.1:x", ":8080"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--listen"):
        split_address(text)
    assert split_address("[::1]:8080") == ("::1", 8080)
