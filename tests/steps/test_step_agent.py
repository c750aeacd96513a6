"""The `agent` step, against an OpenAI-compatible server on loopback and against the stand-in."""

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from step_fakes import SpyContext, answer, serve, settings

from app.domain.errors import StepError
from app.domain.schemas import compile_schema
from app.domain.secrets import OpenedSecret
from app.steps.agent import AgentStep
from app.steps.models import step_error

LEADS = {
    "type": "object",
    "properties": {"score": {"type": "number", "maximum": 1}, "leads": {"type": "array", "items": {"type": "string"}}},
    "required": ["score", "leads"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def no_keys_of_this_machine(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "STEPSTREAM_OPENAI_BASE_URL", "DEEPSEEK_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def chunks(*deltas, model="gpt-4o-mini"):
    """A streamed chat completion: one chunk for each delta, then how it ended and what it used."""
    frame = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": model}
    bodies = [{**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    reason = "tool_calls" if "tool_calls" in deltas[-1] else "stop"
    bodies.append({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    usage = {"prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500}
    bodies.append({**frame, "choices": [], "usage": usage})
    text = "".join(f"data: {json.dumps(body)}\n\n" for body in bodies) + "data: [DONE]\n\n"
    return answer(200, text.encode(), ("Content-Type", "text/event-stream"))


def words(*pieces, **more):
    return chunks(*({"role": "assistant", "content": piece} for piece in pieces), **more)


def tool_call(name, *arguments):
    first = {"tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": {"name": name, "arguments": ""}}]}
    rest = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in arguments]
    return chunks(first, *rest)


@asynccontextmanager
async def model_server(*responses, **more):
    """An agent step whose `openai:` models are this server's; it gives the responses in turn, the last one for ever."""
    left = list(responses)

    async def handler(request, reader, writer):
        response = left.pop(0) if len(left) > 1 else left[0]
        writer.write(response if isinstance(response, bytes) else response(json.loads(request.body)))

    async with serve(handler) as server:
        step = AgentStep(settings(openai_base_url=server.url("/v1"), **{"openai_api_key": "sk-s3cret", **more}))
        try:
            yield step, server
        finally:
            await step.aclose()


async def ask(step, context=None, **config):
    config = {"model": "openai:gpt-4o-mini", "prompt": "Find leads", **config}
    return await step.run(context or SpyContext(), config)


async def failure(response, **config):
    async with model_server(response) as (step, server):
        with pytest.raises(StepError) as caught:
            await ask(step, **config)
        assert len(server.requests) == 1, "the engine retries, not the client"
    assert "s3cret" not in caught.value.detail
    return caught.value


async def test_an_answer_is_streamed_and_its_tokens_and_cost_are_kept():
    context = SpyContext()
    async with model_server(words("Two ", "leads ", "found")) as (step, server):
        done = await ask(step, context, instructions="Be brief", temperature=0.5, max_tokens=50)
    assert done.output == {"text": "Two leads found", "data": None}
    assert [said for said in context.said if said[0] == "token"] == [
        ("token", "Two "), ("token", "leads "), ("token", "found"),
    ]  # fmt: skip
    assert context.tokens == 1_500
    assert context.cost == pytest.approx(0.00045)
    assert done.agent_result == {
        "model": "openai:gpt-4o-mini",
        "text": "Two leads found",
        "tokens": {"input": 1_000, "output": 500},
        "cost": context.cost,
    }
    (request,) = server.requests
    sent = json.loads(request.body)
    assert (request.target, request.headers["authorization"]) == ("/v1/chat/completions", "Bearer sk-s3cret")
    assert (sent["model"], sent["stream"], sent["temperature"]) == ("gpt-4o-mini", True, 0.5)
    assert 50 in (sent.get("max_completion_tokens"), sent.get("max_tokens"))
    assert [message["content"] for message in sent["messages"]] == ["Be brief", "Find leads"]


async def test_a_price_that_is_not_known_is_zero():
    context = SpyContext()
    async with model_server(words("hi", model="llama-local")) as (step, _):
        await ask(step, context, model="openai:llama-local")
    assert (context.tokens, context.cost) == (1_500, 0.0)


async def test_a_prompt_of_any_json_is_sent_as_text():
    async with model_server(words("ok")) as (step, server):
        await ask(step, prompt={"leads": [1]})
    assert json.loads(server.requests[0].body)["messages"][0]["content"] == '{"leads":[1]}'


async def test_sampling_settings_are_sent():
    async with model_server(words("ok")) as (step, server):
        await ask(step, settings={"top_p": 0.1, "seed": 7, "stop_sequences": ["END"]})
    sent = json.loads(server.requests[0].body)
    assert (sent["top_p"], sent["seed"], sent["stop"]) == (0.1, 7, ["END"])


async def test_a_server_without_a_key_needs_none():
    async with model_server(words("ok"), openai_api_key=None) as (step, _):
        assert step.check({"model": "openai:gpt-4o-mini", "prompt": "x"}) == []
        assert (await ask(step)).output["text"] == "ok"


def final_result(*pieces):
    return lambda sent: tool_call(sent["tools"][0]["function"]["name"], *pieces)


async def test_a_structured_answer_is_data_of_the_schema():
    context = SpyContext()
    async with model_server(final_result('{"score": 0.9,', ' "leads": ["Acme"]}')) as (step, server):
        done = await ask(step, context, output_schema=LEADS)
    assert done.output == {"text": '{"score":0.9,"leads":["Acme"]}', "data": {"score": 0.9, "leads": ["Acme"]}}
    assert context.text == '{"score": 0.9, "leads": ["Acme"]}'
    parameters = json.loads(server.requests[0].body)["tools"][0]["function"]["parameters"]
    assert parameters["required"] == ["score", "leads"]


async def test_a_structured_answer_that_does_not_fit_is_asked_for_again():
    wrong, right = final_result('{"score": 5, "leads": []}'), final_result('{"score": 0.5, "leads": []}')
    context = SpyContext()
    async with model_server(wrong, right) as (step, server):
        done = await ask(step, context, output_schema=LEADS)
    assert done.output["data"] == {"score": 0.5, "leads": []}
    assert (len(server.requests), context.tokens) == (2, 3_000)


async def test_a_model_that_never_answers_in_shape_fails_after_three_requests_that_are_paid_for():
    context = SpyContext()
    async with model_server(final_result('{"score": 5}')) as (step, server):
        with pytest.raises(StepError) as caught:
            await ask(step, context, output_schema=LEADS)
    assert context.tokens == 4_500
    assert context.cost > 0
    assert (caught.value.error_code, caught.value.retryable) == ("model_output_invalid", True)
    assert len(server.requests) == 3


def problem(status, *headers, message="no", **more):
    body = json.dumps({"error": {"message": message, "type": "t", **more}}).encode()
    return answer(status, body, ("Content-Type", "application/json"), *headers)


@pytest.mark.parametrize(
    ("response", "code", "retryable", "retry_after"),
    [
        (problem(429, ("Retry-After", "7")), "model_rate_limited", True, 7.0),
        (problem(429, code="insufficient_quota"), "model_quota_exceeded", False, None),
        (problem(500), "model_unavailable", True, None),
        (problem(503, ("Retry-After", "2")), "model_unavailable", True, 2.0),
        (problem(401, message="Incorrect API key provided: sk-s3cret"), "model_not_configured", False, None),
        (problem(403), "model_not_configured", False, None),
        (problem(404), "unknown_model", False, None),
        (problem(400, message="max_tokens is too large"), "model_request_rejected", False, None),
    ],
)
async def test_failures_of_a_provider_have_codes_and_say_whether_again_helps(response, code, retryable, retry_after):
    error = await failure(response)
    assert (error.error_code, error.retryable, error.retry_after) == (code, retryable, retry_after)
    assert "gpt-4o-mini" in error.detail
    if code == "model_request_rejected":
        assert "max_tokens is too large" in error.detail


async def test_a_model_that_does_not_answer_in_time_may_be_asked_again():
    async def silent(request, reader, writer):
        await reader.read()

    async with serve(silent) as server:
        step = AgentStep(settings(openai_base_url=server.url("/v1")))
        with pytest.raises(StepError) as caught:
            await ask(step, timeout=0.2)
        await step.aclose()
    assert (caught.value.error_code, caught.value.retryable) == ("model_timeout", True)


async def test_a_provider_out_of_reach_may_be_asked_again():
    async with serve(lambda *_: None) as server:
        url = server.url("/v1")
    step = AgentStep(settings(openai_base_url=url))
    with pytest.raises(StepError) as caught:
        await ask(step)
    await step.aclose()
    assert (caught.value.error_code, caught.value.retryable) == ("model_unavailable", True)


async def test_a_cancelled_step_lets_go_of_the_model():
    asked, gone = asyncio.Event(), asyncio.Event()

    async def handler(request, reader, writer):
        asked.set()
        await reader.read()
        gone.set()

    async with serve(handler) as server:
        step = AgentStep(settings(openai_base_url=server.url("/v1")))
        running = asyncio.create_task(ask(step))
        await asked.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.wait_for(gone.wait(), 10)
        await step.aclose()


async def test_proxies_of_the_environment_are_ignored(monkeypatch):
    async with serve(lambda *_: None) as canary, model_server(words("ok")) as (step, _):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, canary.url())
        assert (await ask(step)).output["text"] == "ok"
        assert canary.connections == 0


def found(config, **more):
    step = AgentStep(settings(**more))
    return [(item.code, item.pointer, item.detail) for item in step.check(config) + step.missing_setup(config)]


@pytest.mark.parametrize("model", ["openai:gpt-4o-mini", "openai-chat:x", "deepseek:x"])
def test_a_missing_key_is_found_before_the_run_with_the_variable_to_set(model):
    ((code, pointer, detail),) = found({"model": model, "prompt": "x"})
    assert (code, pointer) == ("model_not_configured", "/model")
    assert ("DEEPSEEK_API_KEY" if model.startswith("deepseek") else "OPENAI_API_KEY") in detail


def test_a_configured_key_is_no_problem(monkeypatch):
    assert found({"model": "openai:gpt-4o-mini", "prompt": "x"}, openai_api_key="sk-x") == []
    monkeypatch.setenv("DEEPSEEK_API_KEY", "x")
    assert found({"model": "deepseek:x", "prompt": "x"}) == []


def own_key(*hosts):
    named = {"$secret": "key", "value": "sk-of-an-organisation", "allowed_hosts": hosts}
    return OpenedSecret.model_validate(named)


async def test_a_key_of_ones_own_is_used_instead_of_the_deployments_and_not_by_the_next():
    async with model_server(words("ok")) as (step, server):
        await ask(step, api_key=own_key("127.0.0.1"))
        await ask(step)
    assert [request.headers["authorization"] for request in server.requests] == [
        "Bearer sk-of-an-organisation", "Bearer sk-s3cret",
    ]  # fmt: skip


@pytest.mark.parametrize("model", ["openai:gpt-4o-mini", "openai-chat:x", "deepseek:x"])
async def test_a_key_goes_to_the_providers_it_is_for_only(model):
    async with model_server(words("ok")) as (step, server):
        with pytest.raises(StepError) as caught:
            await ask(step, model=model, api_key=own_key("api.example.com"))
    assert (caught.value.error_code, caught.value.retryable) == ("secret_host_not_allowed", False)
    assert server.connections == 0
    assert "organisation" not in caught.value.detail


def test_who_brings_a_key_needs_none_of_the_deployment():
    assert found({"model": "openai:gpt-4o-mini", "prompt": "x", "api_key": {"$secret": "key"}}) == []


def test_a_provider_whose_package_is_missing_is_found_before_the_run(monkeypatch):
    monkeypatch.delitem(sys.modules, "pydantic_ai.providers.cohere", raising=False)
    monkeypatch.setitem(sys.modules, "cohere", None)
    ((code, _, detail),) = found({"model": "cohere:command", "prompt": "x"})
    assert code == "model_provider_not_installed"
    assert 'pip install "pydantic-ai-slim[cohere]"' in detail


@pytest.mark.parametrize(
    "model", ["gpt-4o", "nobody:x", "test", "openai:", "openai-codex:x", "sentence-transformers:x"]
)
def test_an_unknown_model_is_found_before_the_run(model):
    assert [item[:2] for item in found({"model": model, "prompt": "x"})] == [("unknown_model", "/model")]


async def test_an_unknown_model_of_an_expression_fails_the_run_for_good(context):
    step = AgentStep(settings())
    assert step.check({"model": "${{ input.model }}", "prompt": "x"}) == []
    for model, code in (("nobody:x", "unknown_model"), ("openai:x", "model_not_configured")):
        with pytest.raises(StepError) as caught:
            await ask(step, model=model)
        assert (caught.value.error_code, caught.value.retryable) == (code, False)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {},
        {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1/x"}}},
        {"type": "object", "required": 5},
    ],
)
async def test_a_schema_that_cannot_be_used_is_found_before_the_run(schema):
    config = {"model": "stand-in", "prompt": "x", "output_schema": schema}
    assert [item[:2] for item in found(config)] == [("invalid_schema", "/output_schema")]
    with pytest.raises(StepError) as caught:
        await ask(AgentStep(settings()), **config)
    assert caught.value.error_code == "invalid_config"


async def test_the_stand_in_names_itself_streams_words_and_repeats_itself():
    context, again = SpyContext(), SpyContext()
    step = AgentStep(settings())
    assert step.check({"model": "stand-in", "prompt": "x"}) == []
    done = await ask(step, context, model="stand-in", prompt="Find two leads for Acme")
    assert done.agent_result["model"] == "stand-in (local, no AI)"
    assert "not an AI" in done.output["text"]
    assert "Find two leads for Acme" in done.output["text"]
    assert context.text == done.output["text"]
    assert len(context.said) > 10
    assert (context.cost, context.tokens > 0) == (0.0, True)
    assert await ask(step, again, model="stand-in", prompt="Find two leads for Acme") == done
    assert again.said == context.said


async def test_the_stand_in_gives_the_json_of_the_prompt():
    prompt = 'Answer like this:\n```json\n{"score": 0.9, "leads": ["Acme"]}\n```'
    done = await ask(AgentStep(settings()), model="stand-in", prompt=prompt, output_schema=LEADS)
    assert done.output["data"] == {"score": 0.9, "leads": ["Acme"]}


@pytest.mark.parametrize(
    "schema",
    [
        LEADS,
        {"type": "object"},
        {
            "type": "object",
            "properties": {
                "a": {"enum": ["x"]}, "b": {"type": "array", "items": {"type": "integer", "minimum": 3}, "minItems": 2},
                "c": {"type": ["null", "string"]}, "d": {"const": 1}, "e": {"type": "string", "minLength": 20},
                "f": {"type": "object", "properties": {"g": {"type": "boolean"}}, "required": ["g"]},
                "h": {"$ref": "#/$defs/h"},
            },
            "required": ["a", "b", "c", "d", "e", "f", "h"],
            "$defs": {"h": {"type": "number", "maximum": -1}},
        },
    ],
)  # fmt: skip
async def test_the_stand_in_satisfies_simple_schemas(schema):
    done = await ask(AgentStep(settings()), model="stand-in", output_schema=schema)
    assert compile_schema(schema).is_valid(done.output["data"])


async def test_a_stand_in_that_cannot_satisfy_a_schema_says_so():
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[0-9]+$"}}, "required": ["a"]}
    with pytest.raises(StepError) as caught:
        await ask(AgentStep(settings()), model="stand-in", output_schema=schema)
    assert caught.value.error_code == "model_output_invalid"


def test_failures_that_no_server_can_provoke_have_codes_too():
    from pydantic_ai import exceptions

    assert step_error(exceptions.ContentFilterError("x"), "m").error_code == "model_refused"
    assert step_error(exceptions.OutputTokenLimitExceeded("x"), "m").error_code == "model_output_truncated"
    assert step_error(exceptions.UserError("x"), "m").error_code == "invalid_config"


def test_the_heavy_packages_are_not_imported_until_a_model_is_needed():
    program = """
import sys
from app.settings import Settings
from app.steps.registry import default_registry
registry = default_registry(Settings(_env_file=None, openai_api_key="sk-x"))
registry["agent"].check({"model": "openai:gpt-4o", "prompt": "x"})
registry["agent"].check({"model": "stand-in", "prompt": "x"})
print([name for name in ("pydantic_ai", "openai", "httpx2", "genai_prices") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
