"""`openapi`: the API's description, without a database or a running server."""

import json
import sys
import tempfile
from pathlib import Path

from app.main import create_app
from app.settings import Settings, write_private


def openapi() -> int:
    """Print the OpenAPI document, the same bytes each time; the exit code."""
    with tempfile.TemporaryDirectory() as directory:
        # The app wants a secret, the document has nothing of it.
        key = Path(directory) / "secret.key"
        write_private(key, "0" * 32)
        app = create_app(Settings(_env_file=None, secret_key_file=key))
        json.dump(app.openapi(), sys.stdout, indent=2, sort_keys=True, ensure_ascii=False)
    print()
    return 0
