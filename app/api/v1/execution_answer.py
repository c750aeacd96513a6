"""The detail of an execution in the form that the client accepts."""

from starlette.requests import Request
from starlette.responses import Response

from app import clock
from app.api.responses import Json
from app.api.text.answer import BY_ACCEPT, text_answer
from app.api.v1.schemas.executions import detail_view
from app.api.v1.schemas.outlook import outlook_view
from app.auth.principal import Caller
from app.services import Services
from app.services.executions import ExecutionDetail


async def execution_answer(request: Request, services: Services, caller: Caller, detail: ExecutionDetail) -> Response:
    """JSON, or by Accept `text/plain`, `text/markdown` or `text/vnd.mermaid`."""
    text = text_answer(",".join(request.headers.getlist("accept")) or None, detail, clock.now())
    if text is not None:
        return text
    outlook = await services.insight.outlook(caller, detail)
    return Json(detail_view(detail) | outlook_view(outlook), headers=BY_ACCEPT)
