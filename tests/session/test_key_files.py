"""Key files: which are taken, which are refused, and what the refusal says."""

import base64
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.conftest import Configure
from tests.session.frames import shown_by
from worker.errors import SettingsError
from worker.session import key_files
from worker.session.secret import Secret
from worker.session.token_encryption import seal, unseal
from worker.session.tokens import Pair

P256 = ec.generate_private_key(ec.SECP256R1())
PKCS8, SEC1 = PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL


def pem(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    kind: PrivateFormat = PKCS8,
    lock: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, kind, lock or NoEncryption())


def secret(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("text", [pem(P256), pem(P256, SEC1)], ids=["PKCS#8", "SEC1"])
def test_a_p256_key_is_taken(configure: Configure, tmp_path: Path, text: bytes) -> None:
    settings = configure(private_key_file=secret(tmp_path / "key", text))

    assert [key.key_id for key in key_files.signing_keys(settings)] == ["test-key"]


BAD_KEYS = {
    "P-384": (pem(ec.generate_private_key(ec.SECP384R1())), "not a P-256 key"),
    "secp256k1": (pem(ec.generate_private_key(ec.SECP256K1())), "not a P-256 key"),
    "RSA": (pem(rsa.generate_private_key(65537, 2048)), "not a P-256 key"),
    "encrypted": (pem(P256, lock=BestAvailableEncryption(b"hush")), "B2COPY_PRIVATE_KEY_PASSPHRASE_FILE"),
    "public": (P256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "a public key"),
    "cut": (pem(P256)[:90], "cannot be parsed"),
    "empty": (b"", "no PEM private key"),
    "base64 of PEM and another character": (b"*" + base64.b64encode(pem(P256)), "no PEM private key"),
}


DER = P256.private_bytes(Encoding.DER, PKCS8, NoEncryption())
ENCRYPTED = pem(P256, lock=BestAvailableEncryption(b"hush"))
OTHER_SHAPES = {
    "two characters for a line end": (pem(P256).replace(b"\n", b"\\n"), r"turn each \\n into a line end"),
    "CRLF as four characters": (pem(P256).replace(b"\n", b"\\r\\n"), r"turn each \\n into a line end"),
    "DER": (DER, "openssl pkey -inform DER"),
    "DER of SEC1": (P256.private_bytes(Encoding.DER, SEC1, NoEncryption()), "openssl pkey -inform DER"),
    "UTF-16": (pem(P256).decode().encode("utf-16"), "iconv -f UTF-16"),
    "UTF-16 and CRLF": (pem(P256).replace(b"\n", b"\r\n").decode().encode("utf-16"), "iconv -f UTF-16"),
    "base64 of PEM": (base64.b64encode(pem(P256)), "openssl base64 -d -A"),
    "without first and last line": (base64.b64encode(DER) + b"\n", "-----BEGIN PRIVATE KEY-----"),
    "PKCS#8 with SEC1's label": (pem(P256).replace(b"PRIVATE KEY", b"EC PRIVATE KEY"), "label it PRIVATE KEY"),
    "SEC1 with PKCS#8's label": (pem(P256, SEC1).replace(b"EC PRIVATE KEY", b"PRIVATE KEY"), "label it EC PRIVATE KEY"),
}


@pytest.mark.parametrize(("text", "remedy"), OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_a_valid_key_in_another_shape_is_converted_and_not_replaced(
    configure: Configure, tmp_path: Path, text: bytes, remedy: str
) -> None:
    settings = configure(private_key_file=secret(tmp_path / "key", text))

    with pytest.raises(SettingsError, match=remedy) as refused:
        key_files.check(settings)

    assert "keygen" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert not leaked(refused.value, text)


def leaked(error: BaseException, text: bytes) -> list[str]:
    """Where a piece of the key's text is found in an error or in a frame of it."""
    pieces = {line.decode("latin-1") for line in text.splitlines() if len(line) > 30}
    shown = [("text", str(error)), *shown_by(error)]
    return [where for where, found in shown if any(piece in found for piece in pieces)]


@pytest.mark.failure_mode("F54")
@pytest.mark.parametrize(("text", "reason"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_any_other_key_is_refused_at_start(configure: Configure, tmp_path: Path, text: bytes, reason: str) -> None:
    settings = configure(private_key_file=secret(tmp_path / "key", text))

    with pytest.raises(SettingsError, match=reason) as refused:
        key_files.check(settings)

    assert "B2COPY_PRIVATE_KEY_FILE" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert not leaked(refused.value, text)


def test_an_encrypted_key_is_opened_by_its_passphrase_file(configure: Configure, tmp_path: Path) -> None:
    locked = secret(tmp_path / "key", pem(P256, lock=BestAvailableEncryption(b"hush")))
    settings = configure(private_key_file=locked, private_key_passphrase_file=secret(tmp_path / "pass", b"hush\n"))

    assert key_files.signing_keys(settings)
    secret(tmp_path / "key", pem(P256))
    assert key_files.signing_keys(settings), "a key that is not encrypted needs none"

    secret(tmp_path / "key", pem(P256, lock=BestAvailableEncryption(b"hush")))
    secret(tmp_path / "pass", b"other\n")
    with pytest.raises(SettingsError, match="passphrase does not open it"):
        key_files.signing_keys(settings)


@pytest.mark.parametrize(("mode", "taken"), [(0o600, 1), (0o400, 1), (0o440, 1), (0o640, 1), (0o644, 0), (0o620, 0)])
def test_only_a_file_nobody_else_may_read_or_change_is_taken(
    configure: Configure, tmp_path: Path, mode: int, taken: int
) -> None:
    settings = configure(private_key_file=secret(tmp_path / "key", pem(P256), mode))

    if taken:
        assert key_files.signing_keys(settings)
    else:
        with pytest.raises(SettingsError, match=f"{mode:04o}.*chmod 600.*defaultMode 0440"):
            key_files.signing_keys(settings)


def test_a_symlinked_secret_is_followed(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    secret(tmp_path / "..2026" / "key", pem(P256), 0o440)
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "key").symlink_to("..data/key")

    assert key_files.signing_keys(configure(private_key_file=tmp_path / "key"))


def test_a_pipe_is_refused_and_not_waited_for(configure: Configure, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key", 0o600)

    with pytest.raises(SettingsError, match="not a regular file"):
        key_files.signing_keys(configure(private_key_file=tmp_path / "key"))


def test_an_absent_key_is_skipped_but_one_must_be_there(configure: Configure, tmp_path: Path) -> None:
    both = configure(key_id="new,old", private_key_file=f"{tmp_path}/new,{secret(tmp_path / 'old', pem(P256))}")
    assert [key.key_id for key in key_files.signing_keys(both)] == ["old"]

    with pytest.raises(SettingsError, match="keygen"):
        key_files.signing_keys(configure(key_id="new", private_key_file=tmp_path / "new"))


def test_a_key_is_read_again_when_its_file_changes(configure: Configure, tmp_path: Path) -> None:
    settings = configure(private_key_file=secret(tmp_path / "key", pem(P256)))
    before = key_files.fingerprint(settings)

    secret(tmp_path / "key", pem(ec.generate_private_key(ec.SECP256R1())))

    assert key_files.fingerprint(settings) != before


def test_the_fingerprint_of_a_key_is_the_same_in_every_version(configure: Configure, tmp_path: Path) -> None:
    """A version that computed another one would log in although no key has changed."""
    known = pem(ec.derive_private_key(7, ec.SECP256R1()))
    settings = configure(private_key_file=secret(tmp_path / "key", known))

    assert [key.fingerprint for key in key_files.signing_keys(settings)] == ["699a38e5261f9a10"]
    assert key_files.fingerprint(settings) == "0f7fb9b5aa6d88b1"


@pytest.mark.parametrize(
    ("text", "reason"), [(b"", "is empty"), (b"c2hvcnQ=\n", "line 1"), (b"\n\nnot base64 at all\n", "line 3")]
)
def test_an_unusable_storage_key_is_refused_at_start(
    configure: Configure, tmp_path: Path, text: bytes, reason: str
) -> None:
    settings = configure(storage_key_file=secret(tmp_path / "storage", text))

    with pytest.raises(SettingsError, match=f"B2COPY_STORAGE_KEY_FILE.*{reason}") as refused:
        key_files.check(settings)

    assert "base64 at" not in str(refused.value)


def test_without_a_storage_key_nothing_starts(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"B2COPY_STORAGE_KEY_FILE.*cannot be read"):
        key_files.check(configure(storage_key_file=tmp_path / "absent"))


@pytest.mark.failure_mode("F57")
def test_a_new_storage_key_still_opens_what_the_old_one_sealed(configure: Configure, tmp_path: Path) -> None:
    key_files.generate_storage(tmp_path / "old")
    old = key_files.storage_keys(configure(storage_key_file=tmp_path / "old"))
    sealed = seal(old, "place", 7, Pair(Secret("access"), Secret("refresh")))
    key_files.generate_storage(tmp_path / "new")
    new_alone = key_files.storage_keys(configure(storage_key_file=tmp_path / "new"))
    both = secret(tmp_path / "both", (tmp_path / "new").read_bytes() + (tmp_path / "old").read_bytes())
    rotated = key_files.storage_keys(configure(storage_key_file=both))

    assert unseal(rotated, "place", 7, sealed) == Pair(Secret("access"), Secret("refresh"))
    assert unseal(new_alone, "place", 7, sealed) is None
    assert unseal(new_alone, "place", 8, seal(rotated, "place", 8, Pair(Secret("a"), None))) == Pair(Secret("a"), None)


def test_a_blob_moved_elsewhere_is_no_session(configure: Configure, tmp_path: Path) -> None:
    key_files.generate_storage(tmp_path / "key")
    fernet = key_files.storage_keys(configure(storage_key_file=tmp_path / "key"))
    sealed = seal(fernet, "place", 7, Pair(Secret("access"), Secret("refresh")))

    assert unseal(fernet, "another place", 7, sealed) is None
    assert unseal(fernet, "place", 8, sealed) is None
    assert unseal(fernet, "place", 7, sealed[:-4] + b"AAA=") is None


def test_generated_keys_are_private_and_never_overwritten(configure: Configure, tmp_path: Path) -> None:
    key_files.generate(tmp_path / "private", tmp_path / "public")
    key_files.generate_storage(tmp_path / "storage")

    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("private", "public", "storage")]
    assert modes == [0o600, 0o644, 0o600]
    key_files.check(configure(private_key_file=tmp_path / "private", storage_key_file=tmp_path / "storage"))
    for name in ("private", "storage"):
        with pytest.raises(FileExistsError):
            key_files.generate_storage(tmp_path / name)
