"""Which addresses and URLs a step may reach."""

import ipaddress

import httpx
import pytest

from app.steps.addresses import egress_rule, host_address, place

DEFAULT = egress_rule([], [80, 443])

INSIDE_HOSTS = [
    "127.0.0.1", "localhost", "LOCALHOST", "localhost.", "a.localhost", "0", "0x7f000001", "2130706433", "0177.0.0.1",
    "127.1", "0x7f.1", "①②⑦.⓪.⓪.①", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::7f00:1]",
    "[64:ff9b:1::1]", "[2002:7f00:1::]", "[fec0::1]", "[fe80::1]", "[2001::1]", "[::7f00:1]", "[3fff::1]",
    "169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.88.99.1",
    "metadata.google.internal", "METADATA.google.internal.", "10.0.0.1", "172.16.0.1", "192.168.1.1", "224.0.0.1",
    "255.255.255.255", "0.0.0.0", "[ff02::1]",
]  # fmt: skip

BAD_URLS = [
    "file:///etc/passwd", "ftp://example.com/", "gopher://example.com/", "unix:/run/x.sock", "http+unix://%2Frun/",
    "data:text/plain,x", "//example.com/", "example.com", "", "http:", "http://", "http:///x", "http:example.com",
    "http://example.com:22/", "http://example.com:25/", "http://example.com:5432/", "http://example.com:6379/",
    "http://example.com:0/", "http://example.com:99999/", "http://user@example.com/", "http://user:pw@example.com/",
    "http://@example.com/", "http://good.example#@evil.example", "http://good.example/#x", "http://exam\tple.com/",
    "http://example.com/\r\nX: y", "http://example.com/a b", "http://good.example\\@evil.example/",
    "http:\\\\x.example",
    "http://%31%32%37.0.0.1/", "http://[fe80::1%25eth0]/", "http://[::1/", "http://exa\u200bmple.com/",
    "http://a..b/", "http://\ud800/", "http://example.com/" + "x" * 8_192, "http://1.2.3.4.5.@/",
]  # fmt: skip


@pytest.mark.parametrize("host", INSIDE_HOSTS)
def test_addresses_inside_are_refused_in_every_spelling(host):
    refusal = DEFAULT.refusal(f"http://{host}/path")
    assert refusal is not None
    assert not refusal.malformed, "a well-formed URL that is not allowed, whatever the client thinks of its host"


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_that_are_not_plainly_http_to_a_host_are_refused(url):
    assert DEFAULT.refusal(url) is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com", "https://example.com/a/b?c=d@e&f=http://x", "HTTPS://EXAMPLE.com:443/", "http://8.8.8.8/",
        "http://[2606:4700::1111]/", "http://münchen.example/ä", "http://my_host.example./", "http://1password.example/",
    ],
)  # fmt: skip
def test_public_urls_are_allowed(url):
    assert DEFAULT.refusal(url) is None


def test_the_operator_may_allow_networks_and_ports():
    rule = egress_rule(["10.0.0.0/8", "fd00::/8", "127.0.0.1"], [8080])
    for url in ("http://10.1.2.3:8080/", "http://[fd00::1]:8080/", "http://localhost:8080/", "http://0x7f.1:8080/"):
        assert rule.refusal(url) is None
    for url in ("http://10.1.2.3/", "http://127.0.0.2:8080/", "http://[::1]:8080/", "http://172.16.0.1:8080/"):
        assert rule.refusal(url) is not None


def test_an_allowed_network_also_holds_for_mapped_addresses_but_no_other_disguise():
    rule = egress_rule(["127.0.0.0/8"], [80])
    assert rule.allows(ipaddress.ip_address("::ffff:127.0.0.1"))
    for text in ("64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1", "::1"):
        assert not rule.allows(ipaddress.ip_address(text))


def test_host_names_are_no_addresses():
    for host in ("example.com", "1password.example", "a.b", "x", "1.2.3.4.5", "127.0.0.1.example"):
        assert host_address(host) is None


def test_a_url_is_shown_without_what_may_be_secret():
    shown = place(httpx.URL("https://user:pw@api.example:8443/v1/things?key=s3cret#frag"))
    assert shown == "https://api.example:8443/v1/things"
    assert place(httpx.URL("https://api.example/" + "x" * 5_000)) == "https://api.example/…"
