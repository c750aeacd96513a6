"""Stepstream's command line in processes that need not load it first: forks of one that has.

Starting a process costs seconds of loading on a slow machine, and chaos starts hundreds. What runs in a fork is the
command line as users have it, in a session of its own.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import Process as Subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from tests.cli.processes import ROOT, Process, clean_environment


class Fork:
    """A forked process, with what `tests.cli.processes.Process` uses of one that was started afresh."""

    def __init__(self, pid: int, out: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stdout = out
        self.stderr = asyncio.StreamReader()
        self.stderr.feed_eof()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        return self.ended.result() if self.ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self.ended)

    def send_signal(self, number: int) -> None:
        if not self.ended.done():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Warm:
    """Starts commands without delay."""

    def __init__(self, link: socket.socket, words: asyncio.StreamReader) -> None:
        self._link = link
        self._words = words
        self._forks: dict[int, Fork] = {}
        self._codes: dict[int, int] = {}
        self._started: asyncio.Queue[int] = asyncio.Queue()
        self._one_at_a_time = asyncio.Lock()

    async def start(self, *arguments: str, **environment: str) -> Process:
        """A command in an environment with nothing of ours but what is given."""
        ours, its = os.pipe()
        request = json.dumps({"arguments": arguments, "environment": environment}).encode()
        async with self._one_at_a_time:
            socket.send_fds(self._link, [request], [its])
            os.close(its)
            pid = await self._started.get()
        out = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(out), os.fdopen(ours, "rb", 0))
        fork = self._forks[pid] = Fork(pid, out)
        if pid in self._codes:
            fork.ended.set_result(self._codes.pop(pid))
        return Process(cast("Subprocess", fork))

    async def listen(self) -> None:
        """Hear of beginnings and ends."""
        while word := await self._words.readline():
            kind, pid, code = word.split()
            if kind == b"began":
                self._started.put_nowait(int(pid))
            elif (fork := self._forks.pop(int(pid), None)) is None:
                self._codes[int(pid)] = int(code)
            else:
                fork.ended.set_result(int(code))


@asynccontextmanager
async def warm(tree: Path = ROOT) -> AsyncIterator[Warm]:
    """A process that has loaded all of a source tree; it ends with the block. Its forks must have ended before."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.warm",
        cwd=tree, env={**clean_environment(), "PYTHONPATH": str(tree)}, stdin=its.fileno(),
        stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    its.close()
    assert process.stdout is not None
    listening: asyncio.Task[None] | None = None
    try:
        assert await process.stdout.readline() == b"ready\n"
        made = Warm(ours, process.stdout)
        listening = asyncio.create_task(made.listen())
        yield made
    finally:
        ours.close()  # which is how it learns that it is over
        await process.wait()
        if listening is not None:
            await listening


def main() -> None:
    """The process that is forked: it loads the server, then forks whatever it is asked for."""
    from app import main as _server  # noqa: F401
    from app.cli import commands as _commands  # noqa: F401
    from app.cli import up as _up  # noqa: F401

    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork has only one of the threads"
    link = socket.socket(fileno=0)
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    os.write(1, b"ready\n")
    while True:
        request, descriptors, _, _ = socket.recv_fds(link, 1 << 16, 1)
        if not request:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # it must not end before it has begun
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _become(descriptors[0], **json.loads(request))
        os.write(1, b"began %d 0\n" % pid)
        os.close(descriptors[0])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        os.write(1, b"ended %d %d\n" % (pid, os.waitstatus_to_exitcode(status)))


def _become(out: int, arguments: list[str], environment: dict[str, Any]) -> None:
    """The command, to the end of this process."""
    from app.cli.commands import run_command_line

    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (out, 1), (out, 2)):
            os.dup2(source, target)
        os.environ.update(environment)
        sys.argv = ["stepstream", *arguments]
        run_command_line()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
