"""What everything is measured on: a new Postgres in a temporary directory, and the processes that use it."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from app.bench.children import Child, running
from app.bench.contestants import InProcess, LimitOverHttp, Referee, Rest, RestByBatches
from app.bench.http_client import HttpClient
from app.bench.ledger import Ledger
from app.bench.shapes import SHAPES
from app.db.engines import DriverConnection, connect
from app.domain.jsontext import encode
from app.embedded import EmbeddedPostgres
from app.process import descriptors
from app.services.identity import FIRST_ORG

SERVER_SETTINGS: Mapping[str, str] = {
    "STEPSTREAM_MAX_RUNNING": "5000",
    "STEPSTREAM_MAX_RUNNING_PER_USER": "0",
    "STEPSTREAM_MAX_REQUEST_RATE": "0",
    "STEPSTREAM_MAX_STREAMS_PER_USER": "0",
    "STEPSTREAM_MAX_STREAMS_PER_ORG": "0",
}
"""Limits that are meant for people or for sparing a machine, lifted; all else is as it is delivered."""

_ADD_WORKFLOW = "INSERT INTO workflows (org_id, id, name, latest_version, published_version) VALUES ($1, $2, $2, 1, 1)"
_ADD_VERSION = "INSERT INTO workflow_versions (org_id, workflow_id, version, definition) VALUES ($1, $2, 1, $3)"
_READY = r'"url": ?"(http://[^"]+)".*"event": ?"ready"'

Made = TypeVar("Made")
Tell = Callable[[str], None]
"""Told what is being done, for who waits."""


class Testbed:
    """Databases and processes, all gone at the end of `stack`. Each is made when it is first asked for."""

    __test__ = False

    def __init__(self, directory: Path, postgres: EmbeddedPostgres, stack: AsyncExitStack, tell: Tell) -> None:
        self.directory = directory
        self.postgres = postgres
        self.tell = tell
        self._stack = stack
        self._databases: dict[str, Ledger] = {}
        self._installed: set[str] = set()
        self._stacks: dict[str, AsyncExitStack] = {}
        self._processes: dict[tuple[str, str], Any] = {}

    @property
    def postmaster(self) -> int:
        lines = (self.postgres.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
        return int(lines[0])

    @property
    def referee(self) -> Referee:
        return Referee({"postgres": [self.postmaster], "client": [os.getpid()]})

    async def database(self, name: str) -> Ledger:
        """A database, with a connection of its superuser's."""
        if name not in self._databases:
            maintenance = await self.connected(self.postgres.admin_url)
            await maintenance.execute(f'CREATE DATABASE "{name}"')
            self._databases[name] = Ledger(self.url(name), await self.connected(self.url(name)))
        return self._databases[name]

    def url(self, name: str) -> str:
        """The superuser's way into a database."""
        return urlsplit(self.postgres.admin_url)._replace(path=f"/{name}").geturl()

    async def connected(self, url: str) -> DriverConnection:
        """A connection that lasts as long as all this."""
        connection = await connect(url, "bench", command_timeout=None)
        self._stack.push_async_callback(connection.close)
        return connection

    async def installation(self, name: str) -> Ledger:
        """A migrated database with the workflows of all shapes."""
        ledger = await self.database(name)
        if name not in self._installed:
            self._installed.add(name)
            self.tell(f"Migrating the database {name}")
            await self._command(name, "migrate")
            for shape in SHAPES.values():
                await add_workflow(ledger, shape.workflow_id, shape.document())
        return ledger

    async def rest(self, database: str = "rest", name: str = "rest") -> Rest:
        """The real server on an installation; with other names there are several on one."""

        async def start() -> Rest:
            ledger = await self.installation(database)
            self.tell(f"Starting the server on the database {database}")
            token = (await self._command(database, "token")).strip()
            child = await self._child(database, "serve", "--port", "0")
            client = HttpClient(await child.says(_READY), {"authorization": f"Bearer {token}"})
            self._stacks[database].callback(client.close)
            return Rest(name, ledger, [child.pid], client)

        return await self._once(database, name, start)

    async def rest_by_batches(self) -> RestByBatches:
        """The same server as `rest`, asked for several runs at once."""
        rest = await self.rest()
        return RestByBatches("rest by batches", rest.ledger, rest.pids, rest.client)

    async def engine(self, database: str = "engine") -> InProcess:
        """The engine without HTTP, on an installation."""
        await self.installation(database)
        return await self._program("engine", database)

    async def limit(self, database: str = "limit") -> InProcess:
        """The limit."""
        return await self._program("limit", database)

    async def limit_over_http(self, database: str = "limit_http") -> LimitOverHttp:
        """The limit behind HTTP."""

        async def start() -> LimitOverHttp:
            ledger = await self.database(database)
            child, client = await self._serving(database, "limit-over-http")
            return LimitOverHttp("limit over HTTP", ledger, [child.pid], client)

        return await self._once(database, "limit-over-http", start)

    async def fan_out(self) -> HttpClient:
        """The bare fan-out of texts to WebSockets; a client for it."""

        async def start() -> HttpClient:
            await self.database("commits")
            return (await self._serving("commits", "fan-out"))[1]

        return await self._once("commits", "fan-out", start)

    async def stop(self, database: str) -> None:
        """End the processes of ours that use a database."""
        if database in self._stacks:
            await self._stacks.pop(database).aclose()
            self._processes = {key: kept for key, kept in self._processes.items() if key[0] != database}

    async def _program(self, name: str, database: str) -> InProcess:
        async def start() -> InProcess:
            self.tell(f"Starting the program {name} on the database {database}")
            ledger = await self.database(database)
            child = await self._child(database, "bench-program", name)
            await child.answer()
            return InProcess(name, ledger, child)

        return await self._once(database, name, start)

    async def _serving(self, database: str, program: str) -> tuple[Child, HttpClient]:
        child = await self._child(database, "bench-program", program)
        client = HttpClient(f"http://127.0.0.1:{(await child.answer())['port']}")
        self._stacks[database].callback(client.close)
        return child, client

    async def _once(self, database: str, name: str, start: Callable[[], Awaitable[Made]]) -> Made:
        key = (database, name)
        if key not in self._processes:
            self._processes[key] = await start()
        made: Made = self._processes[key]
        return made

    async def _child(self, database: str, *arguments: str) -> Child:
        if database not in self._stacks:
            self._stacks[database] = AsyncExitStack()
            self._stack.push_async_callback(self.stop, database)
        running_child = running(self.directory, self._environment(database), *arguments)
        return await self._stacks[database].enter_async_context(running_child)

    async def _command(self, database: str, *arguments: str) -> str:
        async with running(self.directory, self._environment(database), *arguments) as child:
            return await child.output()

    def _environment(self, database: str) -> dict[str, str]:
        return {
            "DATABASE_URL": self.url(database),
            "STEPSTREAM_DATA_DIR": str(self.directory / "installation"),
            "STEPSTREAM_LOG_FORMAT": "json",
            **SERVER_SETTINGS,
        }


async def add_workflow(ledger: Ledger, workflow_id: str, document: dict[str, Any]) -> None:
    """Save and publish a workflow of the first organisation's."""
    await ledger.connection.execute(_ADD_WORKFLOW, FIRST_ORG, workflow_id)
    await ledger.connection.execute(_ADD_VERSION, FIRST_ORG, workflow_id, encode(document))


@asynccontextmanager
async def testbed(tell: Tell) -> AsyncIterator[Testbed]:
    """A new Postgres with its usual durability and the settings that `stepstream up` gives it."""
    directory = Path(tempfile.mkdtemp(prefix="stepstream-bench-"))
    postgres = EmbeddedPostgres(directory / "postgres")
    try:
        tell("Starting Postgres")
        descriptors()  # a thousand subscribers are as many sockets, in the processes started here, too
        (directory / "installation").mkdir(mode=0o700)
        await asyncio.to_thread(postgres.start)
        async with AsyncExitStack() as stack:
            yield Testbed(directory, postgres, stack, tell)
    finally:
        await asyncio.to_thread(postgres.stop_if_last)
        await asyncio.to_thread(shutil.rmtree, directory)
