import json
from collections.abc import Callable
from datetime import timedelta

import jwt as another_library
import pytest
from auth_fakes import MASTER, NOW, b64, forge, good_claims, good_header
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jose import jwk, jwt

from app.auth.errors import INVALID_TOKEN
from app.auth.permissions import Permission
from app.auth.secret import derive
from app.auth.tokens import AccessTokens, _RingKey
from app.domain.errors import Unauthenticated

TOKENS = AccessTokens(MASTER)
ISSUED = int(NOW.timestamp())

ids = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="_-"), min_size=1, max_size=64)


def assert_refused(token: str, seconds: float = 0.0, tokens: AccessTokens = TOKENS) -> None:
    with pytest.raises(Unauthenticated) as refused:
        tokens.verify(token, NOW + timedelta(seconds=seconds))
    assert refused.value.error_code == "invalid_token"
    assert refused.value.detail == INVALID_TOKEN
    assert refused.value.__cause__ is not None


def claims_with(**changes: object) -> dict[str, object]:
    return good_claims() | changes


def claims_without(name: str) -> dict[str, object]:
    return {key: value for key, value in good_claims().items() if key != name}


def header_with(**changes: object) -> dict[str, object]:
    return good_header() | changes


@settings(deadline=None)
@given(
    user=ids,
    org=ids,
    jti=ids,
    version=st.integers(0, 2**31),
    scopes=st.none() | st.frozensets(st.sampled_from([str(p) for p in Permission])),
    age=st.floats(0, 600),
)
def test_what_was_issued_is_what_verifies(
    user: str, org: str, jti: str, version: int, scopes: frozenset[str] | None, age: float
) -> None:
    token, expires_at = TOKENS.issue(user, org, version, NOW, jti, scopes=scopes)
    claims = TOKENS.verify(token, NOW + timedelta(seconds=age))
    assert (claims.sub, claims.org, claims.jti, claims.tv, claims.scopes) == (user, org, jti, version, scopes)
    assert claims.expires_at == expires_at == NOW + timedelta(seconds=600)


@settings(deadline=None)
@given(
    st.text()
    | st.binary().map(b64)
    | st.tuples(st.binary(), st.binary(), st.binary()).map(lambda parts: ".".join(map(b64, parts)))
)
def test_arbitrary_text_is_refused_and_never_crashes(text: str) -> None:
    assert_refused(text)


@settings(deadline=None)
@given(position=st.integers(0), replacement=st.characters())
def test_no_character_of_a_token_can_be_changed(position: int, replacement: str) -> None:
    token, _ = TOKENS.issue("user_a", "org_a", 1, NOW, "jti_a")
    at = position % len(token)
    changed = token[:at] + replacement + token[at + 1 :]
    if changed != token:
        assert_refused(changed)


def test_the_hand_made_token_is_valid_so_that_the_refusals_below_mean_something() -> None:
    assert TOKENS.verify(forge(), NOW).sub == "user_a"


def test_header_and_claims_are_exactly_these() -> None:
    token, _ = TOKENS.issue("user_a", "org_a", 7, NOW, "jti_a")
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "at+jwt", "kid": "1"}
    assert jwt.get_unverified_claims(token) == good_claims() | {"tv": 7}


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", "hs256", "HS384", "HS512", "RS256", None, 1, ["HS256"]]
)
def test_any_other_algorithm_in_the_header_is_refused(algorithm: object) -> None:
    assert_refused(forge(header_with(alg=algorithm)))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "HS256"])
def test_an_unsigned_token_is_refused(algorithm: str) -> None:
    unsigned = forge(header_with(alg=algorithm)).rsplit(".", 1)[0]
    assert_refused(f"{unsigned}.")
    assert_refused(unsigned)


@pytest.mark.parametrize(("algorithm", "digest"), [("HS384", "sha384"), ("HS512", "sha512"), ("HS256", "sha512")])
def test_a_signature_by_another_hash_is_refused(algorithm: str, digest: str) -> None:
    assert_refused(forge(header_with(alg=algorithm), digest=digest))


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_forms(key: rsa.RSAPrivateKey) -> dict[str, bytes]:
    public = key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    members = {name: str(text) for name, text in jwk.construct(pem, "RS256").to_dict().items()}
    return {
        "pem": pem,
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(members).encode(),
    }


@pytest.mark.parametrize("form", ["pem", "der", "jwk"])
def test_a_public_key_used_as_hmac_secret_is_refused_even_by_a_ring_that_holds_that_key(
    rsa_key: rsa.RSAPrivateKey, form: str
) -> None:
    forms = public_forms(rsa_key)
    tokens = AccessTokens(MASTER)
    tokens._ring["1"] = _RingKey("RS256", jwk.construct(forms["pem"], "RS256"))
    assert_refused(forge(key=forms[form]), tokens=tokens)
    assert_refused(forge(header_with(alg="RS256"), key=forms[form]), tokens=tokens)
    assert_refused(forge(key=forms[form]))


def test_the_bare_library_accepts_the_der_confusion_that_the_wrapper_is_there_for(rsa_key: rsa.RSAPrivateKey) -> None:
    der = public_forms(rsa_key)["der"]
    options = {"verify_exp": False, "verify_aud": False}
    assert jwt.decode(forge(key=der), der, algorithms=["RS256", "HS256"], options=options)["sub"] == "user_a"


def test_a_ring_of_public_keys_accepts_that_algorithm_only(rsa_key: rsa.RSAPrivateKey) -> None:
    tokens = AccessTokens(MASTER)
    tokens._ring["1"] = _RingKey("RS256", jwk.construct(public_forms(rsa_key)["pem"], "RS256"))
    signed = forge(header_with(alg="RS256")).rsplit(".", 1)[0]
    token = f"{signed}.{b64(rsa_key.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"
    assert tokens.verify(token, NOW).sub == "user_a"
    assert_refused(token)
    assert_refused(forge(), tokens=tokens)


def test_a_token_ends_thirty_seconds_after_exp() -> None:
    TOKENS.verify(forge(), NOW + timedelta(seconds=629.9))
    assert_refused(forge(), 630)
    assert_refused(forge(), 10**8)


def test_a_token_from_the_future_is_accepted_within_thirty_seconds_only() -> None:
    TOKENS.verify(forge(), NOW - timedelta(seconds=30))
    assert_refused(forge(), -30.1)


def test_the_given_time_counts_and_not_the_wall_clock() -> None:
    long_ago, _ = TOKENS.issue("user_a", "org_a", 1, NOW - timedelta(days=36_500), "jti_a")
    assert TOKENS.verify(long_ago, NOW - timedelta(days=36_500)).sub == "user_a"
    assert_refused(long_ago)


@pytest.mark.parametrize(
    ("issued", "expires"),
    [
        (ISSUED, ISSUED + 601),
        (ISSUED, ISSUED),
        (ISSUED, ISSUED - 1),
        (ISSUED - 10**6, ISSUED + 60),
        (-(10**300), -(10**300) + 60),
        (10**300, 10**300 + 60),
    ],
)
def test_a_lifetime_we_would_not_give_is_refused(issued: int, expires: int) -> None:
    assert_refused(forge(claims=claims_with(iat=issued, exp=expires)))


@pytest.mark.parametrize("name", ["exp", "iat"])
@pytest.mark.parametrize("value", [str(ISSUED + 60), ISSUED + 60.0, True, None, [ISSUED + 60], {}])
def test_a_time_that_is_no_integer_is_refused(name: str, value: object) -> None:
    assert_refused(forge(claims=claims_with(**{name: value})))


@pytest.mark.parametrize("literal", ["1e400", "-1e400", "NaN", "Infinity", "1" * 500, "-" + "1" * 500])
@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
def test_times_without_bounds_are_refused(name: str, literal: str) -> None:
    text = json.dumps(claims_with(**{name: 0})).replace(f'"{name}": 0', f'"{name}": {literal}')
    assert literal in text
    assert_refused(forge(claims=text))


def test_a_not_before_is_refused_like_every_claim_we_do_not_issue() -> None:
    assert_refused(forge(claims=claims_with(nbf=ISSUED + 3600)))
    assert_refused(forge(claims=claims_with(admin=True)))


@pytest.mark.parametrize("name", sorted(good_claims()))
def test_every_claim_is_required(name: str) -> None:
    assert_refused(forge(claims=claims_without(name)))


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "other"},
        {"aud": ["stepstream-api"]},
        {"aud": ["stepstream-api", "other"]},
        {"aud": None},
        {"iss": "other"},
        {"iss": ["stepstream"]},
        {"sub": ""},
        {"sub": 1},
        {"sub": "u" * 65},
        {"org": None},
        {"jti": 1},
        {"tv": "1"},
        {"tv": True},
        {"scp": "executions.read"},
        {"scp": [1]},
    ],
)
def test_a_claim_of_another_value_or_type_is_refused(changes: dict[str, object]) -> None:
    assert_refused(forge(claims=claims_with(**changes)))


@pytest.mark.parametrize(
    "kid", ["2", "", "../../etc/passwd", "' OR 1=1", "k" * 10_000, "k" * 400, ["1"], {"1": "1"}, 1, None, "jwt:1"]
)
def test_a_kid_outside_the_ring_is_refused(kid: object) -> None:
    assert_refused(forge(header_with(kid=kid)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jku", "https://example.org/keys"),
        ("x5u", "https://example.org/cert"),
        ("jwk", {"kty": "oct", "k": "AAAA"}),
        ("x5c", ["AAAA"]),
        ("crit", ["exp"]),
        ("b64", False),
        ("zip", "DEF"),
        ("cty", "JWT"),
    ],
)
def test_any_further_header_member_is_refused(name: str, value: object) -> None:
    assert_refused(forge(header_with(**{name: value})))


@pytest.mark.parametrize("name", ["alg", "typ", "kid"])
def test_every_header_member_is_required(name: str) -> None:
    assert_refused(forge({key: value for key, value in good_header().items() if key != name}))


@pytest.mark.parametrize("kind", ["JWT", "rt+jwt", "AT+JWT", "at+jwt ", None])
def test_another_type_of_token_is_refused(kind: object) -> None:
    assert_refused(forge(header_with(typ=kind)))


@pytest.mark.parametrize(
    "header",
    [
        '{"alg":"none","alg":"HS256","typ":"at+jwt","kid":"1"}',
        '{"alg":"HS256","typ":"at+jwt","kid":"1"} ' + "{}",
        '["alg","typ","kid"]',
        "null",
        "",
        "[" * 400,
        '{"alg":"HS256","typ":"at+jwt","kid":NaN}',
        '{"alg":"HS256","typ":"at+jwt","kid":"1"}' + " " * 500,
    ],
)
def test_a_header_that_is_no_small_plain_object_is_refused(header: str) -> None:
    assert_refused(forge(header))


@pytest.mark.parametrize(
    "claims", ["[" * 1400 + "]" * 1400, '{"a":' * 480 + "1" + "}" * 480, "null", "[]", '"x"', "{", "", "\ufeff{}"]
)
def test_claims_that_are_no_plain_object_are_refused(claims: str) -> None:
    assert_refused(forge(claims=claims))


@pytest.mark.parametrize(
    "respell",
    [
        lambda token: token + "=",
        lambda token: token + " ",
        lambda token: " " + token,
        lambda token: token + "\n",
        lambda token: token.replace(".", "..", 1),
        lambda token: token + ".",
        lambda token: token + ".AAAA",
        lambda token: token[:-1] + _sibling(token[-1]),
        lambda token: token[:-5] + "\n" + token[-5:],
        lambda token: token[:-5] + "+" + token[-5:],
        lambda token: token.upper(),
    ],
)
def test_a_token_has_one_spelling(respell: Callable[[str], str]) -> None:
    assert_refused(respell(forge()))


def _sibling(character: str) -> str:
    """A base64url character that decodes to the same two trailing bytes in the last place of 32 bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(character) ^ 1]


def test_a_token_beyond_the_size_cap_is_refused_though_it_is_signed() -> None:
    assert_refused(forge(claims=json.dumps(good_claims()) + " " * 4096))
    assert_refused("a." * 2_500_000)


def test_non_ascii_text_is_refused() -> None:
    assert_refused(forge().replace("e", "е", 1))  # noqa: RUF001 - the Cyrillic letter


def test_a_token_of_another_deployment_is_refused() -> None:
    token, _ = AccessTokens(b"another master secret of at least 32 bytes").issue("user_a", "org_a", 1, NOW, "jti_a")
    assert_refused(token)


def test_opaque_credentials_are_no_access_tokens() -> None:
    for prefix in ("sk", "rt"):
        assert_refused(f"{prefix}_01jg0000000000000000000000_{'A' * 49}")


def test_rotation_accepts_both_live_keys_and_signs_with_the_first() -> None:
    old = AccessTokens(MASTER, kids=("1",))
    both = AccessTokens(MASTER, kids=("2", "1"))
    new = AccessTokens(MASTER, kids=("2",))
    from_old, _ = old.issue("user_a", "org_a", 1, NOW, "jti_a")
    from_both, _ = both.issue("user_a", "org_a", 1, NOW, "jti_b")
    assert both.verify(from_old, NOW).jti == "jti_a"
    assert jwt.get_unverified_header(from_both)["kid"] == "2"
    assert new.verify(from_both, NOW).jti == "jti_b"
    assert_refused(from_old, tokens=new)
    assert_refused(from_both, tokens=old)


def test_a_key_does_not_verify_under_another_kid() -> None:
    assert_refused(forge(header_with(kid="2")), tokens=AccessTokens(MASTER, kids=("1", "2")))


def test_the_lifetime_is_a_setting() -> None:
    tokens = AccessTokens(MASTER, 60.0)
    token, expires_at = tokens.issue("user_a", "org_a", 1, NOW, "jti_a")
    assert expires_at == NOW + timedelta(seconds=60)
    assert_refused(token, 90, tokens)


def test_the_cause_of_a_refusal_does_not_repeat_the_claims() -> None:
    with pytest.raises(Unauthenticated) as refused:
        TOKENS.verify(forge(claims=claims_with(extra="a private value")), NOW)
    assert "a private value" not in str(refused.value.__cause__)


def read_by_another_library(token: str) -> object:
    return another_library.decode(
        token, derive(MASTER, "jwt:1"), algorithms=["HS256"], audience="stepstream-api", issuer="stepstream",
        options={"require": list(good_claims()), "verify_exp": False, "verify_iat": False},
    )  # fmt: skip


def test_another_library_reads_the_same_tokens_alike_and_could_stand_in() -> None:
    token, _ = TOKENS.issue("user_a", "org_a", 1, NOW, "jti_a")
    assert read_by_another_library(token) == TOKENS.verify(token, NOW).model_dump(exclude_none=True) == good_claims()
    for forged in (
        forge(header_with(alg="none")),
        forge(header_with(alg="HS384"), digest="sha384"),
        forge(key=b"another key of at least thirty-two bytes"),
        forge(claims=claims_without("jti")),
        forge(claims=claims_with(aud="other")),
        forge(claims=claims_with(iss="other")),
        forge(header_with(crit=["exp"])),
        f"{forge()[:-5]}AAAAA",
    ):
        assert_refused(forged)
        with pytest.raises(another_library.InvalidTokenError):
            read_by_another_library(forged)
