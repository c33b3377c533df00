"""`b2copy-sync sandbox`: a local B2COPY to try a worker with."""

import json
import os
import shlex
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.options import Json

PUBLIC = ".public.pem"  # the end of a public key's file name; its private key is KEY_ID.pem


def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8400,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            metavar="DIR",
            help="Use the keys in this folder, named as `keygen` names them, and create those that are absent.",
            show_default="new ones, removed at the end",
        ),
    ] = None,
    with_broker: Annotated[
        bool, typer.Option("--with-broker", help="Run a Redis server too, so that a worker needs nothing else.")
    ] = False,
    switch: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=JSON", help="A switch, e.g. access_lifetime=5; may be repeated."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the switches with their defaults, and end.")] = False,
    as_json: Json = False,
) -> None:
    """Run a local B2COPY on this machine, with a key of its own, until Ctrl-C.

    It keeps everything in memory and answers as B2COPY's documentation says; switches decide what the documentation
    leaves open. It prints the settings that a worker needs to use it, as lines for a shell (--json: as one object).
    """
    from worker.sandbox.run import serve
    from worker.sandbox.switches import Switches, describe
    from worker.testbed.broker import Broker
    from worker.testbed.local_system import ADMIN_ID, DEVICE_IP
    from worker.testbed.processes import ProcessFailed

    if listed:
        if as_json:
            output.document({name: value.default for name, value in Switches.model_fields.items()})
        else:
            for switch_line in describe().splitlines():
                output.line(switch_line)
        return
    try:
        switches = Switches().changed({"admin_id": ADMIN_ID, **dict(map(_pair, switch or []))})
    except ValueError as error:
        raise Stop(Exit.USAGE, str(error)) from None
    with tempfile.TemporaryDirectory(prefix="b2copy-sandbox-") as temporary, ExitStack() as stack:
        privates, storage = _keys(folder or Path(temporary))
        settings = {
            "B2COPY_ADMIN_ID": ADMIN_ID,
            "B2COPY_KEY_ID": ",".join(private.stem for private in privates),
            "B2COPY_PRIVATE_KEY_FILE": ",".join(map(str, privates)),
            "B2COPY_STORAGE_KEY_FILE": storage,
            "B2COPY_DEVICE_IP": DEVICE_IP,
        }
        if switches.secret_key:
            settings["B2COPY_SEAMLESS_SECRET_FILE"] = _seamless_secret(Path(temporary), switches.secret_key)
        if with_broker:
            try:
                broker = Broker(Path(temporary) / "broker").start()
            except ProcessFailed as error:
                raise Stop(Exit.FAILED, str(error)) from None
            stack.callback(broker.stop)
            settings["B2COPY_REDIS_URL"] = broker.url
            settings["B2COPY_DATABASE_URL"] = f"sqlite:///{Path(temporary).resolve() / 'ledger.sqlite'}"

        def ready(url: str) -> None:
            needed = {"B2COPY_HOST": url, **{name: str(value) for name, value in settings.items()}}
            # Not by `output`, which removes passwords: that of the broker is needed, and is valid only here.
            if as_json:
                sys.stdout.write(json.dumps(needed) + "\n")
            else:
                sys.stdout.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in needed.items())
            sys.stdout.flush()
            output.note(
                f"B2COPY's sandbox listens on {url}; Ctrl-C ends it. Paste these lines into another shell, then:"
            )
            if not with_broker:
                output.note("  export B2COPY_REDIS_URL=redis://...  B2COPY_DATABASE_URL=sqlite:////absolute/path")
            output.note("  b2copy-sync migrate; b2copy-sync worker &")
            output.note("  b2copy-sync fees --account 123456 --request-id W1 --wait")

        try:
            public_keys = {private.stem: private.with_suffix(PUBLIC).read_text() for private in privates}
            serve(switches, public_keys, port=port, ready=ready)
        except OSError as error:
            raise Stop(Exit.FAILED, f"port {port}: {os.strerror(error.errno or 0)}; --port 0 uses a free one") from None


def _keys(folder: Path) -> tuple[list[Path], Path]:
    """Return the private keys in the folder, newest first, and the storage key. Makes what is absent."""
    from worker.session import generate, generate_storage

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = folder.resolve()
    privates = [path for path in folder.glob("*.pem") if path.with_suffix(PUBLIC).exists()]
    if not privates:
        privates = [folder / "sandbox.pem"]
        generate(privates[0], privates[0].with_suffix(PUBLIC))
    storage = folder / "storage.key"
    if not storage.exists():
        generate_storage(storage)
    return sorted(privates, key=lambda path: path.stat().st_mtime_ns, reverse=True), storage


def _seamless_secret(folder: Path, secret: str) -> Path:
    """Write the file with the secret of seamless logins that the sandbox takes."""
    path = folder.resolve() / "sandbox-seamless.secret"
    path.touch(mode=0o600)
    path.write_text(secret)
    return path


def _pair(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--set {text}: must be NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
