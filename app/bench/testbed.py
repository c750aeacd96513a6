"""What everything is measured on: a new Postgres in a temporary directory, and the processes that use it."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from app.bench.children import Child, running
from app.bench.contestants import InProcess, LimitOverHttp, Referee, Rest
from app.bench.http_client import HttpClient
from app.bench.ledger import Ledger
from app.bench.shapes import SHAPES
from app.db.engines import DriverConnection, connect
from app.domain.jsontext import encode
from app.embedded import EmbeddedPostgres
from app.services.identity import FIRST_ORG

SERVER_SETTINGS: Mapping[str, str] = {
    "STEPSTREAM_MAX_RUNNING_PER_USER": "0",
    "STEPSTREAM_MAX_REQUEST_RATE": "0",
    "STEPSTREAM_MAX_STREAMS_PER_USER": "0",
    "STEPSTREAM_MAX_STREAMS_PER_ORG": "0",
}
"""Limits that are meant for people, lifted; all else is as it is delivered."""

ADD_WORKFLOW = "INSERT INTO workflows (org_id, id, name, latest_version, published_version) VALUES ($1, $2, $2, 1, 1)"
ADD_VERSION = "INSERT INTO workflow_versions (org_id, workflow_id, version, definition) VALUES ($1, $2, 1, $3)"

Tell = Callable[[str], None]
"""Told what is being done, for who waits."""


class Testbed:
    """Databases and processes, all gone at the end of `stack`."""

    __test__ = False

    def __init__(self, directory: Path, postgres: EmbeddedPostgres, stack: AsyncExitStack, tell: Tell) -> None:
        self.directory = directory
        self.postgres = postgres
        self.tell = tell
        self._stack = stack
        self._databases: dict[str, Ledger] = {}
        self._installed: set[str] = set()
        self._rests: dict[str, Rest] = {}
        self._programs: dict[str, InProcess] = {}
        self._limits_over_http: dict[str, LimitOverHttp] = {}

    @property
    def postmaster(self) -> int:
        lines = (self.postgres.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
        return int(lines[0])

    @property
    def referee(self) -> Referee:
        return Referee({"postgres": [self.postmaster], "client": [os.getpid()]})

    async def database(self, name: str) -> Ledger:
        """A database, made when it is first asked for, with a connection of its superuser's."""
        if name not in self._databases:
            maintenance = await self._connected(self.postgres.admin_url)
            await maintenance.execute(f'CREATE DATABASE "{name}"')
            url = self.url(name)
            self._databases[name] = Ledger(url, await self._connected(url))
        return self._databases[name]

    def url(self, name: str) -> str:
        """The superuser's way into a database."""
        return urlsplit(self.postgres.admin_url)._replace(path=f"/{name}").geturl()

    async def installation(self, name: str) -> Ledger:
        """A migrated database with the workflows of all shapes, made when it is first asked for."""
        ledger = await self.database(name)
        if name not in self._installed:
            self._installed.add(name)
            self.tell(f"Migrating the database {name}")
            await self.command(name, "migrate")
            for shape in SHAPES.values():
                await ledger.connection.execute(ADD_WORKFLOW, FIRST_ORG, shape.workflow_id)
                await ledger.connection.execute(ADD_VERSION, FIRST_ORG, shape.workflow_id, encode(shape.document()))
        return ledger

    async def command(self, database: str, *arguments: str) -> str:
        """What a command of ours prints."""
        async with running(self.directory, self.environment(database), *arguments) as child:
            return await child.output()

    def environment(self, database: str, **more: str) -> dict[str, str]:
        """The settings of a process of ours."""
        return {
            "DATABASE_URL": self.url(database),
            "STEPSTREAM_DATA_DIR": str(self.directory / "installation"),
            "STEPSTREAM_LOG_FORMAT": "json",
            **SERVER_SETTINGS,
            **more,
        }

    async def child(self, database: str, *arguments: str, **settings: str) -> Child:
        """A process of ours, started; it is not ready yet."""
        return await self._stack.enter_async_context(
            running(self.directory, self.environment(database, **settings), *arguments)
        )

    async def rest(self, database: str = "rest") -> Rest:
        """The real server on an installation, started when it is first asked for."""
        if database not in self._rests:
            ledger = await self.installation(database)
            self.tell(f"Starting the server on the database {database}")
            token = (await self.command(database, "token")).strip()
            child = await self.child(database, "serve", "--port", "0")
            url = (await child.says(r'"url": ?"(http://[^"]+)".*"event": ?"ready"'))[1]
            client = self._client(url, {"authorization": f"Bearer {token}"})
            self._rests[database] = Rest("rest", ledger, [child.pid], client)
        return self._rests[database]

    async def engine(self, database: str = "engine") -> InProcess:
        """The engine without HTTP, on an installation."""
        await self.installation(database)
        return await self._program("engine", database)

    async def limit(self, database: str = "limit") -> InProcess:
        """The limit."""
        return await self._program("limit", database)

    async def limit_over_http(self, database: str = "limit_http") -> LimitOverHttp:
        """The limit behind HTTP."""
        if database not in self._limits_over_http:
            ledger = await self.database(database)
            child = await self.child(database, "bench-program", "limit-over-http")
            client = self._client(f"http://127.0.0.1:{(await child.answer())['port']}")
            self._limits_over_http[database] = LimitOverHttp("limit over HTTP", ledger, [child.pid], client)
        return self._limits_over_http[database]

    async def _program(self, name: str, database: str) -> InProcess:
        if database not in self._programs:
            self.tell(f"Starting the program {name} on the database {database}")
            ledger = await self.database(database)
            child = await self.child(database, "bench-program", name)
            await child.answer()
            self._programs[database] = InProcess(name, ledger, child)
        return self._programs[database]

    def _client(self, url: str, headers: dict[str, str] | None = None) -> HttpClient:
        client = HttpClient(url, headers)
        self._stack.callback(client.close)
        return client

    async def _connected(self, url: str) -> DriverConnection:
        connection = await connect(url, "bench", command_timeout=None)
        self._stack.push_async_callback(connection.close)
        return connection


@asynccontextmanager
async def testbed(tell: Tell) -> AsyncIterator[Testbed]:
    """A new Postgres with its usual durability and the settings that `stepstream up` gives it."""
    directory = Path(tempfile.mkdtemp(prefix="stepstream-bench-"))
    postgres = EmbeddedPostgres(directory / "postgres")
    try:
        tell("Starting Postgres")
        (directory / "installation").mkdir(mode=0o700)
        await asyncio.to_thread(postgres.start)
        async with AsyncExitStack() as stack:
            yield Testbed(directory, postgres, stack, tell)
    finally:
        await asyncio.to_thread(postgres.stop_if_last)
        await asyncio.to_thread(shutil.rmtree, directory)
