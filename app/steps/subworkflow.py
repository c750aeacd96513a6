"""Running another workflow as a step."""

from typing import Any

from pydantic import Field

from app.domain.definition import Document
from app.domain.steps import Done, Effect, StepSpec
from app.domain.waits import Await, ChildWait
from app.engine.step_types import StepContext
from app.steps.base import ONE_ATTEMPT, TypedStep


class WorkflowConfig(Document):
    workflow: str = Field(min_length=1, max_length=64, description="Id of the workflow; its published version runs.")
    input: Any = Field(default=None, description="The input of its execution.")
    wait: bool = Field(default=True, description="Go on only once it has ended; its output is then that of the step.")


class WorkflowRunStep(TypedStep[WorkflowConfig]):
    """Starts an execution of another workflow, and waits for its end unless told otherwise.

    Waiting holds nothing. Cancelling this run cancels the other one too.
    """

    config_model = WorkflowConfig
    spec = StepSpec(
        type="workflow.run",
        title="Run workflow",
        description="Runs another workflow; its output becomes the step's. Without `wait` the output is its id.",
        category="flow",
        icon="workflow",
        effect=Effect.IDEMPOTENT,
        config_schema=WorkflowConfig.model_json_schema(),
        output_schema={"description": "The output of the other run; without `wait` an object with `execution_id`."},
        retry=ONE_ATTEMPT,
        timeout=3_600.0,  # of the start alone, which waits for a database that is away
        function_from="workflow",
    )

    async def perform(self, context: StepContext, config: WorkflowConfig) -> Done | Await:
        child = await context.start_execution(config.workflow, config.input, waits=config.wait)
        return Await(ChildWait(child)) if config.wait else Done({"execution_id": child})
