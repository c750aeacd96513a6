"""What reads bytes of strangers, and what must hold whatever they are: a target raises only what is a bug."""

import ipaddress
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from app.api.documents import parse_yaml
from app.api.pagination import Cursors
from app.api.strict_json import MAX_DEPTH, read_json
from app.auth.opaque import parse_api_key, parse_refresh_token, ticket_hash
from app.auth.tokens import AccessTokens
from app.domain.durations import LONGEST, format_duration, parse_duration
from app.domain.errors import StepError, StepstreamError, Unauthenticated
from app.domain.expressions import Environment, Expression, ExpressionError
from app.domain.jsontext import encode
from app.domain.regex_cost import match_work, states_of
from app.domain.schemas import UnsupportedSchema, compile_schema
from app.domain.templates import TemplateCompiler
from app.domain.validation import check_definition
from app.settings import Settings
from app.steps.addresses import egress_rule, host_address
from app.steps.registry import StepRegistry, default_registry

NOW = datetime(2030, 1, 2, tzinfo=UTC)
INPUT: dict[str, Any] = {"n": 3, "text": "abc", "list": [1, 2.5, None], "map": {"a": {"b": True}}, "words": ["a", "b"]}
_TOKENS = AccessTokens(b"a master secret of thirty-two bytes and more")
_CURSORS = Cursors(b"key")
_CURSOR = _CURSORS.make("2030-01-01 exec_1", "org:list")
_GUARD = egress_rule([], [80, 443])
_ENVIRONMENT = Environment(["a"])
_registry: list[StepRegistry] = []


def json_body(data: bytes) -> None:
    """Either a refusal, or the one value that the standard library reads too, of bounded depth and without twins."""
    try:
        value = read_json(data)
    except StepstreamError:
        return
    assert json.loads(data, object_pairs_hook=_no_twins, parse_int=_number) == value
    assert _depth(value) <= MAX_DEPTH
    encode(value)


def access_token(data: bytes) -> None:
    try:
        _TOKENS.verify(data.decode("utf-8", "replace"), NOW)
    except Unauthenticated:
        return
    raise AssertionError("a token was forged")


def opaque_credential(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for parse, prefix in ((parse_api_key, "sk"), (parse_refresh_token, "rt")):
        parsed = parse(text)
        assert parsed is None or text.startswith(f"{prefix}_{parsed[0].partition('_')[2]}_{parsed[1]}")
    found = ticket_hash(text)
    assert found is None or text.isalnum()


def expression(data: bytes) -> None:
    _ENVIRONMENT._compiled = 0
    try:
        compiled = _ENVIRONMENT.compile(data.decode("utf-8", "replace"), frozenset({"a"}))
    except ExpressionError:
        return
    _evaluated(compiled)


def template(data: bytes) -> None:
    problems: list[Any] = []
    _ENVIRONMENT._compiled = 0
    compiled = TemplateCompiler(_ENVIRONMENT, frozenset({"a"}), problems).template(data.decode("utf-8", "replace"), "")
    try:
        encode(compiled.evaluate(_looked_up))
    except StepError:
        return


def url(data: bytes) -> None:
    """What is let through leads nowhere inside, by any reading of its host."""
    text = data.decode("utf-8", "surrogateescape")
    if _GUARD.refusal(text) is None:
        authority = text.split("://", 1)[1].split("/")[0].split("?")[0]
        assert "@" not in authority
        host = authority.rsplit(":", 1)[0] if not authority.endswith("]") else authority
        address = host_address(host)
        assert address is None or (address.is_global and not address.is_multicast), text
        assert not isinstance(address, ipaddress.IPv6Address) or address.ipv4_mapped is None


def cursor(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        found = _CURSORS.read(text, "org:list")
    except StepstreamError:
        return
    assert found == "2030-01-01 exec_1", "a cursor was forged"


def duration(data: bytes) -> None:
    try:
        seconds = parse_duration(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert 0 <= seconds <= LONGEST
    assert abs(parse_duration(format_duration(seconds)) - seconds) < 0.001


def yaml_body(data: bytes) -> None:
    try:
        value = parse_yaml(data)
    except StepstreamError:
        return
    assert _depth(value) <= MAX_DEPTH
    encode(value)


def definition(data: bytes) -> None:
    """Problems, never an exception; each with a pointer into the document."""
    try:
        document = parse_yaml(data)
    except StepstreamError:
        return
    for problem in check_definition(document, _library()).problems:
        assert problem.code.islower()
        assert problem.pointer == "" or problem.pointer.startswith("/")


def schema(data: bytes) -> None:
    try:
        document = read_json(data)
        if isinstance(document, dict | bool):
            list(compile_schema(document).iter_errors(INPUT))
    except (StepstreamError, UnsupportedSchema):
        return


def pattern(data: bytes) -> None:
    """Its cost is told from its text, and RE2 takes no longer."""
    text = data.decode("utf-8", "replace")
    assert match_work(states_of(text), 100) > 0
    expression(json.dumps("abc").encode() + b".matches(" + json.dumps(text, ensure_ascii=False).encode() + b")")


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        json_body, access_token, opaque_credential, expression, template, url, cursor, duration, yaml_body, definition,
        schema, pattern,
    )
}  # fmt: skip

_TOKEN, _ = _TOKENS.issue("user_a", "org_a", 1, datetime(2000, 1, 1, tzinfo=UTC), "jti_a")

SEEDS: dict[str, list[bytes]] = {
    "json_body": [
        b'{"a":[1,-2.5e3,null,true,"\\u0061\\n"],"b":{}}',
        b"[" * 40,
        b'{"a":1,"a":2}',
        b"1e400",
        b'"\\ud800"',
    ],
    "access_token": [_TOKEN.encode(), b"..", b"e30.e30.e30", _TOKEN.encode()[:-1]],
    "opaque_credential": [b"sk_01k2m3n4p5q6r7s8t9v0w1x2y3_" + b"A" * 49, b"rt_", b"A" * 43],
    "expression": [
        b"input.list.map(x, x * 2)",
        b"steps.a.output.b == 'x' ? 1 : [1, 2][0]",
        b"'%s'.format([input.text])",
        b"input.words.join(',').replace('a', 'b').matches('a.*')",
        b"has(input.map.a) && !input.map.a.b",
        b"timestamp('2030-01-01T00:00:00Z') + duration('1h')",
        b"{'a': 1}.all(k, k != '')",
        b"optional.of(1).orValue(2)",
    ],
    "template": [b"a ${{ input.n }} b ${{ '}}' }}", b"${{ {'a': {'b': 1}} }}", b"${{", b"${{ input.text // }}\n }}"],
    "url": [
        b"https://example.com/a?b=c",
        b"http://0x7f.1/",
        b"http://[::ffff:127.0.0.1]:80/",
        "http://①.example/".encode(),
    ],
    "cursor": [_CURSOR.encode(), _CURSOR.encode()[:-1], b"====", b"AAAA"],
    "duration": [b"1h30m", b"PT10M", b"500ms", b"1.5d", b"P1DT2H3M4.5S", b"0", b"366d"],
    "yaml_body": [
        b"a: [1, 2]\nb: {c: 'd'}\n",
        b"- &a 1\n- *a",
        b"a: |\n  text\n",
        b"!!set {a}",
        b"? a\n: b",
        b"--- x\n...",
    ],
    "definition": [
        b"name: a\nsteps:\n- {id: a, type: set, with: {x: '${{ input }}'}}\n- {id: b, type: log, needs: [a]}\n",
        b"name: a\ninput: {type: object}\nrisk_score: 0.5\nsteps: [{id: a, type: http.request, with: {url: 'http://0/'}}]",
        b"name: a\nsteps: [{id: a, type: delay, with: {duration: 1s}, retry: {max_attempts: 2}, for_each: [1]}]",
    ],
    "schema": [
        b'{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}',
        b'{"$ref":"#/$defs/a","$defs":{"a":true}}',
        b'{"pattern":"^(a|b)+$"}',
        b'{"$ref":"#"}',
        b'{"anyOf":[{"const":1},{"enum":[2]}],"not":{"minLength":3}}',
    ],
    "pattern": [b"(a|b){1,9}", b"[[:alpha:]]+\\pL{2}", b"(?i)x*?", b"^a$", b"(?P<n>.)"],
}


def _library() -> StepRegistry:
    if not _registry:
        _registry.append(default_registry(Settings(_env_file=None)))
    return _registry[0]


def _evaluated(compiled: Expression) -> None:
    try:
        encode(compiled.evaluate(_looked_up))
    except StepError:
        return


def _looked_up(name: str) -> Any:
    return INPUT if name in {"input", "steps.a.output"} else "text"


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _number(text: str) -> int | float:
    number = int(text)
    return number if number in range(-(1 << 63), 1 << 64) else float(text)


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    assert len(found) == len(pairs), "a key stands twice"
    return found
