"""Stepstream as a user has it: real processes of the command line, each with its own data directory."""

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import app
from app.embedded import EmbeddedPostgres

ROOT = Path(app.__file__).parents[1]
SECONDS = 60.0

_NO_LIMITS = {"STEPSTREAM_MAX_RUNNING_PER_USER": "0"}
_OURS = re.compile(r"STEPSTREAM_|DATABASE_URL|_DATABASE_URL|ALLOWED_ORIGINS|OPENAI_|COLUMNS|FORCE_COLOR")


class Process:
    """One running command; `out` and `err` grow as it speaks."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._spoke = asyncio.Condition()
        self.out: list[str] = []
        self.err: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self.out)),
            asyncio.create_task(self._read(process.stderr, self.err)),
        ]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        return "".join(self.err + self.out)

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until it has said something that matches."""
        async with asyncio.timeout(SECONDS), self._spoke:
            while not (found := re.search(pattern, self.text)):
                assert not all(reader.done() for reader in self._readers), self.text
                await self._spoke.wait()
            return found

    async def ready(self) -> str:
        """Wait until the server in it is ready; its URL."""
        return (await self.says(r'"url": ?"(http://[^"]+)", ?"event": ?"ready"'))[1]

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    async def gone(self) -> None:
        """Wait for the end of the process, however long it takes."""
        await self._process.wait()

    async def ends(self) -> int:
        """Wait for the end of the process and of its output; the exit code."""
        async with asyncio.timeout(SECONDS):
            code = await self._process.wait()
            await asyncio.gather(*self._readers)
        return code

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def stops(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send(number)
        return await self.ends()

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self.ends()

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        while line := await stream.readline():
            async with self._spoke:
                lines.append(line.decode())
                self._spoke.notify_all()
        async with self._spoke:
            self._spoke.notify_all()


def clean_environment() -> dict[str, str]:
    """What this process got from its own, but for what would change what a command of ours does."""
    inherited = {name: value for name, value in os.environ.items() if not _OURS.search(name)}
    return {**inherited, **_NO_LIMITS, "PYTHONPATH": str(ROOT)}


def stepstream(*arguments: str | Path, stdin: str = "", **environment: str) -> AbstractAsyncContextManager[Process]:
    """A command of ours; see `running`."""
    return running("app.cli", *arguments, stdin=stdin, **environment)


@asynccontextmanager
async def running(module: str, *arguments: str | Path, stdin: str = "", **environment: str) -> AsyncIterator[Process]:
    """A Python module while it runs as a command, with this for its stdin; killed at the end if it still does."""
    with tempfile.TemporaryDirectory() as elsewhere, tempfile.TemporaryFile() as given:
        given.write(stdin.encode())
        given.seek(0)
        process = Process(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *map(str, arguments),
                cwd=elsewhere,
                env={**clean_environment(), "HOME": elsewhere, **environment},
                preexec_fn=hears_ctrl_c,
                stdin=given,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )
        try:
            yield process
        finally:
            await process.close()


def hears_ctrl_c() -> None:
    """For a new process: a shell has what it runs in the background ignore Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def done(*arguments: str | Path, stdin: str = "", **environment: str) -> tuple[int, str, str]:
    """Run a command to its end; exit code, stdout, stderr."""
    async with stepstream(*arguments, stdin=stdin, **environment) as process:
        code = await process.ends()
        return code, "".join(process.out), "".join(process.err)


@asynccontextmanager
async def installation() -> AsyncIterator[Path]:
    """A data directory that does not exist yet; whatever comes to run there has ended afterwards."""
    parent = Path(tempfile.mkdtemp(prefix="stepstream-cli-"))
    data_dir = parent / "data"
    try:
        yield data_dir
    finally:
        await asyncio.to_thread(EmbeddedPostgres(data_dir).stop_if_last)
        await asyncio.to_thread(shutil.rmtree, parent)


def superuser_url(data_dir: Path) -> str:
    """The way into the embedded Postgres, past every rule."""
    return EmbeddedPostgres(data_dir).url("postgres", "postgres")


def postmaster(data_dir: Path) -> int | None:
    """The pid of the embedded Postgres, None if there is none."""
    if not EmbeddedPostgres(data_dir).is_running():
        return None
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
