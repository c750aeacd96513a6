"""The processes that are measured: the real server, and programs that take orders, a line of JSON each."""

import asyncio
import os
import re
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import orjson

import app

STOP_SECONDS = 40.0
READY_SECONDS = 120.0
_LONGEST_ANSWER = 64 << 20
Stream = TypeVar("Stream", asyncio.StreamReader, asyncio.StreamWriter)
_OURS = re.compile(r"STEPSTREAM_|DATABASE_URL|ALLOWED_ORIGINS|OPENAI_")


class ChildFailed(Exception):
    """A process of the benchmark ended or said no; the message has its last words."""


class Child:
    """A running command of ours."""

    def __init__(self, command: str, process: asyncio.subprocess.Process) -> None:
        self._command = command
        self._process = process
        self._in, self._out, self._err = _pipe(process.stdin), _pipe(process.stdout), _pipe(process.stderr)
        self._spoke = asyncio.Condition()
        self._words: deque[str] = deque(maxlen=200)
        self._listening = asyncio.create_task(self._listen())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until stderr has a line that matches."""
        async with asyncio.timeout(READY_SECONDS), self._spoke:
            while True:
                for line in self._words:
                    if found := re.search(pattern, line):
                        return found
                if self._listening.done():
                    raise self.failure()
                await self._spoke.wait()

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
            await asyncio.wait([self._listening])
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
        await asyncio.wait([self._listening])

    def failure(self) -> ChildFailed:
        return ChildFailed(f"`{self._command}` did not do its work:\n{''.join(self._words)}")

    async def _listen(self) -> None:
        while line := await self._err.readline():
            async with self._spoke:
                self._words.append(line.decode(errors="replace"))
                self._spoke.notify_all()
        async with self._spoke:
            self._spoke.notify_all()


def _pipe(stream: Stream | None) -> Stream:
    if stream is None:
        raise ChildFailed("A process was started without its pipes")
    return stream


@asynccontextmanager
async def running(directory: Path, environment: Mapping[str, str], *arguments: str) -> AsyncIterator[Child]:
    """A command of ours, with these settings and none of the surrounding ones, stopped at the end of the block."""
    inherited = {name: value for name, value in os.environ.items() if not _OURS.search(name)}
    code = [str(Path(app.__file__).parents[1]), inherited.get("PYTHONPATH", "")]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.cli",
        *arguments,
        cwd=directory,
        env={**inherited, "PYTHONPATH": os.pathsep.join(filter(None, code)), **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LONGEST_ANSWER,
        start_new_session=True,  # Ctrl-C is for the benchmark, which then stops them in order
    )
    child = Child(f"stepstream {arguments[0]}", process)
    try:
        yield child
    finally:
        await child.stop()
