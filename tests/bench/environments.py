"""Environments made on demand below `.bench/`: those of the rivals from `rivals/pinned.toml`, and ours.

Ours holds what `pip install b2copy-sync[postgres]` installs, in the versions of the project's environment, and none of
the packages for tests: some packages load what they find installed beside them, and then need more memory.
"""

import hashlib
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

from tests.bench.peer import CACHE

ROOT = Path(__file__).parents[2]
PINNED = tomllib.loads(Path(__file__).with_name("rivals").joinpath("pinned.toml").read_text())
"""Name of the rival -> exact requirements."""


def python_of(rival: str) -> Path | None:
    """Return the Python of a rival's environment. None, and a loud line, if it cannot be had."""
    return _python_with(rival, PINNED[rival])


@cache
def our_python() -> Path | None:
    """Return the Python of our environment, with the code as it is now.

    None, and a loud line, if the environment cannot be had.
    """
    python = _python_with("ours", installed_versions(Requirement("b2copy-sync[postgres]")))
    if python is None:
        return None
    with TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
        subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
        [wheel] = Path(folder).glob("*.whl")
        subprocess.run([*_install_with(python), "--force-reinstall", str(wheel)], capture_output=True, check=True)
    return python


def installed_versions(requirement: Requirement) -> list[str]:
    """Return what a requirement needs, directly and indirectly, in the versions that are installed here."""
    found: dict[str, str] = {}
    left, seen = [requirement], set[str]()
    while left:
        one = left.pop()
        for needed in map(Requirement, distribution(one.name).requires or ()):
            is_needed = not needed.marker or any(
                needed.marker.evaluate({"extra": extra}) for extra in one.extras or {""}
            )
            if is_needed and str(needed) not in seen:
                seen.add(str(needed))
                found[needed.name.lower()] = f"{needed.name}=={distribution(needed.name).version}"
                left.append(needed)
    return sorted(found.values())


def _python_with(name: str, pinned: list[str]) -> Path | None:
    """Return the Python of an environment that holds exact requirements. It is made if there is none."""
    folder = CACHE / f"{name}-{hashlib.sha256(repr(pinned).encode()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    print(f"making the environment of {name} (once)", flush=True)
    if uv := shutil.which("uv"):
        make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable]
    else:
        make = [sys.executable, "-m", "venv", "--without-pip"]
    for command in ([*make, str(folder)], [*_install_with(python), *pinned]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
            print(f"SKIPPED: {name}: its environment cannot be made: {reason[0]}", flush=True)
            return None
    (folder / "ready").touch()
    return python


def _install_with(python: Path) -> list[str]:
    """Return the command that installs exactly what follows it, in the environment of `python`."""
    if uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--python", str(python)]
    else:  # our own pip installs there, because a new environment takes long to get one
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install"]
    return [*command, "--quiet", "--no-deps"]
