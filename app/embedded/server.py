"""The embedded Postgres: a real server with its files in `<data_dir>/postgres`, for a laptop or one machine.

What it promises:
- What was committed survives kill -9 of any process: Postgres' durability settings are left alone.
- The server is nobody's child. It has its own session, so neither Ctrl-C nor the death of who started it ends it; any
  number of processes use it, and the last one to leave stops it.
- Starting clears what a killed server left behind (busy backends, a stale lock file) and never deletes data.
- A full disk costs nothing that was committed: the server may stop for want of space, and is tried again until it runs.
- No TCP. Only the OS user who owns the files, and root, are let in as `postgres`; every other role needs its password.

Two files under flock, which the kernel releases when a process dies: `users.lock`, held shared by whoever uses the
server, and `admin.lock`, held by whoever starts or stops it.
"""

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import structlog

from app import clock
from app.embedded.cluster import SOCKET_FILE, Cluster, EmbeddedPostgresError

START_TIMEOUT = 120.0
STOP_TIMEOUT = 60.0
ORPHAN_TIMEOUT = 5.0
MAX_BACKOFF = 30.0
_ADMIN_TIMEOUT = START_TIMEOUT + STOP_TIMEOUT
_POLL = 0.02
_STATUS_LINE = 7

_log = structlog.get_logger("postgres")


class EmbeddedPostgres:
    """The server of one data directory. Methods block, so call them from a thread; several processes may use one."""

    def __init__(self, data_dir: Path) -> None:
        self._cluster = Cluster(data_dir)
        self._users: int | None = None
        self._was_full = False

    @property
    def data_dir(self) -> Path:
        return self._cluster.data_dir

    @property
    def log_path(self) -> Path:
        return self._cluster.log_path

    @property
    def socket_dir(self) -> Path:
        """Where the server's socket is; short enough for a socket's address."""
        return self._cluster.socket_dir

    def url(self, user: str, database: str, password: str | None = None) -> str:
        """`postgresql://user:password@/database?host=<socket_dir>&port=5432`, percent-encoded."""
        credentials = quote(user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
        # The port names the socket file; left out, drivers would take it from PGPORT.
        return f"postgresql://{credentials}@/{quote(database, safe='')}?host={quote(str(self.socket_dir))}&port=5432"

    @property
    def admin_url(self) -> str:
        """The superuser's way in."""
        return self.url("postgres", "postgres")

    def storage_full(self) -> bool:
        """Whether so little space is left that the server may have to stop at any moment, or has stopped."""
        return self._cluster.is_full()

    def is_running(self) -> bool:
        """Whether the server's process lives; right after a crash it may still be recovering."""
        return self._postmaster() is not None

    def start(self) -> None:
        """Use the server: create the cluster on first use, start it when it is down, else attach.

        Returns when connections are accepted; raises EmbeddedPostgresError.
        """
        with self._cluster.explained():
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._admin(), ExitStack() as undo:
                if self._users is None:
                    self._users = self._lock("users.lock", fcntl.LOCK_SH)
                    undo.callback(self._leave)
                self._bring_up()
                undo.pop_all()

    def ensure_running(self) -> bool:
        """Start the server again if it died while this process uses it; True when that was needed."""
        if self._users is None or self.is_running():
            return False
        with self._cluster.explained(), self._admin():
            if self.is_running():
                return False
            _log.warning("postgres died, starting it again", log_path=str(self.log_path), log=self._cluster.log_tail())
            self._bring_up()
            _log.info("postgres is up again", data_dir=str(self.data_dir))
            return True

    def stop_if_last(self) -> bool:
        """Stop using the server, and stop the server when no other process uses it; True when it was stopped."""
        if not self.data_dir.is_dir():
            return False
        with self._cluster.explained(), self._admin():
            self._leave()
            alone = self._lock("users.lock", fcntl.LOCK_EX)
            if alone is None:
                return False
            try:
                return self._shut_down()
            finally:
                os.close(alone)

    async def supervise(self, stop: asyncio.Event) -> None:
        """Keep the server running until `stop` is set.

        Looks each second. Every start that was needed or failed doubles the wait, up to 30 s; every look that finds
        the server up halves it again.
        """
        troubles = 0
        while not await _set_within(stop, backoff(troubles)):
            try:
                started = await asyncio.to_thread(self._look_after)
                troubles = troubles + 1 if started else max(0, troubles - 1)
            except EmbeddedPostgresError as error:
                troubles += 1
                # Nothing but the reason helps here: it carries the server's own log.
                _log.error("postgres does not start", reason=error.detail, next_try_in=backoff(troubles))

    def _look_after(self) -> bool:
        with suppress(OSError):
            self._cluster.bound_log()
        self._tell_of_space()
        return self.ensure_running()

    def _tell_of_space(self) -> None:
        full = self.storage_full()
        if full and not self._was_full:
            advice = "Free some: Postgres stops when there is none left. Nothing is deleted, what was committed stays."
            _log.error("hardly any disk space is left", data_dir=str(self.data_dir), advice=advice)
        elif self._was_full and not full:
            _log.info("there is disk space again", data_dir=str(self.data_dir))
        self._was_full = full

    def _bring_up(self) -> None:
        postmaster = self._postmaster()
        if postmaster is not None and self._status() == "stopping":
            _all_gone([postmaster], STOP_TIMEOUT)
            postmaster = self._postmaster()
        since = self._cluster.log_size()
        if postmaster is None:
            self._cluster.prepare()
            self._clear_leftovers()
            postmaster = self._launch()
        self._await_ready(postmaster, since)

    def _launch(self) -> psutil.Process | None:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._cluster.launch())
        return None

    def _await_ready(self, postmaster: psutil.Process | None, since: int) -> None:
        deadline = clock.monotonic() + START_TIMEOUT
        while postmaster is not None and _is_alive(postmaster):
            if self._status() == "ready":
                return
            if clock.monotonic() > deadline:
                raise self._cluster.failure(
                    f"Postgres in {self.data_dir} is still recovering after {START_TIMEOUT:.0f} s.",
                    since=since,
                    advice="It goes on in the background; try again in a minute.",
                )
            time.sleep(_POLL)
        raise self._cluster.failure(f"Postgres in {self.data_dir} stopped while starting.", since=since)

    def _shut_down(self) -> bool:
        postmaster = self._postmaster()
        if postmaster is None:
            return False
        # Postgres' "fast" mode: sessions end, a checkpoint is written.
        postmaster.send_signal(signal.SIGINT)
        if not _all_gone([postmaster], STOP_TIMEOUT):
            _log.warning("postgres does not stop, ending it; the next start recovers", pid=postmaster.pid)
            _end([postmaster])
        return True

    def _clear_leftovers(self) -> None:
        orphans = [process for process in psutil.process_iter() if self._is_ours(process)]
        if orphans:
            pids = [process.pid for process in orphans]
            _log.warning("ending processes of a server that was killed", data_dir=str(self.data_dir), pids=pids)
            if not _end(orphans):
                raise self._cluster.failure(f"Processes {pids} of a killed server of {self.data_dir} do not end.")
        pid_file = self._cluster.directory / "postmaster.pid"
        if pid_file.exists():
            _log.info("clearing the lock file of a server that was killed", path=str(pid_file))
        # Postgres would take any live process with the number in these files for a running server.
        socket = self.socket_dir / SOCKET_FILE
        for stale in (pid_file, socket.with_name(f"{SOCKET_FILE}.lock"), socket):
            stale.unlink(missing_ok=True)

    def _postmaster(self) -> psutil.Process | None:
        lines = self._pid_file()
        with suppress(ValueError, IndexError, psutil.NoSuchProcess):
            # A single-user backend writes its number as a negative one.
            process = psutil.Process(abs(int(lines[0])))
            return process if self._is_ours(process) else None
        return None

    def _status(self) -> str:
        lines = self._pid_file()
        return lines[_STATUS_LINE].strip() if len(lines) > _STATUS_LINE else ""

    def _pid_file(self) -> list[str]:
        try:
            return (self._cluster.directory / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether this is a live process of this cluster's server: by its owner, its title and where it runs."""
        try:
            if process.name() != "postgres" or process.uids().real != self._cluster.owner.uid:
                return False
            # The title first: in a container even root may not see where another user's process runs.
            command = process.cmdline()
            if " ".join(command).startswith(f"postgres: {self._cluster.name}: "):
                return _is_alive(process)
            by_path = str(self._cluster.directory) in command or process.cwd() == str(self._cluster.directory)
            return by_path and _is_alive(process)
        except (psutil.Error, FileNotFoundError):
            return False

    @contextmanager
    def _admin(self) -> Iterator[None]:
        handle = self._lock("admin.lock", fcntl.LOCK_EX, wait=_ADMIN_TIMEOUT)
        if handle is None:
            raise self._cluster.failure(
                f"Another process has been starting or stopping the Postgres in {self.data_dir} for too long.",
                advice="Look for a stopped stepstream process with this data directory and end it.",
            )
        try:
            yield
        finally:
            os.close(handle)

    def _lock(self, name: str, kind: int, wait: float = 0.0) -> int | None:
        """A descriptor that holds the lock until it is closed; None if others still hold it after `wait` seconds."""
        handle = self._cluster.open_private(self.data_dir / name, os.O_RDWR)
        deadline = clock.monotonic() + wait
        while True:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
                return handle
            except BlockingIOError:
                if clock.monotonic() >= deadline:
                    os.close(handle)
                    return None
                time.sleep(_POLL)

    def _leave(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None


def backoff(troubles: int) -> float:
    """Seconds to the next look after so many starts in a row that were needed or failed: 1, 1, 2, 4, … 30."""
    return min(MAX_BACKOFF, 2.0 ** min(max(troubles - 1, 0), 10))


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _all_gone(processes: Iterable[psutil.Process], seconds: float) -> bool:
    deadline = clock.monotonic() + seconds
    alive = list(processes)
    while alive := [process for process in alive if _is_alive(process)]:
        if clock.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _end(processes: list[psutil.Process]) -> bool:
    """Quit the processes as Postgres asks for (SIGQUIT), then kill what is left; True when all are gone."""
    for kind in (signal.SIGQUIT, signal.SIGKILL):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(kind)
        if _all_gone(processes, ORPHAN_TIMEOUT):
            return True
    return False
