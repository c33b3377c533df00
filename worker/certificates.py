"""CA certificates: one check for every file that a setting names, so that a wrong one is found before a connection."""

import ssl
from pathlib import Path


def checked_certificates(path: Path) -> Path:
    """Accept a file of certificates in PEM. Raises `ValueError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    reason = "it holds no certificate"
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        reason = str(error)
    if not context.cert_store_stats()["x509"]:  # lists of revoked certificates alone can be loaded, too
        raise ValueError(f"is not usable: {path} does not hold PEM certificates that can be read ({reason})")
    return path
