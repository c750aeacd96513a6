"""For operators and readers of problems: health, metrics, the pages of the error codes."""

from html import escape

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import HTMLResponse, Response

from app.api.deps import Public, ServicesDep
from app.api.problems import REGISTRY, RUN_CODES
from app.api.responses import NO_STORE, Json
from app.domain.errors import NotFound

operations = APIRouter(tags=["Operations"])


class HealthReport(BaseModel):
    """`status` is ok, or why this process cannot do its work."""

    status: str
    checks: dict[str, str]


@operations.get(
    "/health/live",
    operation_id="live",
    summary="The process answers",
    response_model=HealthReport,
    dependencies=[Depends(Public("orchestrators probe without a credential"))],
)
async def live() -> Response:
    """200 as long as the event loop turns, whatever the database does."""
    return Json({"status": "ok", "checks": {}}, headers=NO_STORE)


@operations.get(
    "/health",
    operation_id="health",
    summary="The process can do its work",
    response_model=HealthReport,
    dependencies=[Depends(Public("load balancers probe without a credential"))],
)
@operations.get(
    "/health/ready",
    operation_id="ready",
    summary="The process can do its work",
    response_model=HealthReport,
    dependencies=[Depends(Public("load balancers probe without a credential"))],
)
async def ready(services: ServicesDep) -> Response:
    """200 if the database answers and the lease is held, else 503 with the reason."""
    readiness = await services.health.readiness()
    body = {"status": readiness.reason or "ok", "checks": readiness.checks}
    if readiness.ready:
        return Json(body, headers=NO_STORE)
    return Json(body, 503, headers=NO_STORE | {"Retry-After": "1"})


@operations.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics of this process",
    response_class=Response,
    dependencies=[Depends(Public("scraped without a credential; holds counts, never names or payloads"))],
)
async def metrics(services: ServicesDep) -> Response:
    """Text exposition format."""
    await services.health.measure_queue()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST, headers=NO_STORE)


@operations.get(
    "/problems",
    include_in_schema=False,
    dependencies=[Depends(Public("documentation"))],
)
async def list_problems() -> Response:
    rows = "".join(
        f'<tr><td><a href="/problems/{code}"><code>{code}</code></a></td><td>{status}</td><td>{escape(title)}</td></tr>'
        for code, (status, title, _) in sorted(_pages().items())
    )
    return _page("Error codes", f"<table><tr><th>code</th><th>status</th><th>meaning</th></tr>{rows}</table>")


@operations.get(
    "/problems/{code}",
    include_in_schema=False,
    dependencies=[Depends(Public("documentation"))],
)
async def show_problem(code: str) -> Response:
    page = _pages().get(code)
    if page is None:
        raise NotFound("There is no such error code")
    status, title, help_text = page
    return _page(title, f"<p><code>{code}</code> · {status}</p><p>{escape(help_text)}</p>")


def _pages() -> dict[str, tuple[str, str, str]]:
    pages = {code: (f"HTTP {kind.status}", kind.title, kind.help) for code, kind in REGISTRY.items()}
    return pages | {code: ("in a run", title, help_text) for code, (title, help_text) in RUN_CODES.items()}


_STYLE = """
body { font: 16px/1.5 system-ui; margin: 3rem auto; max-width: 44rem; padding: 0 1rem }
td, th { padding: .2rem 1rem .2rem 0; text-align: left }
"""


def _page(title: str, body: str) -> HTMLResponse:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)} - Stepstream</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>{body}"
        '<p><a href="/problems">All error codes</a> · <a href="/docs">API</a></p>'
    )
