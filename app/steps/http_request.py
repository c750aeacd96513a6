"""The `http.request` step: calls an HTTP API and hands on the answer."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

import httpx
from pydantic import Field, model_validator

from app import clock
from app.domain.control import HOPS_HEADER
from app.domain.definition import Document
from app.domain.durations import Span
from app.domain.errors import Problem, StepError
from app.domain.jsontext import JSON, NotJson, decode, encode
from app.domain.secrets import OpenedSecret, SecretReference
from app.domain.steps import Done, Effect, StepSpec
from app.engine.step_types import StepContext
from app.steps.addresses import origin, place, target_of
from app.steps.base import THREE_ATTEMPTS, TypedStep, has_template, invalid_config, pointer
from app.steps.http_headers import header_problems
from app.steps.outbound import SAFE_METHODS, Outbound, OutboundRequest, OutboundResponse
from app.steps.secret_values import opened_secrets, revealed
from app.steps.targets import Targets

MAX_RETRY_AFTER = 3_600.0
MAX_TIMEOUT = 600.0

_RETRYABLE = frozenset({408, 425, 429})
# Text only: some codecs of the standard library unpack archives or take time that grows with the square.
_CHARSET = re.compile(
    r"charset=\"?(us-ascii|utf-?8|utf-16(?:le|be)?|iso-8859-(?:1[013-6]|[1-9])|windows-125[0-8]|koi8-[ru]"
    r"|shift_jis|euc-jp|euc-kr|gbk|gb18030|big5)(?![a-z0-9_-])",
    re.IGNORECASE,
)

StatusRange = Annotated[str, Field(pattern=r"^([1-5]xx|[1-5][0-9]{2}-[1-5][0-9]{2})$")]
Status = Annotated[int, Field(strict=True, ge=100, le=599)]
Scalar = str | int | float | bool | SecretReference
Text = str | SecretReference


class HttpRequestConfig(Document):
    method: Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    url: Annotated[str, Field(min_length=1)] | SecretReference = Field(
        description="http or https; public addresses, and what the operator has allowed."
    )
    headers: dict[str, Text] = Field(
        default_factory=dict, max_length=64, description="Credentials such as Authorization come from a secret only."
    )
    query: dict[str, Scalar | list[Scalar] | None] = Field(
        default_factory=dict, description="Added to the URL, encoded; null leaves a parameter out."
    )
    json_body: Any = Field(default=None, alias="json", description="Sent as JSON; null: no body.")
    body: Text | None = Field(default=None, description="Sent as text.")
    form: dict[str, Scalar | list[Scalar]] | None = Field(default=None, description="Sent as a web form.")
    timeout: Span = Field(default=30.0, description="For all of it: redirects and the body included.")
    expect_status: tuple[Status | StatusRange, ...] | None = Field(
        default=None,
        min_length=1,
        description='The statuses that are success, such as 404, "4xx", "200-204"; else 2xx.',
    )
    follow_redirects: bool = True
    parse: Literal["auto", "json", "text", "base64"] = Field(
        default="auto", description="How the body becomes output; auto: JSON if it says so, else text."
    )
    max_bytes: int | None = Field(
        default=None, strict=True, ge=0, description="Largest body; at most what an output may be."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_body(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and sum(value.get(key) is not None for key in ("json", "body", "form")) > 1:
            raise ValueError("a request has only one of `json`, `body` and `form`")
        return value


class HttpRequestStep(TypedStep[HttpRequestConfig]):
    """Calls an HTTP API through the guarded door. `max_output` bounds every body, in bytes."""

    config_model = HttpRequestConfig
    spec = StepSpec(
        type="http.request",
        title="HTTP request",
        description=(
            "Calls an HTTP API. A status other than 2xx fails the step with `http_status`; 408, 425, 429 and 5xx are "
            "retried if the step may be. Requests with an effect carry an `Idempotency-Key` that stays the same over "
            'retries. A secret is sent in place of `{"$secret": "name"}`, to the hosts it is for.'
        ),
        category="connect",
        icon="globe",
        effect=Effect.ONCE,
        config_schema=HttpRequestConfig.model_json_schema(),
        output_schema={
            "type": "object",
            "properties": {
                "status": {"type": "integer"},
                "headers": {"type": "object", "additionalProperties": {"type": "string"}},
                "body": {"description": "JSON or text, by `parse`; null when there is none."},
                "url": {"type": "string", "description": "Where the answer came from, without its query."},
                "elapsed_ms": {"type": "integer"},
            },
            "required": ["status", "headers", "body", "url", "elapsed_ms"],
        },
        retry=THREE_ATTEMPTS,
        timeout=MAX_TIMEOUT,
        # No method means GET.
        safe_when=("method", frozenset({"", "GET", "HEAD"})),
        secrets_in=frozenset({"url", "headers", "query", "json", "body", "form"}),
        sends_to=lambda config: _literal_target(config.get("url")),
        result_keys=("status", "body", "url"),
    )

    def __init__(self, outbound: Outbound, max_output: int) -> None:
        self._outbound = outbound
        self._targets = Targets()
        self._max_output = max_output

    def check(self, config: Mapping[str, Any]) -> list[Problem]:
        problems = super().check(config)
        url, headers = config.get("url"), config.get("headers")
        if isinstance(url, str) and not has_template(url) and (refusal := self._outbound.rule.refusal(url)):
            problems.append(Problem("url_not_allowed", f"This URL may not be called: {refusal.reason}", "/url"))
        if isinstance(headers, Mapping):
            problems += [
                Problem(found.code, found.detail, pointer(("headers",)) + found.pointer)
                for found in header_problems(headers, resolved=False)
            ]
        return problems

    async def perform(self, context: StepContext, config: HttpRequestConfig) -> Done:
        request = self._request(context, config)
        async with self._targets.turn(context.org_id, origin(request.url)):
            started = clock.monotonic()
            answer = await self._outbound.send(request)
            elapsed = clock.monotonic() - started
            if not _expected(answer.status, config.expect_status):
                raise _status_error(config.method, answer)
        output: dict[str, JSON] = {
            "status": answer.status,
            "headers": dict(answer.headers),
            "body": _parsed(answer, config.parse),
            "url": place(answer.url),
            "elapsed_ms": round(elapsed * 1000),
        }
        return Done(output)

    def _request(self, context: StepContext, config: HttpRequestConfig) -> OutboundRequest:
        for problem in header_problems(config.headers, resolved=True):
            raise StepError(f"/headers{problem.pointer}: {problem.detail}", code=problem.code, retryable=False)
        sent = _Sent.of(config)
        headers = httpx.Headers({"accept": "*/*", "accept-encoding": "identity", "user-agent": "stepstream"})
        try:
            content_type, content = _content(sent)
            url = _with_query(sent)
        except (NotJson, UnicodeError):
            raise invalid_config("The body or the query has characters that cannot be sent as text") from None
        if content_type:
            headers["content-type"] = content_type
        if config.method not in SAFE_METHODS:
            headers["idempotency-key"] = context.idempotency_key
        headers.update(httpx.Headers([(k.encode("ascii"), v.encode("latin-1")) for k, v in sent.headers.items()]))
        headers[HOPS_HEADER] = str(context.hops + 1)
        return OutboundRequest(
            method=config.method,
            url=url,
            headers=headers,
            content=content,
            timeout=min(config.timeout, MAX_TIMEOUT),
            max_bytes=self._max_output if config.max_bytes is None else min(config.max_bytes, self._max_output),
            follow_redirects=config.follow_redirects,
            secrets=sent.secrets,
        )


@dataclass(frozen=True, slots=True)
class _Sent:
    """What leaves the service, with `secrets` in their places."""

    url: str
    headers: Mapping[str, str]
    query: Mapping[str, Any]
    json: Any
    body: str | None
    form: Mapping[str, Any] | None
    secrets: tuple[OpenedSecret, ...]

    @staticmethod
    def of(config: HttpRequestConfig) -> "_Sent":
        parts: tuple[Any, ...] = (config.url, config.headers, config.query, config.json_body, config.body, config.form)
        secrets = opened_secrets(*parts)
        url, headers, query, json, body, form = map(revealed, parts) if secrets else parts
        return _Sent(url, headers, query, json, body, form, secrets)


def _literal_target(url: object) -> tuple[str, int] | None:
    if not isinstance(url, str) or has_template(url):
        return None
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError, ValueError):
        return None
    return target_of(parsed)


def _content(sent: _Sent) -> tuple[str | None, bytes]:
    if sent.json is not None:
        return "application/json", encode(sent.json).encode()
    if sent.body is not None:
        return "text/plain; charset=utf-8", sent.body.encode()
    if sent.form is not None:
        return "application/x-www-form-urlencoded", str(httpx.QueryParams(sent.form)).encode()
    return None, b""


def _with_query(sent: _Sent) -> str:
    query = {name: value for name, value in sent.query.items() if value is not None}
    if not query:
        return sent.url
    added = str(httpx.QueryParams(query))
    return f"{sent.url}{'&' if '?' in sent.url else '?'}{added}"


def _expected(status: int, ranges: tuple[int | str, ...] | None) -> bool:
    if ranges is None:
        return 200 <= status < 300
    for wanted in ranges:
        low, _, high = str(wanted).replace("xx", "00").partition("-")
        last = int(low) + 99 if str(wanted).endswith("xx") else int(high or low)
        if int(low) <= status <= last:
            return True
    return False


def _status_error(method: str, answer: OutboundResponse) -> StepError:
    retryable = answer.status in _RETRYABLE or answer.status >= 500
    try:
        phrase = f"{answer.status} {HTTPStatus(answer.status).phrase}"
    except ValueError:
        phrase = str(answer.status)
    return StepError(
        f"{method} {place(answer.url)} answered {phrase}",
        code="http_status",
        retryable=retryable,
        retry_after=retry_after(answer.headers.get("retry-after", "")) if retryable else None,
    )


def retry_after(text: str) -> float | None:
    """Seconds that a Retry-After header asks for, by number or date, at most an hour; None if it says nothing."""
    text = text.strip()
    if text.isdecimal() and len(text) <= 10:
        return min(float(text), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - clock.now()).total_seconds(), 0.0), MAX_RETRY_AFTER)


def _parsed(answer: OutboundResponse, parse: str) -> JSON:
    if not answer.body:
        return None
    kind = answer.headers.get("content-type", "")
    media = kind.partition(";")[0].strip().lower()
    if parse == "base64":
        return base64.b64encode(answer.body).decode("ascii")
    if parse == "json" or (parse == "auto" and (media == "application/json" or media.endswith("+json"))):
        try:
            return decode(answer.body)
        except NotJson:
            if parse == "json":
                detail = f"The answer of {place(answer.url)} is not JSON"
                raise StepError(detail, code="invalid_response", retryable=False) from None
    charset = _CHARSET.search(kind)
    return answer.body.decode(charset[1] if charset else "utf-8", "replace")
