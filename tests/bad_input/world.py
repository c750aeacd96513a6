"""What the catalogue's cases are sent to: two organisations with one of everything, and every credential that fails."""

import base64
import hmac
import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jose import jwk

from app import clock
from app.auth.opaque import new_api_key, new_refresh_token, ticket_hash
from app.auth.permissions import Role
from app.auth.secret import derive
from app.auth.tokens import AccessTokens
from tests.api.control_calls import add_approval
from tests.api.live import Live, Member, Organization
from tests.bad_input.canaries import Canaries
from tests.database import SECRET

PASSWORD = "correct horse battery staple"
STEP = {"id": "greet", "type": "set", "with": {"text": "Hello"}}
STRICT_INPUT = {
    "type": "object",
    "properties": {"n": {"type": "integer", "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}


@dataclass
class World:
    """`names` stand for <words> of the catalogue, `credentials` for what `as` names."""

    live: Live
    names: dict[str, Any]
    credentials: dict[str, str | None]


async def make_world(live: Live, canaries: Canaries) -> World:
    ours, theirs = await live.organization(), await live.organization()
    owner = await ours.member(Role.OWNER)
    names = graphs() | expressions() | words()
    names |= {"canary": str(canaries.port), "canary6": str(canaries.port6), "canary_path": canaries.path}
    names |= await things(live, ours, owner) | {
        f"foreign_{name}": value for name, value in (await things(live, theirs, await theirs.member())).items()
    }
    names |= {"other_org": theirs.id, "token": owner.token, "url": live.url}
    names |= await tickets(live, owner, names["waiting"])
    foreign = await tickets(live, await theirs.member(), names["foreign_waiting"])
    names["foreign_ticket"] = foreign["ticket_0"]
    keys = await api_keys(live, ours, owner)
    refresh = await refresh_tokens(live, ours)
    names |= {"api_key": keys["api_key"], **refresh}
    credentials: dict[str, str | None] = {
        "owner": owner.token,
        "nobody": None,
        "refresh_token": refresh["refresh_token"],
    }
    credentials |= {role.value: (await ours.member(role)).token for role in (Role.VIEWER, Role.MEMBER)}
    credentials |= keys | forged(owner) | await ended(live, ours, theirs)
    return World(live, names, credentials)


async def things(live: Live, organization: Organization, owner: Member) -> dict[str, str]:
    """Executions in several states, and what belongs to them; nothing of it changes by itself."""
    async with owner.http() as client:

        async def save(definition: dict[str, Any]) -> str:
            return str((await client.post("/api/v1/workflows", json=definition)).json()["id"])

        async def run(workflow_id: str, **more: Any) -> dict[str, Any]:
            headers = {"Prefer": "wait=20", **more}
            body = {"workflow_id": workflow_id, "input": 1}
            found: dict[str, Any] = (await client.post("/api/v1/executions", json=body, headers=headers)).json()
            return found

        workflow = await save({"name": "Greet", "steps": [STEP]})
        strict = await save({"name": "Strict", "input": STRICT_INPUT, "steps": [STEP]})
        failing = await save({"name": "Fail", "steps": [{"id": "boom", "type": "fail", "with": {"message": "x"}}]})
        wait = {"id": "wait", "type": "wait_for_signal", "with": {"signal": "go"}}
        waiting = await save({"name": "Wait", "steps": [wait]})
        ended, failed = await run(workflow, **{"Idempotency-Key": "used"}), await run(failing)
        await run(workflow)
        body = {"workflow_id": waiting}
        held = (await client.post("/api/v1/executions", json=body)).json()["id"]
        async with client.stream(
            "GET", f"/api/v1/executions/{held}/events", headers={"Accept": "text/event-stream"}
        ) as events:
            async for line in events.aiter_lines():
                if "step_waiting" in line:
                    break
        form = {"type": "object", "properties": {"limit": {"type": "number"}}, "required": ["limit"]}
        approval = await add_approval(live.database, ended, form=form)
        decided = await add_approval(live.database, ended)
        await live.database.execute("UPDATE approvals SET status = 'APPROVED' WHERE id = $1", decided)
        cursor = (await client.get("/api/v1/executions?limit=1")).json()["next_cursor"]
        of_workflows = (await client.get("/api/v1/workflows?limit=1")).json()["next_cursor"]
    return {
        "workflow": workflow,
        "strict": strict,
        "ended": ended["id"],
        "execution": ended["id"],
        "failed": failed["id"],
        "waiting": held,
        "approval": approval,
        "decided": decided,
        "cursor": cursor,
        "cut_cursor": cursor[:-3],
        "altered_cursor": cursor[:-1] + ("A" if cursor[-1] != "A" else "B"),
        "workflow_cursor": of_workflows,
    }


def words() -> dict[str, Any]:
    return {
        "long": "x" * 300,
        "long300": "k" * 300,
        "very_long": "x" * 2_500,
        "very_long_url": "https://example.com/" + "x" * 9_000,
        "text_33k": "a" * 33_000,
        "text_100k": "a" * 100_000,
        "headers_101": [f"X-{number}: 1" for number in range(101)],
        "unique": clock.new_id("x")[-8:],
    }


def graphs() -> dict[str, Any]:
    def steps(count: int, needs: Any = lambda index: []) -> list[dict[str, Any]]:
        return [{"id": f"s{index}", "type": "set", "needs": needs(index)} for index in range(count)]

    dense = [
        {"id": f"s{index}", "type": "set", "needs": [f"s{before}" for before in range(max(0, index - 31), index)]}
        for index in range(99)
    ]
    return {
        "steps_501": steps(501),
        "steps_10000": steps(10_000),
        "chain_201": steps(201, lambda index: [f"s{index - 1}"] if index else []),
        "parents_33": steps(34, lambda index: [f"s{before}" for before in range(33)] if index == 33 else []),
        "edges_2001": dense,
        "needs_50000": ["a"] * 50_000,
    }


def expressions() -> dict[str, Any]:
    def inside(source: str) -> str:
        return "${{ " + source + " }}"

    loops = "1"
    for depth in range(8):
        loops = f"[1].map(x{depth}, {loops})"
    return {
        "expressions_5001": ["${{ 1 }}"] * 5_001,
        "expressions_4000_of_input": ["${{ input.size() }}"] * 4_000,
        "text_of_expressions_5001": "${{ 1 }}" * 5_001,
        "labels_33": {f"k{number}": "v" for number in range(33)},
        "labels_50000": {f"k {number}": "v" for number in range(50_000)},
        "expression_100k": inside("1 + " * 25_000 + "1"),
        "parentheses_900": inside("(" * 900 + "1" + ")" * 900),
        "lists_900": inside("[" * 900 + "]" * 900),
        "ternary_300": inside("true ? 1 : " * 150 + "1"),
        "maps_300": inside('{"a": ' * 150 + "1" + "}" * 150),
        "calls_300": inside("size(" * 300 + "[]" + ")" * 300),
        "loops_8": inside(loops),
    }


async def api_keys(live: Live, organization: Organization, owner: Member) -> dict[str, str]:
    async with owner.http() as client:

        async def make(**fields: Any) -> dict[str, Any]:
            answer = await client.post("/api/v1/api-keys", json={"name": "key", **fields})
            assert answer.status_code == 201, answer.text
            found: dict[str, Any] = answer.json()
            return found

        good, expired, revoked = [await make() for _ in range(3)]
        reader, starter = await make(scopes=["executions.read"]), await make(scopes=["executions.execute"])
        await client.delete(f"/api/v1/api-keys/{revoked['id']}")
    await live.database.execute("UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE id = $1", expired["id"])
    leaver = await organization.member(Role.MEMBER)
    async with leaver.http() as client:
        left = (await client.post("/api/v1/api-keys", json={"name": "key"})).json()
    await live.database.execute("DELETE FROM memberships WHERE user_id = $1", leaver.user_id)
    key = good["key"]
    return {
        "api_key": key,
        "reader_key": reader["key"],
        "starter_key": starter["key"],
        "key_expired": expired["key"],
        "key_revoked": revoked["key"],
        "key_of_removed_member": left["key"],
        "key_wrong_crc": key[:-1] + ("a" if key[-1] != "a" else "b"),
        "key_wrong_secret": new_api_key(good["id"], clock.new_secret(32)),
        "key_unknown": new_api_key(clock.new_id("key"), clock.new_secret(32)),
        "key_upper_case": key.upper(),
        "key_cut": key[:-7],
        "key_twice": f"{key} {key}",
        "key_with_nul": f"{key}%00",
    }


async def tickets(live: Live, owner: Member, execution_id: str) -> dict[str, str]:
    async with owner.http() as client:

        async def make(wanted: str | None = execution_id, **headers: str) -> str:
            answer = await client.post("/api/v1/stream-tickets", json={"execution_id": wanted}, headers=headers)
            return str(answer.json()["ticket"])

        good = {f"ticket_{number}": await make() for number in range(3)}
        used, expired = await make(), await make()
        of_site, of_organization = await make(Origin="https://ui.example"), await make(None)
    execute = live.database.execute
    await execute("DELETE FROM stream_tickets WHERE secret_hash = $1", ticket_hash(used))
    late = "UPDATE stream_tickets SET expires_at = now() - interval '1 s' WHERE secret_hash = $1"
    await execute(late, ticket_hash(expired))
    # Tickets live for half a minute; these are for tests that come later.
    await execute("UPDATE stream_tickets SET expires_at = now() + interval '1 hour' WHERE expires_at > now()")
    return good | {
        "used_ticket": used, "expired_ticket": expired, "sites_ticket": of_site, "org_ticket": of_organization,
    }  # fmt: skip


async def refresh_tokens(live: Live, organization: Organization) -> dict[str, str]:
    email = f"{clock.new_id('user')}@example.com"
    user_id = await live.services.identity.add_user(email, "Ann", PASSWORD)
    await live.services.identity.add_membership(organization.id, user_id, Role.MEMBER)
    async with live.http() as client:
        form = {"username": email, "password": PASSWORD}
        first, other = [(await client.post("/api/v1/auth/token", data=form)).json()["refresh_token"] for _ in range(2)]
        await client.post("/api/v1/auth/refresh", json={"refresh_token": first})
    return {
        "used_refresh_token": first,
        "refresh_token": other,
        "cut_refresh_token": other[:-1],
        "forged_refresh_token": new_refresh_token(clock.new_id("rt"), clock.new_secret(32)),
    }


async def ended(live: Live, ours: Organization, theirs: Organization) -> dict[str, str]:
    """Tokens that were good once, or are good elsewhere."""
    removed, disabled, changed = [await ours.member(Role.MEMBER) for _ in range(3)]
    execute = live.database.execute
    await execute("DELETE FROM memberships WHERE user_id = $1", removed.user_id)
    await execute("UPDATE users SET disabled = true WHERE id = $1", disabled.user_id)
    await execute("UPDATE users SET token_version = token_version + 1 WHERE id = $1", changed.user_id)

    def token(user_id: str, org_id: str) -> str:
        return AccessTokens(SECRET.encode()).issue(user_id, org_id, 1, clock.now(), clock.new_id("jti"))[0]

    return {
        "of_removed_member": removed.token,
        "of_disabled_user": disabled.token,
        "of_changed_password": changed.token,
        "of_no_user": token("user_none", ours.id),
        "of_no_organization": token(removed.user_id, "org_none"),
        "of_other_organization": token(changed.user_id, theirs.id),
    }


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def forged(owner: Member) -> dict[str, str]:
    """Access tokens that are right in everything but one thing, by that thing."""
    now = int(clock.now().timestamp())
    good: dict[str, Any] = {
        "iss": "stepstream", "aud": "stepstream-api", "sub": owner.user_id, "org": owner.organization.id,
        "jti": "jti_x", "iat": now, "exp": now + 600, "tv": 1,
    }  # fmt: skip
    key = derive(SECRET.encode(), "jwt:1")

    def token(header: Any = None, claims: Any = None, secret: bytes = key, digest: str = "sha256") -> str:
        head = {"alg": "HS256", "typ": "at+jwt", "kid": "1"} | (header or {})
        parts = [part if isinstance(part, str) else json.dumps(part) for part in (head, claims or good)]
        signed = ".".join(b64(part.encode()) for part in parts)
        return f"{signed}.{b64(hmac.new(secret, signed.encode(), digest).digest())}"

    def without(name: str) -> dict[str, Any]:
        return {key: value for key, value in good.items() if key != name}

    public = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    jwk_text = json.dumps({name: str(value) for name, value in jwk.construct(pem, "RS256").to_dict().items()})
    right, _ = AccessTokens(SECRET.encode()).issue(owner.user_id, owner.organization.id, 1, clock.now(), "jti_x")
    head, body, signature = right.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return {
        "alg_none": token({"alg": "none"}),
        "alg_none_unsigned": token({"alg": "none"}).rpartition(".")[0] + ".",
        "alg_hs256_lower": token({"alg": "hs256"}),
        "alg_hs384": token({"alg": "HS384"}, digest="sha384"),
        "alg_hs512": token({"alg": "HS512"}, digest="sha512"),
        "alg_rs256_pem": token({"alg": "RS256"}, secret=pem),
        "alg_rs256_der": token(secret=der),
        "alg_rs256_jwk": token(secret=jwk_text.encode()),
        "expired": token(claims=good | {"iat": now - 700, "exp": now - 100}),
        "not_before": token(claims=good | {"nbf": now + 300}),
        "future": token(claims=good | {"iat": now + 100, "exp": now + 400}),
        "long_life": token(claims=good | {"exp": now + 100_000}),
        "no_aud": token(claims=without("aud")),
        "aud_list": token(claims=good | {"aud": ["stepstream-api", "other"]}),
        "aud_other": token(claims=good | {"aud": "other"}),
        "iss_other": token(claims=good | {"iss": "https://evil.example"}),
        "kid_unknown": token({"kid": "2"}),
        "kid_path": token({"kid": "../../etc/passwd"}),
        "kid_sql": token({"kid": "' OR 1=1 --"}),
        "kid_long": token({"kid": "k" * 2_500}),
        "kid_array": token({"kid": ["1"]}),
        "jku": token({"jku": "http://127.0.0.1/keys"}),
        "x5u": token({"x5u": "http://127.0.0.1/cert"}),
        "jwk": token({"jwk": {"kty": "oct", "k": "AAAA"}}),
        "x5c": token({"x5c": ["AAAA"]}),
        "crit": token({"crit": ["exp"]}),
        "b64_false": token({"b64": False}),
        "zip": token({"zip": "DEF"}),
        "altered_signature": f"{head}.{body}.{signature[:10]}{'A' if signature[10] != 'A' else 'B'}{signature[11:]}",
        "altered_claims": f"{head}.{b64(json.dumps(good | {'tv': 2}).encode())}.{signature}",
        "trailing_bits": right[:-1] + alphabet[alphabet.index(right[-1]) ^ 1],
        "refresh_type": token({"typ": "rt+jwt"}),
        "other_deployment": token(secret=derive(b"another deployment's secret of 32 bytes", "jwt:1")),
        "exp_text": token(claims=good | {"exp": str(now + 600)}),
        "exp_infinite": token(claims=json.dumps(good).replace(str(now + 600), "1e400")),
        "exp_float": token(claims=good | {"exp": now + 600.5}),
        "deep_claims": token(claims="[" * 1_200 + "]" * 1_200),
        "no_jti": token(claims=without("jti")),
        "no_org": token(claims=without("org")),
        "huge": "a" * 10_000,
        "sub_other": token(claims=good | {"sub": ""}),
        "empty_parts": "..",
        "extra_claim": token(claims=good | {"role": "owner"}),
    }
