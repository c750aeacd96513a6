"""Secrets in requests: sent where the definition puts them, to the hosts they are for, and nowhere else."""

import base64

import pytest
from step_fakes import OTHER_LOOPBACK, always, answer, redirect_to, serve, steps

from app.domain.errors import StepError
from app.domain.secrets import OpenedSecret, host_allowed, host_problem, secret_uses

VALUE = "sk live/ä+\"4&2%='"
CIDRS = ("127.0.0.0/8",)


def secret(value="sk_live_canary", hosts=("127.0.0.1",), form="{}"):
    return OpenedSecret.model_validate({"$secret": "key", "format": form, "value": value, "allowed_hosts": hosts})


async def send(context, *ports, **config):
    async with steps(*ports, cidrs=CIDRS) as library:
        return (await library["http.request"].run(context, config)).output


async def failure(context, *ports, **config):
    with pytest.raises(StepError) as caught:
        await send(context, *ports, **config)
    return caught.value


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({"headers": {"Authorization": secret(form="Bearer {}")}}, "Bearer sk_live_canary"),
        ({"headers": {"Cookie": secret(form="session={}"), "X-Plain": "1"}}, "session=sk_live_canary"),
        (
            {"query": {"key": secret(), "list": [1, secret(form="a{}")]}},
            "key=sk_live_canary&list=1&list=ask_live_canary",
        ),
        ({"json": {"a": [{"key": secret()}, 1]}}, '{"a":[{"key":"sk_live_canary"},1]}'),
        ({"body": secret(form="token: {}")}, "token: sk_live_canary"),
        ({"form": {"key": secret(), "n": 1}}, "key=sk_live_canary&n=1"),
    ],
)
async def test_a_secret_is_sent_in_its_place(place, expected, context):
    async with serve(always(answer(200))) as server:
        await send(context, server.port, method="POST", url=server.url("/v1"), **place)
    sent = server.requests[0]
    assert expected in [sent.headers.get("authorization"), sent.headers.get("cookie"), sent.body.decode()] or (
        sent.target == f"/v1?{expected}"
    )


async def test_a_secret_may_be_the_end_of_the_url(context):
    async with serve(always(answer(200))) as server:
        await send(context, server.port, url=secret("T0/B0/xxxxxxxx", form=server.url("/hooks/") + "{}"))
    assert server.requests[0].target == "/hooks/T0/B0/xxxxxxxx"


PLACES = [
    {"headers": {"X-Key": secret(hosts=["api.example.com"])}},
    {"query": {"key": secret(hosts=["api.example.com"])}},
    {"json": [secret(hosts=["api.example.com"])]},
    {"body": secret(hosts=["127.0.0.1:1"])},
    {"form": {"key": secret(hosts=["*.example.com"])}},
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: next(iter(place)))
async def test_a_secret_for_another_host_is_not_sent_and_not_told(place, context):
    async with serve(always(answer(200))) as server:
        error = await failure(context, server.port, method="POST", url=server.url(), **place)
    assert (error.error_code, error.retryable, server.connections) == ("secret_host_not_allowed", False, 0)
    assert "127.0.0.1" in error.detail
    assert "sk_live" not in error.detail


@pytest.mark.parametrize(
    ("status", "place", "location"),
    [
        (307, {"json": {"key": secret(VALUE)}}, "/"),
        (308, {"form": {"key": secret(VALUE)}}, "/"),
        (307, {"body": secret(VALUE)}, "/"),
        (307, {"headers": {"User-Agent": secret("sk_live_canary")}}, "/"),
        (302, {"headers": {"X-Key": secret("sk_live_canary")}}, "/?stolen=sk_live_canary"),
        (302, {"query": {"key": secret(VALUE)}}, "/{query}"),
        (303, {"headers": {"X-Key": secret("sk_live_canary")}}, f"/{base64.b64encode(b'sk_live_canary').decode()}"),
    ],
)
async def test_a_redirect_takes_no_secret_to_another_host(status, place, location, context):
    async with serve(always(answer(200)), OTHER_LOOPBACK) as evil:

        async def redirect(request, reader, writer):
            target = location.format(query=request.target.removeprefix("/"))
            writer.write(answer(status, b"", ("Location", evil.url(target))))

        async with serve(redirect) as server:
            error = await failure(context, server.port, evil.port, method="POST", url=server.url(), **place)
    assert (error.error_code, evil.connections) == ("secret_host_not_allowed", 0)


async def test_a_redirect_that_leaves_the_secret_behind_is_followed(context):
    async with serve(always(answer(200, b"file")), OTHER_LOOPBACK) as storage:
        async with serve(redirect_to(storage.url("/signed"))) as server:
            headers = {"Authorization": secret(form="Bearer {}")}
            output = await send(context, server.port, storage.port, url=server.url(), headers=headers)
    assert output["body"] == "file"
    assert "authorization" not in storage.requests[0].headers


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "sk_live_\x00nul", "sk_live ", "日本語の鍵です"])
async def test_a_value_that_cannot_be_a_header_is_refused_without_being_told(value, context):
    async with serve(always(answer(200))) as server:
        error = await failure(context, server.port, url=server.url(), headers={"Authorization": secret(value)})
    assert (error.error_code, error.retryable, server.connections) == ("invalid_header_value", False, 0)
    assert value.strip() not in error.detail


@pytest.mark.parametrize("value", ["${{ x\r\nX-Evil: 1", "${{日本", "a\r\nb", " "])
async def test_data_is_never_a_header_it_must_not_be_even_if_it_looks_like_an_expression(value, context):
    async with serve(always(answer(200))) as server:
        error = await failure(context, server.port, url=server.url(), headers={"X-Data": value})
    assert (error.error_code, server.connections) == ("invalid_header_value", 0)


@pytest.mark.parametrize("place", ["headers", "query", "form"])
async def test_data_cannot_name_a_secret(place, context):
    async with serve(always(answer(200))) as server:
        error = await failure(
            context, server.port, method="POST", url=server.url(), **{place: {"x": {"$secret": "key"}}}
        )
        assert error.error_code in {"secret_not_allowed", "invalid_header_value"}
        await send(context, server.port, method="POST", url=server.url(), json={"x": {"$secret": "key"}})
    assert [request.body for request in server.requests] == [b'{"x":{"$secret":"key"}}'], "just data"


@pytest.mark.parametrize(
    ("pattern", "host", "port", "allowed"),
    [
        ("api.example.com", "api.example.com", 443, True),
        ("api.example.com", "API.example.com.", 8443, True),
        ("api.example.com:8443", "api.example.com", 8443, True),
        ("api.example.com:8443", "api.example.com", 443, False),
        ("example.com", "api.example.com", 443, False),
        ("*.example.com", "a.b.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("*.example.com", "evilexample.com", 443, False),
        ("api.example.com", "api.example.com.evil.org", 443, False),
        ("10.0.0.1", "10.0.0.1", 80, True),
        ("[::1]", "::1", 80, True),
        ("[::1]:81", "::1", 80, False),
    ],
)
def test_hosts_are_matched_exactly(pattern, host, port, allowed):
    assert host_problem(pattern) is None
    assert host_allowed([pattern], host, port) is allowed


@pytest.mark.parametrize(
    "pattern",
    ["", "*", "*.com", "a*.example.com", "https://api.example.com", "api.example.com/", "API.example.com", "a b", "a:b",
     "user@example.com", "example..com", ".example.com", "ex\nample.com", "*.*.example.com", "*.0.0.1", "*.0.0.1:80"],
)  # fmt: skip
def test_what_is_no_host_is_refused(pattern):
    assert host_problem(pattern)


@pytest.mark.parametrize(
    ("config", "code", "pointer"),
    [
        ({"message": {"$secret": "key"}}, "secret_not_allowed", "/message"),
        ({"headers": {"A/B": {"$secret": 1}}}, "invalid_secret_reference", "/headers/A~1B"),
        ({"headers": {"A": {"$secret": "${{ input }}"}}}, "invalid_secret_reference", "/headers/A"),
        ({"headers": {"A": {"$secret": "key", "format": "no place"}}}, "invalid_secret_reference", "/headers/A"),
        ({"headers": {"A": {"$secret": "key", "format": "{} and {}"}}}, "invalid_secret_reference", "/headers/A"),
        ({"headers": {"A": {"$secret": "key", "else": 1}}}, "invalid_secret_reference", "/headers/A"),
        ({"$secret": "key"}, "secret_not_allowed", ""),
    ],
)
def test_a_reference_has_its_shape_and_its_place(config, code, pointer):
    uses, problems = secret_uses(config, frozenset({"headers"}))
    assert not uses
    assert [(problem.code, problem.pointer) for problem in problems] == [(code, pointer)]


def test_an_opened_secret_is_never_written_by_accident():
    opened = secret("sk_live_canary")
    assert "canary" not in f"{opened} {opened!r} {[opened]}"
