"""CA certificates: one check for every file that a setting names, so that a wrong one is found before a connection."""

import ssl
from pathlib import Path


def checked_certificates(path: Path) -> Path:
    """Accept a file of certificates in PEM. Raises `ValueError`."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"is not usable: {path} does not hold PEM certificates that can be read ({error})") from None
    return path
