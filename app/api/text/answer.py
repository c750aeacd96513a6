"""The text answer to a client that wants one."""

from collections.abc import Callable, Mapping
from datetime import datetime

from starlette.responses import Response

from app.api.responses import NO_STORE
from app.api.text.ascii_gantt import ascii_gantt
from app.api.text.markdown import markdown
from app.api.text.mermaid import mermaid
from app.api.text.negotiation import Form, negotiate
from app.services.executions import ExecutionDetail

_RENDERERS: Mapping[Form, Callable[[ExecutionDetail, datetime], str]] = {
    Form.PLAIN: ascii_gantt,
    Form.MARKDOWN: markdown,
    Form.MERMAID: mermaid,
}
TEXT_FORMS = {form.value: {"schema": {"type": "string"}} for form in _RENDERERS}
"""The text forms for an operation's description."""
BY_ACCEPT = NO_STORE | {"Vary": "Accept"}


def text_answer(accept: str | None, detail: ExecutionDetail, now: datetime) -> Response | None:
    """The form that the Accept header asks for; None: JSON."""
    form = negotiate(accept)
    renderer = _RENDERERS.get(form)
    if renderer is None:
        return None
    return Response(renderer(detail, now), media_type=f"{form.value}; charset=utf-8", headers=BY_ACCEPT)
