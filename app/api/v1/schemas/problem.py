"""The problem document, for the API's description."""

from pydantic import BaseModel, Field


class ProblemDetail(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="JSON pointer into the body, or `query:name`.")
    code: str
    detail: str


class Problem(BaseModel):
    """RFC 9457. `code` is stable; its page is served at `type`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    retryable: bool
    errors: list[ProblemDetail]
