"""The `http.request` step: what it sends, what it hands on, how it fails."""

import base64
from datetime import UTC, datetime

import pytest
from step_fakes import always, answer, door, redirect_to, serve, steps

from app import clock
from app.domain.errors import StepError
from app.domain.schemas import compile_schema
from app.steps.http_request import HttpRequestStep, retry_after

SAVED_AS_FORBIDDEN = [
    "http://127.0.0.1/", "http://localhost/", "http://0x7f000001/", "http://2130706433/", "http://[::ffff:7f00:1]/",
    "http://169.254.169.254/latest/meta-data", "http://metadata.google.internal/", "file:///etc/passwd",
    "http://example.com:22/", "http://user:pw@example.com/", "http://good.example#@evil.example/",
    "http://exam\nple.com/", "http://a\\b/",
]  # fmt: skip


async def send(context, port, **config):
    async with steps(port) as library:
        done = await library["http.request"].run(context, config)
    return done.output


async def failure(context, port, **config):
    with pytest.raises(StepError) as caught:
        await send(context, port, **config)
    return caught.value


async def test_a_json_answer_becomes_the_output(context):
    body = b'{"leads": [1, null], "name": "\xc3\xa4"}'
    async with serve(always(answer(200, body, ("Content-Type", "application/json"), ("X-Two", "2")))) as server:
        output = await send(context, server.port, url=server.url("/v1?key=s3cret"))
    assert output.pop("elapsed_ms") >= 0
    assert output == {
        "status": 200,
        "headers": {"content-length": str(len(body)), "content-type": "application/json", "x-two": "2"},
        "body": {"leads": [1, None], "name": "ä"},
        "url": server.url("/v1"),
    }


async def test_the_output_fits_its_own_schema(context):
    async with serve(always(answer(200, b"x"))) as server, steps(server.port) as library:
        step = library["http.request"]
        done = await step.run(context, {"url": server.url()})
        assert compile_schema(dict(step.spec.output_schema)).is_valid(done.output)


@pytest.mark.parametrize(
    ("content_type", "parse", "raw", "body"),
    [
        ("application/problem+json; charset=utf-8", "auto", b"[1]", [1]),
        ("application/json", "auto", b"<html>", "<html>"),
        ("text/plain", "auto", b"[1]", "[1]"),
        ("text/plain", "json", b"[1]", [1]),
        ("application/json", "text", b"[1]", "[1]"),
        ("text/plain; charset=iso-8859-1", "auto", "é".encode("latin-1"), "é"),
        ('text/plain; charset="UTF-16"', "auto", "é".encode("utf-16"), "é"),
        ("text/plain; charset=unicode_escape", "auto", b"\\ud800", "\\ud800"),
        ("text/plain; charset=zip", "auto", b"x", "x"),
        ("text/plain", "auto", b"\xff\x00", "\ufffd\x00"),
        ("image/png", "base64", b"\xff\x00", base64.b64encode(b"\xff\x00").decode()),
        ("application/json", "auto", b"", None),
    ],
)
async def test_bodies_are_parsed_as_asked_or_as_they_say(content_type, parse, raw, body, context):
    async with serve(always(answer(200, raw, ("Content-Type", content_type)))) as server:
        assert (await send(context, server.port, url=server.url(), parse=parse))["body"] == body


@pytest.mark.parametrize("raw", [b"<html>", b"NaN", b'"\\ud800"', b"[" * 5_000])
async def test_a_body_that_had_to_be_json_and_is_not_fails_for_good(raw, context):
    async with serve(always(answer(200, raw))) as server:
        error = await failure(context, server.port, url=server.url("/x?k=s3cret"), parse="json")
    assert (error.error_code, error.retryable) == ("invalid_response", False)
    assert "s3cret" not in error.detail


@pytest.mark.parametrize(
    ("config", "content_type", "sent"),
    [
        ({"json": {"a": [True, None, "ä"]}}, "application/json", '{"a":[true,null,"ä"]}'.encode()),
        ({"json": False}, "application/json", b"false"),
        ({"body": "plain ä"}, "text/plain; charset=utf-8", "plain ä".encode()),
        ({"form": {"a": "1 &", "b": ["x", 2]}}, "application/x-www-form-urlencoded", b"a=1+%26&b=x&b=2"),
        ({"json": {}, "headers": {"content-TYPE": "application/ld+json"}}, "application/ld+json", b"{}"),
        ({"json": None, "body": None}, None, b""),
    ],
)  # fmt: skip
async def test_bodies_are_sent_with_their_type(config, content_type, sent, context):
    async with serve(always(answer())) as server:
        await send(context, server.port, url=server.url(), method="POST", **config)
    assert (server.requests[0].headers.get("content-type"), server.requests[0].body) == (content_type, sent)


async def test_the_query_is_added_encoded(context):
    query = {"q": "a b&c", "n": 5, "on": True, "many": ["x", "y"], "none": None}
    async with serve(always(answer())) as server:
        await send(context, server.port, url=server.url("/s?first=1"), query=query)
        await send(context, server.port, url=server.url("/s"), query={"q": 1})
    assert [request.target for request in server.requests] == [
        "/s?first=1&q=a+b%26c&n=5&on=true&many=x&many=y", "/s?q=1",
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
async def test_requests_with_an_effect_carry_the_key_of_the_step(method, context):
    async with serve(always(answer())) as server:
        await send(context, server.port, url=server.url(), method=method)
    sent = server.requests[0].headers.get("idempotency-key")
    assert sent == (None if method in ("GET", "HEAD", "OPTIONS") else context.idempotency_key)


async def test_an_idempotency_key_of_the_author_counts(context):
    async with serve(always(answer())) as server:
        await send(context, server.port, url=server.url(), method="POST", headers={"idempotency-KEY": "mine"})
    assert server.requests[0].headers["idempotency-key"] == "mine"


async def test_a_request_says_how_many_runs_led_to_it_whatever_its_author_says(context):
    context.hops = 3
    async with serve(always(answer())) as other, serve(redirect_to(other.url())) as server:
        async with door(server.port, other.port) as outbound:
            config = {"url": server.url(), "headers": {"Stepstream-Hops": "0"}}
            await HttpRequestStep(outbound, 1_000).run(context, config)
    assert [requests[0].headers["stepstream-hops"] for requests in (server.requests, other.requests)] == ["4", "4"]


async def test_no_compression_is_asked_for(context):
    async with serve(always(answer())) as server:
        await send(context, server.port, url=server.url())
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("status", "retryable"),
    [*((status, False) for status in (400, 401, 404, 409)), *((status, True) for status in (408, 425, 429, 500, 503))],
)
async def test_a_status_that_is_no_success_fails_and_says_whether_again_helps(status, retryable, context):
    response = answer(status, b"s3cret body", ("Retry-After", "7"))
    async with serve(always(response)) as server:
        error = await failure(context, server.port, url=server.url("/path?key=s3cret"))
    assert error.error_code == "http_status"
    assert error.retryable is retryable
    assert error.retry_after == (7.0 if retryable else None)
    assert error.detail.startswith(f"GET {server.url('/path')} answered {status} ")
    assert "s3cret" not in error.detail


async def test_the_phrase_of_a_status_is_ours_not_the_servers(context):
    async with serve(always(answer(503))) as server:
        error = await failure(context, server.port, url=server.url("/"))
    assert error.detail == f"GET {server.url('/')} answered 503 Service Unavailable"
    async with serve(always(answer(599))) as server:
        assert (await failure(context, server.port, url=server.url("/"))).detail.endswith("answered 599")


@pytest.mark.parametrize("expected", [[404], ["4xx"], [200, "402-404"]])
async def test_the_author_says_what_is_success(expected, context):
    async with serve(always(answer(404, b"gone"))) as server:
        output = await send(context, server.port, url=server.url(), expect_status=expected)
        assert (output["status"], output["body"]) == (404, "gone")
        error = await failure(context, server.port, url=server.url(), expect_status=["2xx", 403, "405-499"])
        assert error.error_code == "http_status"


async def test_a_redirect_is_followed_and_the_final_place_shown(context):
    async with serve(always(answer(200, b"there"))) as target:
        async with (
            serve(redirect_to(target.url("/there?code=s3cret"))) as server,
            steps(server.port, target.port) as library,
        ):
            done = await library["http.request"].run(context, {"url": server.url()})
    assert (done.output["body"], done.output["url"]) == ("there", target.url("/there"))


async def test_a_body_is_never_larger_than_an_output_may_be(context):
    async with serve(always(answer(200, b"x" * 2_000))) as server:
        async with steps(server.port, max_output=1_024) as library:
            with pytest.raises(StepError) as caught:
                await library["http.request"].run(context, {"url": server.url(), "max_bytes": 1_000_000})
    assert caught.value.error_code == "response_too_large"


@pytest.mark.parametrize("url", SAVED_AS_FORBIDDEN)
async def test_a_literal_url_that_may_not_be_called_is_found_when_saved(url):
    async with steps(80, cidrs=[]) as library:
        found = library["http.request"].check({"url": url})
    assert [(problem.code, problem.pointer) for problem in found] == [("url_not_allowed", "/url")]
    assert "pw" not in found[0].detail


async def test_a_url_with_a_template_is_judged_at_the_run(context):
    async with serve(always(answer())) as canary, steps(canary.port, cidrs=[]) as library:
        step = library["http.request"]
        assert step.check({"url": "http://${{ input.host }}/"}) == []
        with pytest.raises(StepError) as caught:
            await step.run(context, {"url": canary.url()})
        assert (caught.value.error_code, caught.value.retryable) == ("ssrf_blocked", False)
        assert canary.connections == 0


@pytest.mark.parametrize("url", ["http://a b/", "nonsense", "http://x/\r\nHost: y", "http://x/#y"])
async def test_a_malformed_url_fails_for_good(url, context):
    error = await failure(context, 80, url=url)
    assert (error.error_code, error.retryable) == ("invalid_url", False)


BAD_HEADERS = [
    ("X-A", "a\r\nX-B: b"), ("X-A", "a\nb"), ("X-A", "a\x00b"), ("X-A", "€"), ("X-A", " a"), ("X-A", "x" * 9_000),
    ("X A", "a"), ("X-A:", "a"), ("X-A\r\nX-B", "b"), ("", "a"), ("Xä", "a"), ("Host", "evil"), ("content-length", "5"),
    ("Transfer-Encoding", "chunked"), ("Connection", "close"), ("Upgrade", "h2c"), ("TE", "trailers"), ("Trailer", "x"),
    ("Keep-Alive", "1"), ("Proxy-Connection", "x"), ("Authorization", "Bearer s3cret"), ("cookie", "a=b"),
    ("Proxy-Authorization", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_HEADERS)
async def test_headers_that_could_forge_or_leak_are_refused_when_saved_and_at_the_run(name, value, context):
    async with serve(always(answer())) as canary, steps(canary.port) as library:
        step = library["http.request"]
        found = step.check({"url": canary.url(), "headers": {name: value}})
        assert [problem.code for problem in found] == ["invalid_header_value"]
        assert found[0].pointer.startswith("/headers/")
        assert "s3cret" not in found[0].detail
        with pytest.raises(StepError) as caught:
            await step.run(context, {"url": canary.url(), "headers": {name: value}})
        assert (caught.value.error_code, caught.value.retryable) == ("invalid_header_value", False)
        assert "s3cret" not in caught.value.detail
        assert canary.connections == 0


async def test_a_header_given_twice_is_refused():
    async with steps(80) as library:
        found = library["http.request"].check({"url": "http://example.com/", "headers": {"X-A": "1", "x-a": "2"}})
    assert [problem.pointer for problem in found] == ["/headers/x-a"]


async def test_header_values_with_templates_are_left_for_the_run():
    async with steps(80) as library:
        config = {"url": "http://example.com/", "headers": {"X-A": "${{ input }}\n"}}
        assert library["http.request"].check(config) == []


async def test_latin_1_header_values_are_sent_as_they_are(context):
    async with serve(always(answer())) as server:
        await send(context, server.port, url=server.url(), headers={"X-Name": "Zoë"})
    assert server.requests[0].headers["x-name"] == "Zoë"


@pytest.mark.parametrize("extra", [{"json": {}, "body": "x"}, {"body": "x", "form": {}}, {"json": 1, "form": {}}])
async def test_only_one_body_is_allowed(extra, context):
    async with steps(80) as library:
        found = library["http.request"].check({"url": "http://example.com/", "method": "POST", **extra})
    assert [problem.code for problem in found] == ["invalid_config"]
    assert (await failure(context, 80, url="http://example.com/", **extra)).error_code == "invalid_config"


@pytest.mark.parametrize("extra", [{"body": "\ud800"}, {"query": {"q": "\ud800"}}, {"json": "\ud800"}])
async def test_text_that_cannot_be_encoded_fails_for_good(extra, context):
    error = await failure(context, 80, url="http://example.com/", **extra)
    assert (error.error_code, error.retryable) == ("invalid_config", False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0), ("0", 0.0), ("999999", 3600.0), ("Tue, 01 Jan 2030 00:00:30 GMT", 30.0),
        ("Mon, 31 Dec 2029 00:00:00 GMT", 0.0), ("Wed, 02 Jan 2030 00:00:00 GMT", 3600.0), ("", None), ("soon", None),
        ("-5", None), ("1.5", None), ("9" * 400, None),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date_and_at_most_an_hour(text, seconds, monkeypatch):
    monkeypatch.setattr(clock, "now", lambda: datetime(2030, 1, 1, tzinfo=UTC))
    assert retry_after(text) == seconds
