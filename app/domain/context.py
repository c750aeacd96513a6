"""What expressions of a workflow know as `execution`."""

from datetime import datetime

from app.domain.events import timestamp_text
from app.domain.jsontext import JSON


def run_context(
    *, execution_id: str, workflow_id: str, workflow_version: int, org_id: str, user_id: str, created_at: datetime
) -> dict[str, JSON]:
    """The facts about a run that do not change."""
    return {
        "id": execution_id,
        "workflow_id": workflow_id,
        "workflow_version": workflow_version,
        "org_id": org_id,
        "user_id": user_id,
        "created_at": timestamp_text(created_at),
    }
