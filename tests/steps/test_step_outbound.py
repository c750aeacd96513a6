"""The door for HTTP out holds against hostile names and redirects. Canaries count the connections that got by."""

import asyncio
import datetime as dt
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from step_fakes import LOOPBACK, OTHER_LOOPBACK, always, answer, code_of, door, get, redirect_to, serve

from app import clock
from app.domain.errors import StepError
from app.steps import outbound as outbound_module

OK = always(answer(200, b"ok"))


def names(**hosts):
    """A resolver; a name with a list of lists answers differently each time. The questions are on `.asked`."""
    answers = {host.replace("_", "."): list(found) for host, found in hosts.items()}

    async def resolve(host, port):
        resolve.asked.append(host)
        if host not in answers:
            return [host]
        found = answers[host]
        return found.pop(0) if isinstance(found[0], list) else found

    resolve.asked = []
    return resolve


async def test_a_request_to_an_allowed_place_is_answered():
    async with serve(OK) as server, door(server.port) as outbound:
        response = await get(outbound, server.url("/a?b=c"), headers=[("X-One", "1")])
        assert (response.status, response.body, str(response.url)) == (200, b"ok", server.url("/a?b=c"))
        (request,) = server.requests
        assert (request.method, request.target, request.headers["x-one"]) == ("GET", "/a?b=c", "1")
        assert request.headers["host"] == f"{LOOPBACK}:{server.port}"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "0", "0x7f000001", "2130706433", "0177.0.0.1", "127.1", "①②⑦.⓪.⓪.①", "[::1]", "[::]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "localhost.", "a.localhost",
    ],
)  # fmt: skip
async def test_no_spelling_of_loopback_is_reached(host):
    async with serve(OK) as canary, door(canary.port, cidrs=[]) as outbound:
        assert await code_of(get(outbound, f"http://{host}:{canary.port}/")) == "ssrf_blocked"
        assert canary.connections == 0


async def test_the_backend_checks_by_itself_what_the_url_rule_would_let_through():
    async with serve(OK) as canary, door(canary.port, cidrs=[]) as outbound:
        for host in ("127.0.0.1", "2130706433", "127.1", "localhost"):
            assert await code_of(outbound._backend.connect_tcp(host, canary.port)) == "ssrf_blocked"
        assert canary.connections == 0


async def test_a_port_outside_the_list_is_not_reached():
    async with serve(OK) as canary, door(80, 443) as outbound:
        assert await code_of(get(outbound, canary.url())) == "ssrf_blocked"
        assert await code_of(outbound._backend.connect_tcp(LOOPBACK, canary.port)) == "ssrf_blocked"
        assert canary.connections == 0


async def test_a_name_for_a_private_address_is_blocked_without_telling_the_address():
    resolver = names(intranet_test=[OTHER_LOOPBACK])
    async with serve(OK, OTHER_LOOPBACK) as canary, door(canary.port, resolver=resolver) as outbound:
        with pytest.raises(StepError) as caught:
            await get(outbound, f"http://intranet.test:{canary.port}/?key=s3cret")
        assert (caught.value.error_code, caught.value.retryable) == ("ssrf_blocked", False)
        assert OTHER_LOOPBACK not in caught.value.detail
        assert "s3cret" not in caught.value.detail
        assert canary.connections == 0


@pytest.mark.parametrize("answers", [[LOOPBACK, OTHER_LOOPBACK], [OTHER_LOOPBACK, LOOPBACK], [LOOPBACK, "::1"]])
async def test_a_name_with_one_address_that_is_not_allowed_is_blocked_as_a_whole(answers):
    async with serve(OK) as server, serve(OK, OTHER_LOOPBACK, server.port) as canary:
        async with door(server.port, resolver=names(mixed_test=answers)) as outbound:
            assert await code_of(get(outbound, f"http://mixed.test:{server.port}/")) == "ssrf_blocked"
        assert (server.connections, canary.connections) == (0, 0)


async def test_the_checked_address_is_the_one_connected_to_and_every_new_connection_is_checked_again():
    resolver = names(turning_test=[[LOOPBACK], [OTHER_LOOPBACK]])
    closing = always(answer(200, b"ok", ("Connection", "close")))
    async with serve(closing) as server, serve(OK, OTHER_LOOPBACK, server.port) as canary:
        async with door(server.port, resolver=resolver) as outbound:
            url = f"http://turning.test:{server.port}/"
            assert (await get(outbound, url)).status == 200
            assert resolver.asked == ["turning.test"]
            assert server.requests[0].headers["host"] == f"turning.test:{server.port}"
            assert await code_of(get(outbound, url)) == "ssrf_blocked"
        assert (server.connections, canary.connections) == (1, 0)


async def test_a_kept_connection_needs_no_second_look():
    resolver = names(turning_test=[[LOOPBACK], [OTHER_LOOPBACK]])
    async with serve(OK) as server, door(server.port, resolver=resolver) as outbound:
        url = f"http://turning.test:{server.port}/"
        assert [(await get(outbound, url)).status for _ in range(2)] == [200, 200]
        assert server.connections == 1


async def test_a_request_with_an_effect_takes_a_connection_of_its_own():
    async with serve(OK) as server, door(server.port) as outbound:
        for method in ("GET", "POST", "POST", "DELETE", "GET"):
            assert (await get(outbound, server.url(), method)).status == 200
        assert server.connections == 4


async def test_a_name_that_does_not_resolve_may_be_tried_again():
    async def nobody(host, port):
        raise OSError("no such name")

    async with door(80, resolver=nobody) as outbound:
        with pytest.raises(StepError, match=r"nobody\.test") as caught:
            await get(outbound, "http://nobody.test/")
    assert (caught.value.error_code, caught.value.retryable) == ("connect_failed", True)


async def test_the_next_address_is_tried_when_one_does_not_answer():
    cidrs = [f"{LOOPBACK}/32", f"{OTHER_LOOPBACK}/32"]
    async with serve(OK) as server:
        async with door(server.port, cidrs=cidrs, resolver=names(two_test=[OTHER_LOOPBACK, LOOPBACK])) as outbound:
            assert (await get(outbound, f"http://two.test:{server.port}/")).status == 200


async def test_the_service_does_not_call_itself():
    async with serve(OK) as server, door(server.port, own_port=server.port) as outbound:
        assert await code_of(get(outbound, server.url())) == "ssrf_blocked"
        assert server.connections == 0


async def test_unix_sockets_are_refused():
    async with door(80) as outbound:
        assert await code_of(outbound._backend.connect_unix_socket("/run/x.sock")) == "ssrf_blocked"


async def test_proxies_of_the_environment_are_ignored(monkeypatch):
    async with serve(OK) as server, serve(OK) as canary:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, canary.url())
        async with door(server.port, canary.port) as outbound:
            assert (await get(outbound, server.url())).status == 200
        assert (server.connections, canary.connections) == (1, 0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_a_forbidden_place_is_blocked(status):
    async with serve(OK, OTHER_LOOPBACK) as canary:
        async with serve(redirect_to(canary.url("/latest"), status)) as server:
            async with door(server.port, canary.port) as outbound:
                assert await code_of(get(outbound, server.url())) == "ssrf_blocked"
        assert canary.connections == 0


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("file:///etc/passwd", "ssrf_blocked"),
        ("http://user:pw@127.0.0.1/", "ssrf_blocked"),
        ("//127.0.0.1:22/", "ssrf_blocked"),
        ("http://[::1", "invalid_url"),
        ("http://exa\tmple/", "invalid_url"),
    ],
)
async def test_a_redirect_to_something_else_is_refused(location, code):
    async with serve(redirect_to(location)) as server, door(server.port) as outbound:
        assert await code_of(get(outbound, server.url())) == code


async def test_an_endless_redirect_ends():
    async with serve(redirect_to("/again?token=s3cret#x")) as server, door(server.port) as outbound:
        with pytest.raises(StepError) as caught:
            await get(outbound, server.url())
        assert (caught.value.error_code, caught.value.retryable) == ("too_many_redirects", False)
        assert "s3cret" not in caught.value.detail
        assert len(server.requests) == 4


async def test_redirects_can_be_left_to_the_author():
    async with serve(redirect_to("/next")) as server, door(server.port) as outbound:
        response = await get(outbound, server.url(), follow_redirects=False)
        assert (response.status, response.headers["location"], len(server.requests)) == (302, "/next", 1)


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [(302, "POST", "GET"), (303, "PUT", "GET"), (307, "POST", "POST"), (308, "PUT", "PUT"), (303, "HEAD", "HEAD")],
)
async def test_a_redirect_changes_the_method_as_the_standard_says(status, method, then):
    async def handler(request, reader, writer):
        writer.write(answer(200, b"" if method == "HEAD" else b"ok") if request.target == "/next" else redirect)

    redirect = answer(status, b"", ("Location", "/next"))
    async with serve(handler) as server, door(server.port) as outbound:
        await get(outbound, server.url(), method, [("Content-Type", "text/plain")], b"" if method == "HEAD" else b"hi")
        second = server.requests[1]
        assert second.method == then
        assert (second.body, second.headers.get("content-type")) == (
            (b"", None) if then == "GET" else (server.requests[0].body, "text/plain")
        )


async def test_credentials_do_not_follow_a_redirect_to_another_origin():
    secret = [("Authorization", "Bearer x"), ("Cookie", "a=b"), ("X-Api-Key", "k"), ("Accept", "text/x"), ("X-Ä", "é")]
    secret = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in secret[:4]]
    async with serve(OK) as other, serve(redirect_to(other.url())) as server:
        async with door(server.port, other.port) as outbound:
            await get(outbound, server.url(), headers=[*secret, (b"X-Latin", "é".encode("latin-1"))])
        assert {"authorization", "cookie", "x-api-key"} <= set(server.requests[0].headers)
        assert server.requests[0].headers["x-latin"] == "é"
        assert set(other.requests[0].headers) == {"host", "accept"}


async def test_credentials_stay_on_a_redirect_within_one_origin():
    async def handler(request, reader, writer):
        writer.write(answer(200) if request.target == "/next" else answer(302, b"", ("Location", "/next")))

    async with serve(handler) as server, door(server.port) as outbound:
        await get(outbound, server.url(), headers=[("Authorization", "Bearer x")])
        assert server.requests[1].headers["authorization"] == "Bearer x"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for good.test that signs itself: server context, and a client context that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "good.test")])
    now = clock.now()
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("good.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, private)
    return server, ssl.create_default_context(cafile=str(chain))


async def test_a_certificate_nobody_trusts_fails_for_good(certificate):
    async with serve(OK, tls=certificate[0]) as server:
        async with door(server.port, resolver=names(good_test=[LOOPBACK])) as outbound:
            with pytest.raises(StepError, match="certificate") as caught:
                await get(outbound, f"https://good.test:{server.port}/")
        assert (caught.value.error_code, caught.value.retryable) == ("tls_failed", False)
        assert server.requests == []


async def test_the_certificate_is_checked_against_the_name_not_the_address(certificate, monkeypatch):
    monkeypatch.setattr(outbound_module.httpx, "create_ssl_context", lambda **_: certificate[1])
    async with serve(OK, tls=certificate[0]) as server:
        resolver = names(good_test=[LOOPBACK], bad_test=[LOOPBACK])
        async with door(server.port, resolver=resolver) as outbound:
            assert (await get(outbound, f"https://good.test:{server.port}/")).body == b"ok"
            assert await code_of(get(outbound, f"https://bad.test:{server.port}/")) == "tls_failed"


async def test_a_redirect_from_https_to_http_is_refused(certificate, monkeypatch):
    monkeypatch.setattr(outbound_module.httpx, "create_ssl_context", lambda **_: certificate[1])
    async with serve(OK) as plain, serve(redirect_to(plain.url()), tls=certificate[0]) as server:
        async with door(server.port, plain.port, resolver=names(good_test=[LOOPBACK])) as outbound:
            assert await code_of(get(outbound, f"https://good.test:{server.port}/")) == "ssrf_blocked"
        assert plain.connections == 0


async def test_talking_tls_to_a_server_without_it_is_a_tls_failure():
    async def plain(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(plain, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with door(port) as outbound:
            with pytest.raises(StepError) as caught:
                await get(outbound, f"https://{LOOPBACK}:{port}/")
    assert (caught.value.error_code, caught.value.retryable) == ("tls_failed", True)
