"""Which addresses and URLs steps may reach. Pure rules; `app.steps.outbound` applies them to every connection.

Public addresses only, on few ports. What looks public but leads inside (transition formats, metadata services) is
listed by hand, because the standard library and most lists of private ranges call it public.
"""

import ipaddress
import re
import socket
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import httpx

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 8_192

_REFUSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",  # carrier-grade NAT, with a cloud's metadata service in it
        "168.63.129.16/32",  # a cloud's host agent, in the middle of public space
        "192.0.0.0/24",
        "192.88.99.0/24",
        "64:ff9b::/96",  # these six carry an IPv4 address inside or route to one
        "64:ff9b:1::/48",
        "2001::/23",
        "2002::/16",
        "::/96",
        "::ffff:0:0:0/96",
        "3fff::/20",
        "5f00::/16",
        "100:0:0:1::/64",
        "fec0::/10",
    )
)

# Names that are known to lead inside before anyone asks a resolver.
_KNOWN_NAMES = {
    "localhost": ipaddress.ip_address("127.0.0.1"),
    "localhost.localdomain": ipaddress.ip_address("127.0.0.1"),
    "ip6-localhost": ipaddress.ip_address("::1"),
    "metadata": ipaddress.ip_address("169.254.169.254"),
    "metadata.google.internal": ipaddress.ip_address("169.254.169.254"),
    "instance-data": ipaddress.ip_address("169.254.169.254"),
    "instance-data.ec2.internal": ipaddress.ip_address("169.254.169.254"),
}

NOT_PUBLIC = "its host is not a public address, nor one that the operator has allowed (STEPSTREAM_EGRESS_ALLOW_CIDRS)"

_SCHEME = re.compile(r"(https?)://", re.IGNORECASE)
_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_NUMERIC_HOST = re.compile(r"[0-9][0-9a-fx.]*", re.IGNORECASE)
_HOST_NAME = re.compile(rb"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a URL may not be called. `malformed` tells a URL that is no good anywhere from one that is not allowed."""

    reason: str
    malformed: bool = False


@dataclass(frozen=True, slots=True)
class EgressRule:
    """Where steps may connect to: public addresses and the `allowed` networks, on `ports`."""

    allowed: tuple[Network, ...]
    ports: frozenset[int]

    def allows(self, address: Address) -> bool:
        """Whether an address may be connected to."""
        address = unmapped(address)
        if any(address.version == network.version and address in network for network in self.allowed):
            return True
        if not address.is_global or address.is_multicast or address.is_reserved:
            return False
        return not any(address.version == network.version and address in network for network in _REFUSED)

    def refusal(self, url: str) -> Refusal | None:
        """Why this URL may not be called, as far as its text tells; host names are judged when they are resolved."""
        if malformed := _malformed(url):
            return malformed
        authority = re.split(r"[/?]", url.split("://", 1)[1], maxsplit=1)[0]
        if "@" in authority:
            return Refusal("it carries a user name or password")
        host = re.sub(r":[0-9]*$", "", authority)
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError):
            return self._host_refusal(host) or Refusal("it is not a valid URL", malformed=True)
        if not parsed.host:
            return Refusal("it has no host", malformed=True)
        port = port_of(parsed)
        if port not in self.ports:
            return Refusal(f"port {port} is not among the ports that steps may use (STEPSTREAM_EGRESS_PORTS)")
        return self._host_refusal(host) or self._host_refusal(parsed.raw_host.decode("ascii"), final=True)

    def _host_refusal(self, host: str, *, final: bool = False) -> Refusal | None:
        address = host_address(host)
        if address is not None:
            return None if self.allows(address) else Refusal(NOT_PUBLIC)
        if final and not _HOST_NAME.fullmatch(host.encode()):
            return Refusal("its host is not a valid name", malformed=True)
        return None


def egress_rule(cidrs: Iterable[str], ports: Iterable[int]) -> EgressRule:
    """The rule of a deployment; raises ValueError naming the text that is no network."""
    networks = []
    for text in cidrs:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise ValueError(f"'{text}' is not a network such as 10.0.0.0/8") from None
    return EgressRule(tuple(networks), frozenset(ports))


def host_address(host: str) -> Address | None:
    """The address that a host text stands for without asking anyone: literals in all the forms resolvers take."""
    name = unicodedata.normalize("NFKC", host).strip("[]").rstrip(".").lower()
    if name.endswith(".localhost"):
        name = "localhost"
    if name in _KNOWN_NAMES:
        return _KNOWN_NAMES[name]
    try:
        return unmapped(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        pass
    if not _NUMERIC_HOST.fullmatch(name):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(name))
    except OSError:
        return None


def unmapped(address: Address) -> Address:
    """The IPv4 address inside an IPv4-mapped IPv6 one; any other as it is."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def port_of(url: httpx.URL) -> int:
    """The port a URL leads to."""
    if url.port is not None:
        return url.port
    return 443 if url.scheme == "https" else 80


def target_of(url: httpx.URL) -> tuple[str, int]:
    """The host, as it stands in certificates, and the port."""
    return url.raw_host.decode("ascii").lower().strip("[]"), port_of(url)


def origin(url: str) -> str:
    """The scheme, host and port that a URL leads to, as text; the beginning of one that is none."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        return url[:300]
    return f"{parsed.scheme}://{parsed.host}:{port_of(parsed)}"


def place(url: httpx.URL) -> str:
    """A URL for people: without user, password, query and fragment, where credentials hide; at most 300 characters.

    A longer one loses its whole path: half a secret could not be recognised and cut out.
    """
    shown = str(url.copy_with(userinfo=b"", query=None, fragment=None))
    return shown if len(shown) <= 300 else f"{url.copy_with(userinfo=b'', path='/', query=None, fragment=None)}…"


def _malformed(url: str) -> Refusal | None:
    if len(url) > MAX_URL:
        return Refusal(f"it is longer than {MAX_URL} characters", malformed=True)
    if any(character.isspace() or not character.isprintable() for character in url):
        return Refusal("it has a space or a control character in it; encode it, or use `query`", malformed=True)
    if "\\" in url:
        return Refusal("it has a backslash in it", malformed=True)
    if not _SCHEME.match(url):
        known = _ANY_SCHEME.match(url)
        return Refusal("it must begin with http:// or https://", malformed=known is None)
    if "#" in url:
        return Refusal("it has a fragment (`#…`), which is never sent", malformed=True)
    return None
