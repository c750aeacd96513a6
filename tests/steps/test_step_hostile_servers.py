"""A hostile server costs a step no more than its own limits, and its failure has a precise code."""

import asyncio
import gzip
import zlib

import pytest
from step_fakes import LOOPBACK, always, answer, code_of, door, get, serve

from app.domain.errors import StepError
from app.steps.decoding import BodyReader

OK = always(answer(200, b"ok"))


async def test_a_body_that_announces_too_much_is_not_read():
    async with serve(always(answer(200, b"", length=10**9))) as server, door(server.port) as outbound:
        assert await code_of(get(outbound, server.url())) == "response_too_large"


async def test_an_endless_body_ends_at_the_limit():
    async def handler(request, reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not reader.at_eof():
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with serve(handler) as server, door(server.port) as outbound:
        assert await code_of(get(outbound, server.url())) == "response_too_large"


async def test_a_body_within_the_limit_is_whole():
    async with serve(always(answer(200, b"x" * 100_000))) as server, door(server.port) as outbound:
        assert (await get(outbound, server.url())).body == b"x" * 100_000
        assert await code_of(get(outbound, server.url(), max_bytes=99_999)) == "response_too_large"


async def test_a_body_that_drips_ends_at_the_deadline():
    async def handler(request, reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x")
            try:
                await asyncio.wait_for(reader.read(1), 0.02)
            except TimeoutError:
                continue
            return

    async with serve(handler) as server, door(server.port) as outbound:
        with pytest.raises(StepError) as caught:
            await get(outbound, server.url("/slow?key=s3cret"), timeout=0.3)
        assert (caught.value.error_code, caught.value.retryable) == ("request_timeout", True)
        assert caught.value.detail == f"GET {server.url('/slow')} got no complete answer within 0.3 s"


async def test_a_server_that_says_nothing_ends_at_the_deadline():
    async def handler(request, reader, writer):
        await reader.read()

    async with serve(handler) as server, door(server.port) as outbound:
        assert await code_of(get(outbound, server.url(), timeout=0.2)) == "request_timeout"


async def test_a_flood_of_informational_answers_ends_at_the_deadline():
    async def handler(request, reader, writer):
        while not reader.at_eof():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
            await writer.drain()

    async with serve(handler) as server, door(server.port) as outbound:
        assert await code_of(get(outbound, server.url(), timeout=0.3)) == "request_timeout"


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nX-Big: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        answer(200, b"hello", length=50),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_answers_that_are_not_http_or_cut_off_are_told_apart_from_failed_connections(response):
    async def handler(request, reader, writer):
        writer.write(response)
        raise ConnectionError

    async with serve(handler) as server, door(server.port) as outbound:
        assert await code_of(get(outbound, server.url())) == "invalid_response"


async def test_a_connection_reset_in_the_body_may_be_tried_again():
    async def handler(request, reader, writer):
        writer.write(answer(200, b"half", length=1000))
        await writer.drain()
        writer.transport.get_extra_info("socket").setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.transport.abort()
        raise ConnectionError

    async with serve(handler) as server, door(server.port) as outbound:
        with pytest.raises(StepError) as caught:
            await get(outbound, server.url())
        assert (caught.value.error_code, caught.value.retryable) == ("connection_lost", True)


async def test_a_refused_connection_may_be_tried_again():
    async with serve(OK) as server:
        port = server.port
    async with door(port) as outbound:
        with pytest.raises(StepError) as caught:
            await get(outbound, f"http://{LOOPBACK}:{port}/")
    assert (caught.value.error_code, caught.value.retryable) == ("connect_failed", True)


@pytest.mark.parametrize(("encoding", "squeeze"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_answer_is_decoded_and_a_bomb_is_stopped(encoding, squeeze):
    bomb = squeeze(bytes(50_000_000))
    small = squeeze(b"hello " * 1000)

    async def handler(request, reader, writer):
        writer.write(answer(200, bomb if request.target == "/bomb" else small, ("Content-Encoding", encoding)))

    async with serve(handler) as server, door(server.port) as outbound:
        assert (await get(outbound, server.url())).body == b"hello " * 1000
        assert await code_of(get(outbound, server.url("/bomb"))) == "response_too_large"


def test_a_bomb_is_never_held_in_memory():
    reader = BodyReader("gzip", 100_000, "GET x")
    with pytest.raises(StepError, match="larger than 100000 bytes"):
        reader.feed(gzip.compress(bytes(50_000_000)))
    assert len(reader._decoded) <= 100_000 + 65_536


def test_a_compressed_body_arrives_in_any_pieces():
    plain = b"".join(b"%d," % number for number in range(40_000))
    for size in (1, 7, 65_536):
        reader = BodyReader("gzip", 1_000_000, "GET x")
        packed = gzip.compress(plain)
        for start in range(0, len(packed), size):
            reader.feed(packed[start : start + size])
        assert reader.finish() == plain


@pytest.mark.parametrize("wbits", [-zlib.MAX_WBITS, zlib.MAX_WBITS, 16 + zlib.MAX_WBITS])
@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 65_540, 131_073, 500_001])
def test_a_run_of_one_byte_is_decoded_to_its_last_byte(size, wbits):
    packer = zlib.compressobj(wbits=wbits)
    reader = BodyReader("gzip" if wbits > zlib.MAX_WBITS else "deflate", 1_000_000, "GET x")
    reader.feed(packer.compress(bytes(size)) + packer.flush())
    assert len(reader.finish()) == size


def test_deflate_without_its_header_is_decoded_too():
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    reader = BodyReader("deflate", 1_000, "GET x")
    reader.feed(packer.compress(b"hello") + packer.flush())
    assert reader.finish() == b"hello"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("br", b"x"),
        ("gzip, gzip", b"x"),
        ("gzip", b"not gzip"),
        ("gzip", gzip.compress(b"hello")[:-4]),
        ("gzip", gzip.compress(b"hello") + gzip.compress(b"again")),
    ],
)
async def test_a_body_that_cannot_be_decoded_is_no_answer(encoding, body):
    response = answer(200, body, ("Content-Encoding", encoding))
    async with serve(always(response)) as server, door(server.port) as outbound:
        assert await code_of(get(outbound, server.url())) == "invalid_response"


async def test_head_and_204_have_no_body_to_wait_for():
    async with serve(always(answer(200, b"", length=10**9))) as server, door(server.port) as outbound:
        assert (await get(outbound, server.url(), "HEAD")).body == b""
    async with serve(always(b"HTTP/1.1 204 No Content\r\n\r\n")) as server, door(server.port) as outbound:
        assert (await get(outbound, server.url())).body == b""
