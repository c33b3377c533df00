"""keygen."""

import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tests.cli.command import run
from tests.cli.conftest import Command
from worker.testbed.processes import clean_environment


def test_makes_keys_that_only_we_can_read_and_a_worker_takes(b2copy_sync: Command, tmp_path: Path) -> None:
    made = run(tmp_path, clean_environment(), "keygen", str(tmp_path / "keys"), "--storage", "--json")

    settings = made.document["settings"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert modes == {"b2copy-sync-1.pem": 0o600, "b2copy-sync-1.public.pem": 0o644, "storage.key": 0o600}
    checked = b2copy_sync("doctor", "--offline", **settings)
    assert checked.code == 0, checked.out


def test_says_what_support_must_know_and_nothing_else(tmp_path: Path) -> None:
    ran = run(tmp_path, clean_environment(), "keygen", str(tmp_path), "--key-id", "k7", "--ip", "192.0.2.7")

    assert ran.code == 0
    assert "key identifier:  k7" in ran.out
    assert "IP addresses:    192.0.2.7" in ran.out
    assert load_pem_public_key(ran.out[ran.out.index("-----BEGIN PUBLIC") :].encode())
    assert "PRIVATE KEY" not in ran.out


def test_never_overwrites_a_key(tmp_path: Path) -> None:
    run(tmp_path, clean_environment(), "keygen", str(tmp_path), "--key-id", "k7")
    key = (tmp_path / "k7.pem").read_bytes()

    again = run(tmp_path, clean_environment(), "keygen", str(tmp_path), "--key-id", "k7", "--storage")

    assert again.code == 1
    assert "is not overwritten" in again.err
    assert (tmp_path / "k7.pem").read_bytes() == key
    assert not (tmp_path / "storage.key").exists()


def test_a_full_disk_leaves_no_file_and_is_named_with_the_file(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "worker.cli", "keygen", str(tmp_path / "keys"), "--storage"],
        env=clean_environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),  # bytes, so no file can be written
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (ran.returncode, ran.stderr) == (1, f"{tmp_path}/keys/b2copy-sync-1.pem: File too large\n")
    assert list((tmp_path / "keys").iterdir()) == []


@pytest.mark.parametrize("name", ["k7.public.pem", "storage.key"])
def test_no_key_is_left_if_another_file_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("nowhere")  # it does not exist, and nothing can be made under its name

    ran = run(tmp_path, clean_environment(), "keygen", str(tmp_path), "--key-id", "k7", "--storage")

    assert (ran.code, ran.err) == (1, f"{tmp_path / name}: File exists\n")
    assert sorted(path.name for path in tmp_path.glob("*k*") if not path.is_symlink()) == []


def test_refuses_what_is_no_address(tmp_path: Path) -> None:
    ran = run(tmp_path, clean_environment(), "keygen", str(tmp_path / "keys"), "--ip", "b2copy.example")

    assert ran.code == 2
    assert "'b2copy.example' is no IP address" in ran.err
    assert not (tmp_path / "keys").exists()
