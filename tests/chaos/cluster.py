"""A deployment to break: one durable Postgres and any number of server processes, each with its own way to it.

Every `App` is the real `stepstream serve` in a session of its own, killed by its own pid; its database connections go
through its own `Proxy`. What a test reads for itself goes past all proxies.
"""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import psutil

from app.auth.secret import derive_password
from app.cli.deployment import issue_token, load_settings, prepare
from app.db.engines import DriverConnection, connect
from app.db.urls import with_login
from app.embedded import EmbeddedPostgres
from app.embedded.cluster import SOCKET_FILE
from tests.chaos.proxy import Proxy, proxy
from tests.chaos.warm import Warm, warm
from tests.cli.processes import Process
from tests.database import Database

LEASE_TTL, SCAN = 3.0, 0.5
PROFILE = {
    "STEPSTREAM_LEASE_TTL": str(LEASE_TTL),
    "STEPSTREAM_SCAN_INTERVAL": str(SCAN),
    "STEPSTREAM_CANCEL_GRACE": "1",
    "STEPSTREAM_DRAIN_BUDGET": "2",
    "STEPSTREAM_MAX_RECOVERIES": "100",
}
"""What makes recovery quick, and lets an execution lose its worker more often than any real one would."""
REQUEST_SECONDS = 30.0


class Postgres:
    """The server, to be crashed and started again; durability is on."""

    def __init__(self, embedded: EmbeddedPostgres) -> None:
        self._embedded = embedded
        self.url = embedded.url("postgres", "postgres")
        self.socket = embedded.socket_dir / SOCKET_FILE

    @property
    def pid(self) -> int:
        return int((self._embedded.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])

    async def crash(self) -> None:
        """Stop it at once, as `pg_ctl stop -m immediate` does; it recovers when it is started."""
        os.kill(self.pid, signal.SIGQUIT)
        while self._embedded.is_running():
            await asyncio.sleep(0)

    async def start(self) -> None:
        await asyncio.to_thread(self._embedded.ensure_running)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[DriverConnection]:
        """A superuser's connection."""
        connection = await connect(self.url, "chaos")
        try:
            yield connection
        finally:
            await connection.close()


class Tables(Database):
    """The deployment's database, for who checks it."""

    def __init__(self, url: str, connection: DriverConnection, secret: bytes) -> None:
        super().__init__("postgres", url, connection)
        self._secret = secret

    def role_url(self, role: str) -> str:
        return with_login(self.admin_url, role, derive_password(self._secret, role))


class App:
    """One server process after the other, at the same place; `up` is set while one is ready.

    `fell` has the last words of those that ended though nobody asked them to.
    """

    def __init__(self, number: int, way: Proxy, cluster: "Cluster", processes: Warm) -> None:
        self.number = number
        self.proxy = way
        self._cluster = cluster
        self.warm = processes
        self.incarnations: list[Process] = []
        self.url = ""
        self.up = asyncio.Event()
        self.fell: list[str] = []
        self._asked_to_end = False
        self._watching: set[asyncio.Task[None]] = set()

    @property
    def process(self) -> Process:
        """The newest one."""
        return self.incarnations[-1]

    async def start(self, **environment: str) -> None:
        """Start it and wait until it is ready; it listens at another port each time."""
        assert await self.started(**environment), self.process.text

    async def started(self, **environment: str) -> bool:
        """As `start`; False if it ends before it is ready."""
        await self.launch(**environment)
        try:
            self.url = await self.process.ready()
        except AssertionError:
            return False
        self.up.set()
        watching = asyncio.create_task(self._watch(self.process))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        return True

    async def launch(self, *arguments: str, **environment: str) -> None:
        """Start it, or another command in its place, without waiting for anything."""
        told = {**self._cluster.environment, "DATABASE_URL": self._cluster.database_url(self.proxy), **environment}
        self._asked_to_end = False
        self.incarnations.append(await self.warm.start(*(arguments or ("serve", "--port", "0")), **told))

    @property
    def api(self) -> str:
        return f"{self.url}/api/v1"

    async def kill(self) -> None:
        self._asked_to_end = True
        await self.process.stops(signal.SIGKILL)

    async def stop(self) -> int:
        """Ask it to stop, and wait until it has; its exit code."""
        self._asked_to_end = True
        return await self.process.stops()

    def freeze(self) -> None:
        self.process.send(signal.SIGSTOP)

    @property
    def frozen(self) -> bool:
        return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED

    def thaw(self) -> None:
        self.process.send(signal.SIGCONT)

    async def close(self) -> None:
        self._asked_to_end = True
        if self.incarnations:
            await self.process.close()
            await asyncio.gather(*self._watching)

    async def _watch(self, process: Process) -> None:
        await process.gone()
        if process is self.process:
            self.up.clear()
            if not self._asked_to_end:
                self.fell.append(process.text[-4000:])


class Cluster:
    """The deployment: `postgres`, `apps`, and the `token` of an owner of its organisation."""

    def __init__(self, postgres: Postgres, directory: Path, environment: dict[str, str]) -> None:
        self.postgres = postgres
        self.apps: list[App] = []
        self.token = ""
        self.environment = {
            **PROFILE,
            "STEPSTREAM_DATA_DIR": str(directory),
            "STEPSTREAM_SECRET_KEY_FILE": str(directory / "secret.key"),
            "HOME": str(directory),
            **environment,
        }
        self._directory = directory

    def database_url(self, way: Proxy) -> str:
        return f"postgresql://postgres@{way.authority}/postgres?sslmode=disable"

    def http(self) -> httpx.AsyncClient:
        """A client as an owner, of any of the processes: give it whole URLs that begin with an `App.api`."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.AsyncClient(headers=headers, timeout=REQUEST_SECONDS)

    @asynccontextmanager
    async def tables(self) -> AsyncIterator[Tables]:
        """The database past all proxies, as superuser."""
        async with self.postgres.connected() as connection:
            yield Tables(self.postgres.url, connection, load_settings(data_dir=self._directory).db_secret)

    async def prepare(self) -> None:
        """Migrate, and make somebody who may do everything."""
        settings = load_settings(data_dir=self._directory, database_url=self.postgres.url)
        settings.ensure_data_dir()
        await prepare(settings, None)
        self.token = await issue_token(settings, None, 86_400)


@asynccontextmanager
async def cluster(apps: int = 2, beside: Path | None = None, **environment: str) -> AsyncIterator[Cluster]:
    """A deployment with so many apps, none of them started; afterwards nothing is left of it.

    Every other app runs from the source tree `beside`, if there is one.
    """
    async with AsyncExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="stepstream-chaos-"))
        stack.push_async_callback(asyncio.to_thread, shutil.rmtree, directory)
        embedded = EmbeddedPostgres(directory / "data")
        stack.push_async_callback(asyncio.to_thread, embedded.stop_if_last)
        starting = asyncio.ensure_future(asyncio.to_thread(embedded.start))
        processes = [await stack.enter_async_context(warm())]
        if beside is not None:
            processes.append(await stack.enter_async_context(warm(beside)))
        await starting
        made = Cluster(Postgres(embedded), directory / "data", environment)
        await made.prepare()
        for number in range(apps):
            way = await stack.enter_async_context(proxy(made.postgres.socket))
            made.apps.append(App(number, way, made, processes[number % len(processes)]))
        for app in made.apps:
            stack.push_async_callback(app.close)
        yield made
