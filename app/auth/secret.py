"""Every secret of a deployment comes from its one master secret, each for one purpose only."""

import base64

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(master: bytes, purpose: str) -> bytes:
    """32 bytes for `purpose`, the same in every process that has the master secret.

    Purposes are part of the deployment's state: renaming one invalidates what was made with it.
    """
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"stepstream:{purpose}".encode()).derive(master)


def derive_password(master: bytes, role: str) -> str:
    """The password of a Postgres role (purpose `db:<role>`): 43 URL-safe characters."""
    return base64.urlsafe_b64encode(derive(master, f"db:{role}")).decode().rstrip("=")
