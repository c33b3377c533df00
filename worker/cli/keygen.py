"""`keygen`: make the keys that a worker needs, and say what B2COPY support must know."""

from pathlib import Path
from typing import Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.options import Json


def keygen(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go; made if absent.")],
    key_id: Annotated[
        str, typer.Option("--key-id", help="The key's identifier, as B2COPY shall know it.", show_default=True)
    ] = "b2copy-sync-1",
    ip: Annotated[
        list[str] | None, typer.Option("--ip", help="An address our requests come from; may be repeated.")
    ] = None,
    storage: Annotated[
        bool, typer.Option("--storage", help="Make the storage key too, which encrypts the tokens in Redis.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a key pair for the login at B2COPY, and say what to send B2COPY support.

    Writes KEY_ID.pem (mode 0600) and KEY_ID.public.pem, and with --storage storage.key (0600). Nothing is ever
    overwritten. No setting is needed.
    """
    from worker.session import generate, generate_storage

    _check(key_id, ip or [])
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = folder.resolve()
    private, public, stored = folder / f"{key_id}.pem", folder / f"{key_id}.public.pem", folder / "storage.key"
    for path in (private, public, *([stored] if storage else [])):
        if path.exists():
            raise Stop(Exit.FAILED, f"{path} exists and is not overwritten: choose another --key-id or folder")
    generate(private, public)
    settings = {"B2COPY_KEY_ID": key_id, "B2COPY_PRIVATE_KEY_FILE": str(private)}
    if storage:
        try:
            generate_storage(stored)
        except OSError:
            private.unlink()
            public.unlink()
            raise
        settings["B2COPY_STORAGE_KEY_FILE"] = str(stored)
    if as_json:
        for_support = {"key_id": key_id, "public_key": public.read_text(), "ip_addresses": ip or []}
        output.document({"settings": settings, "send_to_b2copy_support": for_support})
        return
    output.line("Settings:", style="bold")
    for name, value in settings.items():
        output.line(f"  {name}={value}")
    output.line()
    output.line("Send B2COPY support (never the private key):", style="bold")
    output.line(f"  key identifier:  {key_id}")
    output.line(f"  IP addresses:    {', '.join(ip or []) or 'those that our requests come from, as B2COPY sees them'}")
    output.line(f"  public key:      {public}")
    output.line()
    for line in public.read_text().strip().splitlines():
        output.line(line)
    if not ip:
        output.line()
        output.line("The address B2COPY sees is also B2COPY_DEVICE_IP: behind NAT it is the gateway's.")


def _check(key_id: str, addresses: list[str]) -> None:
    import ipaddress
    import re

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", key_id):
        raise typer.BadParameter(
            f"{key_id!r}: letters, digits, dots, - and _ make the best identifiers", param_hint="--key-id"
        )
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise typer.BadParameter(f"{address!r} is no IP address", param_hint="--ip") from None
