"""The server's ASGI app: its routes, and what stands before them. What it runs on is made in `app.wiring`.

`app.main:app` is for other servers than our own, such as `uvicorn app.main:app --workers 2`: it is made of the settings
of the environment when it is asked for, so that nobody else gets one by an import.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.api.admission import Admission
from app.api.cors import Cors
from app.api.edge import Edge
from app.api.errors import add_error_handlers
from app.api.gate import Gate
from app.api.openapi import describe
from app.api.operations import operations
from app.api.pagination import Cursors
from app.api.route_index import RouteIndex
from app.api.v1 import (
    api_keys,
    approvals,
    audit_logs,
    auth,
    batch,
    budgets,
    control,
    executions,
    failures,
    insight,
    lineage,
    secrets,
    step_types,
    streams,
    workflows,
)
from app.auth.secret import derive
from app.logs import configure_logs
from app.process import settle_garbage_collector
from app.settings import Settings
from app.wiring.runtime import Runtime, start

VERSION = "0.1.0"


def __getattr__(name: str) -> FastAPI:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    settings = Settings()
    configure_logs(settings.log_format, settings.log_level)
    app = create_app(settings)
    settle_garbage_collector()
    return app


def create_app(
    settings: Settings, admin_url: str | None = None, storage_full: Callable[[], bool] = lambda: False
) -> FastAPI:
    """The ASGI app. `admin_url` names the database when the settings do not: the embedded one.

    `storage_full` says whether that one is running out of space.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            runtime = await start(settings, admin_url, storage_full, stack)
            app.state.runtime, app.state.services = runtime, runtime.services
            yield
            runtime.begin_drain()

    app: FastAPI = FastAPIOffline(
        title="Stepstream",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        static_url="/docs-assets",
        swagger_ui_parameters={"persistAuthorization": True, "displayRequestDuration": True, "tryItOutEnabled": True},
    )
    app.state.settings = settings
    app.state.cursors = Cursors(derive(settings.secret, "cursor"))
    add_error_handlers(app)
    add_routes(app)
    add_middleware(app, settings)
    describe(app)
    return app


def add_routes(app: FastAPI) -> None:
    """Every resource under /api/v1, operations at the root."""
    prefix = "/api/v1"
    for resource in (
        auth.router,
        workflows.router,
        executions.of_workflow,
        executions.executions,
        batch.batch,
        control.router,
        lineage.executions,
        lineage.of_workflow,
        approvals.router,
        budgets.router,
        insight.router,
        failures.router,
        streams.events,
        streams.sockets,
        step_types.router,
        api_keys.router,
        secrets.router,
        audit_logs.router,
    ):
        app.include_router(resource, prefix=prefix)
    app.include_router(operations)


def add_middleware(app: FastAPI, settings: Settings) -> None:
    """From the inside out: routes, who is let in, CORS for the configured origins, the edge around every answer."""
    app.add_middleware(RouteIndex, routes=app.routes)
    app.add_middleware(
        Gate,
        admission=Admission(settings.max_requests, settings.max_waiting_requests, settings.max_request_bytes),
        draining=lambda: _draining(app),
        max_body=settings.max_body,
        max_workflow_body=settings.max_workflow_body,
    )
    if settings.allowed_origins:
        app.add_middleware(
            Cors,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[
                "ETag", "Link", "Location", "Idempotency-Replayed", "RateLimit", "RateLimit-Policy", "Retry-After",
                "X-Request-ID",
            ],
        )  # fmt: skip
    app.add_middleware(Edge)


def _draining(app: FastAPI) -> bool:
    runtime: Runtime | None = getattr(app.state, "runtime", None)
    return runtime is not None and runtime.services.streams.draining.is_set()
