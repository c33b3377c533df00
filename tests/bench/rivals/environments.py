"""The rivals' environments: made on demand below `.bench/` from `pinned.toml`, apart from our own locks."""

import hashlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.bench.peer import CACHE

PINNED = tomllib.loads(Path(__file__).with_name("pinned.toml").read_text())
"""Name of the rival -> exact requirements."""


def python_of(rival: str) -> Path | None:
    """Return the Python of a rival's environment. None, and a loud line, if it cannot be had."""
    pinned = PINNED[rival]
    folder = CACHE / f"{rival}-{hashlib.sha256(repr(pinned).encode()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    print(f"making the environment of {rival} (once)", flush=True)
    uv = shutil.which("uv")
    if uv:
        make, install = (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable],
            [uv, "pip", "install", "--python", str(python)],
        )
    else:  # our own pip installs there, because a new environment takes long to get one
        make = [sys.executable, "-m", "venv", "--without-pip"]
        install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install"]
    for command in ([*make, str(folder)], [*install, "--quiet", "--no-deps", *pinned]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
            print(f"SKIPPED: {rival}: its environment cannot be made: {reason[0]}", flush=True)
            return None
    (folder / "ready").touch()
    return python
