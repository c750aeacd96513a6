"""Steps that wait for people and for other systems: signals and approvals. Nothing is held while they wait."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from app.domain.definition import Deciders, Document
from app.domain.durations import Duration
from app.domain.errors import Problem, clean_text
from app.domain.schemas import UnsupportedSchema, compile_schema
from app.domain.steps import Effect, StepSpec
from app.domain.waits import SIGNAL_PATTERN, ApprovalWait, Await, SignalWait
from app.engine.step_types import StepContext
from app.steps.base import ONE_ATTEMPT, PureStep, TypedStep, invalid_config

THIRTY_DAYS = 30 * 86_400.0
MAX_APPROVAL_MESSAGE = 10_000

SignalName = Annotated[str, Field(pattern=SIGNAL_PATTERN)]


class SignalConfig(Document):
    signal: SignalName | None = Field(default=None, description="The name of the signal.")
    any_of: tuple[SignalName, ...] | None = Field(default=None, min_length=1, max_length=50)
    all_of: tuple[SignalName, ...] | None = Field(default=None, min_length=1, max_length=50)
    timeout: Duration = Field(default=THIRTY_DAYS, description="How long to wait, 30 days unless given.")
    on_timeout: Literal["fail", "continue"] = Field(
        default="fail", description="`continue` takes the port `timed_out`; the port is `received` otherwise."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_of_three(cls, value: Any) -> Any:
        if (
            isinstance(value, Mapping)
            and sum(value.get(key) is not None for key in ("signal", "any_of", "all_of")) != 1
        ):
            raise ValueError("a wait names either `signal`, `any_of` or `all_of`")
        return value


class WaitForSignalStep(PureStep[SignalConfig]):
    """Waits for signals sent to the execution. One sent before the step began counts: it is stored until then."""

    config_model = SignalConfig
    spec = StepSpec(
        type="wait_for_signal",
        title="Wait for signal",
        description="Waits until a named signal reaches the execution. Signals sent earlier count; each is used once.",
        category="flow",
        icon="radio",
        effect=Effect.PURE,
        config_schema=SignalConfig.model_json_schema(),
        output_schema={
            "type": "object",
            "properties": {
                "signal": {"type": ["string", "null"], "description": "The first one used; null after a timeout."},
                "payload": {"description": "Its payload."},
                "signals": {"type": "object", "description": "Payloads by name."},
            },
            "required": ["signal", "payload", "signals"],
        },
        retry=ONE_ATTEMPT,
        timeout=30.0,
        fixed_ports=("received", "timed_out"),
        port_of=lambda output: "timed_out" if output.get("signal") is None else "received",
    )

    def outcome(self, config: SignalConfig) -> Await:
        names = config.any_of or config.all_of or (str(config.signal),)
        mode: Literal["any", "all"] = "any" if config.all_of is None else "all"
        return Await(SignalWait(tuple(dict.fromkeys(names)), mode, config.on_timeout), config.timeout)


class ApprovalConfig(Document):
    title: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="What is to be approved.")
    message: str | None = Field(
        default=None, max_length=MAX_APPROVAL_MESSAGE, description="What the deciders need to know."
    )
    form: dict[str, Any] | None = Field(default=None, description="JSON Schema of what is filled in on approval.")
    deciders: Deciders = Field(default=Deciders(), description="Who may decide; nobody named: who has the permission.")
    quorum: int = Field(default=1, ge=1, le=100, description="Approvals needed; one rejection rejects.")
    self_approval: bool = Field(default=False, description="Whether who started the run may decide on it.")
    deadline: Duration = Field(default=THIRTY_DAYS, description="How long there is to decide, 30 days unless given.")
    on_deadline: Literal["fail", "approve", "reject"] = "fail"
    on_rejected: Literal["fail", "continue"] = Field(
        default="fail", description="`continue` takes the port `rejected`; the port is `approved` otherwise."
    )


class ApprovalStep(TypedStep[ApprovalConfig]):
    """Waits until people have decided."""

    config_model = ApprovalConfig
    spec = StepSpec(
        type="approval",
        title="Approval",
        description="Waits until enough people have approved, or one has rejected.",
        category="flow",
        icon="user-check",
        effect=Effect.PURE,
        config_schema=ApprovalConfig.model_json_schema(),
        output_schema={
            "type": "object",
            "properties": {
                "decision": {"enum": ["approved", "rejected"]},
                "approval_id": {"type": "string"},
                "decided_by": {"type": "array", "items": {"type": ["string", "null"]}},
                "comment": {"type": ["string", "null"]},
                "data": {"description": "What was filled in."},
            },
            "required": ["decision", "approval_id", "decided_by", "comment", "data"],
        },
        retry=ONE_ATTEMPT,
        timeout=30.0,
        fixed_ports=("approved", "rejected"),
        port_of=lambda output: output.get("decision"),
        result_keys=("decision", "comment", "data"),
    )

    def check(self, config: Mapping[str, Any]) -> list[Problem]:
        return super().check(config) + _form_problems(config.get("form"))

    async def perform(self, context: StepContext, config: ApprovalConfig) -> Await:
        if problems := _form_problems(config.form):
            raise invalid_config(problems[0].detail)
        approval = ApprovalWait(
            approval_id=context.new_id("appr"),
            title=clean_text(config.title),
            message=None if config.message is None else clean_text(config.message, MAX_APPROVAL_MESSAGE),
            form=config.form,
            deciders=config.deciders,
            quorum=config.quorum,
            self_approval=config.self_approval,
            on_deadline=config.on_deadline,
            on_rejected=config.on_rejected,
        )
        return Await(approval, config.deadline)


def _form_problems(form: object) -> list[Problem]:
    if not isinstance(form, dict):
        return []
    try:
        compile_schema(form)
    except UnsupportedSchema as error:
        detail = f"`form` is no JSON Schema that can be used: {error}"
        return [Problem("unsupported_schema", detail, f"/form{error.pointer}")]
    return []
