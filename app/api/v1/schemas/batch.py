"""Many executions that are started at once, on the wire."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.api.v1.schemas.executions import Execution, StartExecution
from app.api.v1.schemas.problem import Problem

MOST = 100

Key = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[ -~]+$")]


class StartOne(StartExecution):
    """One of a batch."""

    idempotency_key: Key | None = Field(
        default=None, description="As the header, for this one alone. By default made from the header, if there is one."
    )


class StartBatch(BaseModel):
    """Executions to start, of one workflow or of several."""

    model_config = ConfigDict(extra="forbid")

    executions: Annotated[list[StartOne], Field(min_length=1, max_length=MOST)]


class BatchAnswer(BaseModel):
    """What came of one: `status` and body that a request of its own would have been answered with."""

    status: int
    replayed: bool = Field(description="An earlier request with its key had started it.")
    execution: Execution | None
    problem: Problem | None


class Batch(BaseModel):
    """One answer for each execution, in their order."""

    data: list[BatchAnswer]
