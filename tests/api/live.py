"""The real server in a test: uvicorn on loopback, real Postgres, clients of fresh organisations.

Every answer that a client gets is held against the API's own description, so the two cannot drift apart.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import uvicorn
from fastapi import FastAPI

from app import clock
from app.api.openapi import operations
from app.api.problems import REGISTRY
from app.auth.permissions import Role
from app.auth.tokens import AccessTokens
from app.cli import serving as cli
from app.cli.serving import bind, port_of, url_of
from app.main import create_app
from app.services import Services
from app.settings import SECRET_FILE, Settings
from tests.database import SECRET, Database

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Loading the machine's certificates for each client takes longer than most tests."""


def settings_for(database: Database, data_dir: Path, **changes: Any) -> Settings:
    """Settings of a process on a test's database."""
    data_dir.mkdir(exist_ok=True)
    (data_dir / SECRET_FILE).write_text(SECRET)
    return Settings(
        _env_file=None,
        **{
            "data_dir": data_dir,
            "scan_interval": 0.2,
            "egress_allow_cidrs": ["127.0.0.0/8"],
            "egress_ports": list(range(1024, 65536)),
            "log_level": "error",
            **changes,
        },
    )


@dataclass
class Live:
    """A serving process. `services` is its inside, for arranging; clients come in by HTTP."""

    app: FastAPI
    url: str
    database: Database
    answers: "AnswerChecker"

    @property
    def services(self) -> Services:
        found: Services = self.app.state.services
        return found

    def http(self, token: str | None = None, **options: Any) -> httpx.AsyncClient:
        """A client whose every answer is checked against the API's description."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=30, verify=NO_TLS,
            event_hooks={"response": [self.answers.check]}, **options,
        )  # fmt: skip

    async def organization(self) -> "Organization":
        identity = self.services.identity
        org_id = await identity.add_organization("Test")
        return Organization(self, org_id)


@dataclass
class Organization:
    live: Live
    id: str

    async def member(self, role: Role = Role.OWNER) -> "Member":
        """A new user with a role, holding a token; who needs a password makes a user of its own."""
        user_id = clock.new_id("user")
        await self.live.database.execute(
            "INSERT INTO users (id, email, name) VALUES ($1, $1 || '@example.com', 'Ann')", user_id
        )
        await self.live.services.identity.add_membership(self.id, user_id, role)
        token, _ = AccessTokens(SECRET.encode()).issue(user_id, self.id, 1, clock.now(), clock.new_id("jti"))
        return Member(self, user_id, token)


@dataclass
class Member:
    organization: Organization
    user_id: str
    token: str

    def http(self, **options: Any) -> httpx.AsyncClient:
        return self.organization.live.http(self.token, **options)


class AnswerChecker:
    """Holds answers against the OpenAPI document: documented status, body by its schema, problems from the registry."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._document = app.openapi()
        self._validators: dict[tuple[str, str, str], jsonschema_rs.Validator] = {}

    async def check(self, response: httpx.Response) -> None:
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return
        await response.aread()
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            self._check_problem(response)
        operation = self._operation(response.request)
        if operation is None or response.status_code in {304, 405} or response.status_code >= 500:
            return
        status = str(response.status_code)
        assert status in operation["responses"], f"{response.request.url.path}: {status} is not documented"
        for media, described in operation["responses"][status].get("content", {}).items():
            if response.headers.get("content-type", "").startswith(media) and "json" in media and response.content:
                self._validate(operation["operationId"], status, media, described["schema"], response.json())

    def _check_problem(self, response: httpx.Response) -> None:
        if response.request.url.path.startswith("/health"):
            return
        assert response.headers["content-type"] == "application/problem+json", response.text
        body = response.json()
        kind = REGISTRY[body["code"]]
        assert (kind.status, kind.title) == (response.status_code, body["title"])
        assert body["request_id"] == response.headers["x-request-id"]

    def _operation(self, request: httpx.Request) -> dict[str, Any] | None:
        path = request.url.path.rstrip("/") or "/"
        for operation in operations(self._app):
            if operation.in_schema and operation.method == request.method and operation.pattern.match(path):
                found: dict[str, Any] = self._document["paths"][operation.path][request.method.lower()]
                return found
        return None

    def _validate(self, operation: str, status: str, media: str, schema: dict[str, Any], body: Any) -> None:
        key = (operation, status, media)
        if key not in self._validators:
            whole = {**schema, "components": self._document["components"]}
            self._validators[key] = jsonschema_rs.validator_for(whole, validate_formats=True)
        problems = [f"{error.instance_path}: {error.message}" for error in self._validators[key].iter_errors(body)]
        assert not problems, f"{operation} {status}: {problems[:5]}"


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """Serve any app on a free loopback port, by plain uvicorn; its URL."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, access_log=False, ws="websockets-sansio",
        ws_max_size=4096, ws_per_message_deflate=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            await task
        await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


class _no_signals:  # noqa: N801 - stands in for a context manager function
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@asynccontextmanager
async def live_server(
    database: Database,
    data_dir: Path,
    prepare: Callable[[FastAPI], None] = lambda app: None,
    storage_full: Callable[[], bool] = lambda: False,
    **changes: Any,
) -> AsyncIterator[Live]:
    """A whole server on a database."""
    settings = settings_for(database, data_dir, **changes)
    app = create_app(settings, database.admin_url, storage_full)
    prepare(app)
    with bind("127.0.0.1", 0) as bound:
        async with cli.serving(app, bound):
            yield Live(app, url_of("127.0.0.1", port_of(bound)), database, AnswerChecker(app))
