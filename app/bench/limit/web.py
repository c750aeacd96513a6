"""The limit behind HTTP: a bare FastAPI POST, and one GET that is answered at the end of the run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from app.bench.limit.execution import Execution
from app.bench.limit.record import Record
from app.bench.shapes import SHAPES


class Start(BaseModel):
    model_config = ConfigDict(extra="forbid")

    workflow_id: str
    input: Any = None


class Started(BaseModel):
    id: str
    workflow_id: str
    status: str


class Ended(BaseModel):
    id: str
    status: str


def make_app(url: str) -> FastAPI:
    """The app, on the database of a URL."""
    runs: dict[str, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.record = await Record.open(url, stack)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/executions", status_code=201)
    async def start(body: Start) -> Started:
        execution = await Execution.accept(app.state.record, SHAPES[body.workflow_id.removeprefix("bench_")])
        runs[execution.id] = asyncio.create_task(execution.run())
        return Started(id=execution.id, workflow_id=body.workflow_id, status="PENDING")

    @app.get("/executions/{execution_id}/wait")
    async def wait(execution_id: str) -> Ended:
        await runs.pop(execution_id)
        return Ended(id=execution_id, status="COMPLETED")

    return app
