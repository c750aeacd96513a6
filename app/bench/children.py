"""The processes that are measured: the real server, and programs that take orders, a line of JSON each."""

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import orjson

import app
from app.bench.polling import eventually

STOP_SECONDS = 40.0
READY_SECONDS = 120.0
LAST_WORDS = 30
_LONGEST_ANSWER = 64 << 20
Stream = TypeVar("Stream", asyncio.StreamReader, asyncio.StreamWriter)
_OURS = re.compile(r"STEPSTREAM_|DATABASE_URL|ALLOWED_ORIGINS|OPENAI_")


class ChildFailed(Exception):
    """A process of the benchmark ended or said no; the message has its last words."""


class Child:
    """A running command of ours; what it says on stderr goes to a file."""

    def __init__(self, command: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._command = command
        self._process = process
        self._in, self._out = _pipe(process.stdin), _pipe(process.stdout)
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    async def says(self, pattern: str) -> str:
        """Wait until stderr has something that matches; its first group."""

        async def look() -> str | None:
            if found := re.search(pattern, self._log.read_text(errors="replace")):
                return found[1]
            if self._process.returncode is not None:
                raise self.failure()
            return None

        return await eventually(look, every=0.02, seconds=READY_SECONDS) or ""

    async def answer(self) -> Any:
        """The next line of stdout."""
        line = await self._out.readline()
        if not line:
            raise self.failure()
        return orjson.loads(line)

    async def order(self, **order: Any) -> Any:
        """Have it do something; its answer."""
        self._in.write(orjson.dumps(order) + b"\n")
        return await self.answer()

    async def output(self) -> str:
        """All it prints until it ends, which it has to do well."""
        text = await self._out.read()
        if await self._process.wait() != 0:
            raise self.failure()
        return text.decode()

    async def stop(self) -> None:
        """Ask it to end; kill it if it does not."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def failure(self) -> ChildFailed:
        """What to raise, with its last words."""
        words = self._log.read_text(errors="replace").splitlines()[-LAST_WORDS:]
        return ChildFailed("\n".join([f"`{self._command}` did not do its work:", *words]))


def _pipe(stream: Stream | None) -> Stream:
    if stream is None:
        raise ChildFailed("A process was started without its pipes")
    return stream


@asynccontextmanager
async def running(directory: Path, environment: Mapping[str, str], *arguments: str) -> AsyncIterator[Child]:
    """A command of ours, with these settings and none of the surrounding ones, stopped at the end of the block."""
    inherited = {name: value for name, value in os.environ.items() if not _OURS.search(name)}
    code = [str(Path(app.__file__).parents[1]), inherited.get("PYTHONPATH", "")]
    handle, name = tempfile.mkstemp(prefix=f"{arguments[0]}-", suffix=".log", dir=directory)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.cli",
        *arguments,
        cwd=directory,
        env={**inherited, "PYTHONPATH": os.pathsep.join(filter(None, code)), **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=handle,
        limit=_LONGEST_ANSWER,
        start_new_session=True,  # Ctrl-C is for the benchmark, which then stops them in order
    )
    os.close(handle)
    child = Child(f"stepstream {arguments[0]}", process, Path(name))
    try:
        yield child
    finally:
        await child.stop()
