"""What we ship is made of: licences that we may pass on, locked files, no known secret."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from tests import secret_scan

DEPLOY = Path(__file__).parents[2] / "deploy"

# Licences that Apache-2.0 software may be shipped with, as the packages write them.
ALLOWED = {
    "0BSD", "Apache Software License", "Apache-2.0", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "CNRI-Python",
    "ISC License (ISCL)", "ISC", "MIT", "MIT License", "MIT-0", "PSF-2.0", "Python Software Foundation License",
    "The Unlicense (Unlicense)", "Unlicense", "Zlib",
}  # fmt: skip
# Others, each with the reason why it may be used as it is.
REVIEWED = {
    "certifi": "MPL-2.0: certificates as data, unchanged",
    "psycopg": "LGPL-3.0: a library that we call, unchanged, and that anybody may replace",
    "psycopg-binary": "LGPL-3.0: as psycopg",
    "pycurl": "LGPL-2.1 or MIT: we take MIT",
    "protobuf": "BSD-3-Clause, which it writes in words",
    "pathspec": "MPL-2.0: builds the wheel, is not shipped",
}
# Locked for platforms or versions of Python other than this one.
NOT_HERE = {"async-timeout": "Apache-2.0", "colorama": "BSD-3-Clause", "exceptiongroup": "MIT", "tomli": "MIT"}


def locked(name: str) -> set[str]:
    return set(re.findall(r"^([A-Za-z0-9_.-]+)==", (DEPLOY / name).read_text(), re.M))


def licences(package: str) -> set[str]:
    """Return what a package says about its licence; several words if it combines several."""
    try:
        about = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return {NOT_HERE.get(package, "not installed")}
    classifiers = about.get_all("Classifier") or []
    for expression in about.get_all("License-Expression") or []:
        return set(re.split(r" (?:AND|OR) |[()]", str(expression))) - {""}
    if named := {text.split(" :: ")[-1] for text in classifiers if text.startswith("License :: OSI Approved :: ")}:
        return named
    return {str(text).partition("\n")[0] for text in about.get_all("License") or ["none"]}


def test_every_package_that_we_ship_has_a_licence_that_we_may_ship() -> None:
    packages = locked("requirements.txt") | locked("requirements-build.txt")
    refused = {
        package: found
        for package in sorted(packages)
        if package not in REVIEWED and (found := licences(package)) - ALLOWED
    }

    assert len(packages) > 40
    assert refused == {}


@pytest.mark.parametrize(
    "name",
    [
        "requirements.txt",
        "requirements-build.txt",
        "requirements-dev.txt",
        "requirements-browser.txt",
    ],
)
def test_every_lock_is_hashed_and_names_no_registry(name: str) -> None:
    text = (DEPLOY / name).read_text()

    assert re.findall(r"^[a-z0-9_.-]+==[^\\\n]*(?<!\\)\n", text, re.M | re.I) == []  # each goes on with its hashes
    assert "://" not in text


@pytest.mark.parametrize(
    "line",
    [
        "-----BEGIN PRIVATE KEY" + "-----",
        'KEY = "-----BEGIN EC PRIVATE KEY' + "-----\\nMHcCAQEEIBkg4LVWM9nuwNSk3yByxZpYRTBnVJk5GkMadeupNAKB" + '"',
        "redis://" + "b2copy:Zt7vK2mQ9xLw@redis.example.com/0",
        "AKIA" + "Q3EGRIZJK5NZBWTV",
        "ghp_" + "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx",
    ],
    ids=["key", "key in a text", "password", "cloud key", "token"],
)
def test_the_scan_of_the_history_finds_a_planted_secret(line: str) -> None:
    pytest.importorskip("detect_secrets", reason="NOT VALIDATED: detect-secrets is not installed")

    assert len(secret_scan.found(iter([("abc1234", "some/file", line)]))) == 1
