"""The local B2COPY alone, to try things out on."""

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli import output
from worker.cli.exits import Exit, Stop


def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8400,
    folder: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", help="Keep the keys there.", show_default="made anew, gone at the end"),
    ] = None,
    switch: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=JSON", help="A switch, e.g. access_lifetime=5; may be repeated."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the switches with their defaults, and end.")] = False,
) -> None:
    """Run a local B2COPY on this machine, with a key of its own, until Ctrl-C.

    It keeps everything in memory and answers like B2COPY's documented API; switches decide what the documentation
    leaves open. Prints the settings a worker needs to talk to it.
    """
    from worker.sandbox.run import serve
    from worker.sandbox.switches import Switches, describe
    from worker.testbed.environment import ADMIN_ID, DEVICE_IP

    if listed:
        output.line(describe())
        return
    try:
        switches = Switches().changed({"admin_id": ADMIN_ID, **dict(map(_pair, switch or []))})
    except ValueError as error:
        raise Stop(Exit.USAGE, str(error)) from None
    with tempfile.TemporaryDirectory(prefix="b2copy-sandbox-") as made:
        private, public, storage = _keys(folder or Path(made))

        def ready(url: str) -> None:
            settings = {
                "B2COPY_HOST": url,
                "B2COPY_ADMIN_ID": ADMIN_ID,
                "B2COPY_KEY_ID": private.stem,
                "B2COPY_PRIVATE_KEY_FILE": private,
                "B2COPY_STORAGE_KEY_FILE": storage,
                "B2COPY_DEVICE_IP": DEVICE_IP,
            }
            for name, value in settings.items():
                output.line(f"export {name}={value}")
            output.line("# and yours: B2COPY_REDIS_URL=redis://... B2COPY_DATABASE_URL=sqlite:////absolute/path")
            output.note(f"B2COPY's sandbox listens on {url}; Ctrl-C ends it")

        try:
            serve(switches, {private.stem: public.read_text()}, port=port, ready=ready)
        except OSError as error:
            raise Stop(
                Exit.FAILED, f"port {port}: {os.strerror(error.errno or 0)}; --port 0 takes a free one"
            ) from None


def _keys(folder: Path) -> tuple[Path, Path, Path]:
    """Make what is absent, keep what is there."""
    from worker.session import generate, generate_storage

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = folder.resolve()
    private, public, storage = folder / "sandbox.pem", folder / "sandbox.public.pem", folder / "storage.key"
    if not private.exists():
        generate(private, public)
    if not storage.exists():
        generate_storage(storage)
    return private, public, storage


def _pair(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--set {text}: must be NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
