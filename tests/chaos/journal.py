"""What outlives everything: lines of JSON that are on the disk before anybody goes on."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """Lines in the order they were written, on the disk and in memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self.lines: list[dict[str, Any]] = []

    def write(self, **line: Any) -> None:
        self.lines.append(line)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


async def pause(seconds: float) -> None:
    """Let time pass: chaos lasts, and who gets no answer asks again a little later."""
    try:
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()
    except TimeoutError:
        return
