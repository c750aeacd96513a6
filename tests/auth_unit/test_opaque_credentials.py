import base64
import string

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app import clock
from app.auth import opaque

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"

bare_ids = st.text(CROCKFORD, min_size=26, max_size=26)
randomness = st.binary(min_size=32, max_size=32).map(lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="))


@settings(deadline=None)
@given(bare_ids, randomness)
def test_a_key_parses_to_its_id_and_proves_its_secret(bare: str, random_text: str) -> None:
    text = opaque.new_api_key(f"key_{bare}", random_text)
    parsed = opaque.parse_api_key(text)
    assert parsed is not None
    assert parsed[0] == f"key_{bare}"
    assert text.startswith(f"sk_{bare}_{parsed[1]}")
    assert (len(text), len(parsed[1])) == (3 + 26 + 1 + 43 + 6, 43)
    assert opaque.verify_secret(parsed[1], opaque.api_key_hash(text))


@settings(deadline=None)
@given(randomness, randomness)
def test_different_randomness_gives_different_secrets(one: str, other: str) -> None:
    assume(one != other)
    assert opaque.new_ticket(one) != opaque.new_ticket(other)


@settings(deadline=None)
@given(randomness, st.integers(0), st.sampled_from(string.printable))
def test_one_changed_character_is_noticed_without_a_look_up(random_text: str, position: int, character: str) -> None:
    text = opaque.new_api_key("key_01jg0000000000000000000000", random_text)
    at = position % len(text)
    changed = text[:at] + character + text[at + 1 :]
    assume(changed != text)
    assert opaque.parse_api_key(changed) is None


@settings(deadline=None)
@given(st.text())
def test_arbitrary_text_is_no_credential(text: str) -> None:
    assert opaque.parse_api_key(text) is None
    assert opaque.parse_refresh_token(text) is None


@pytest.mark.parametrize("alter", ["{}\n", " {}", "{} ", "{}=", "x{}", "{}\x00"])
def test_nothing_may_surround_a_key(alter: str) -> None:
    text = opaque.new_api_key(clock.new_id("key"), clock.new_secret())
    assert opaque.parse_api_key(text) is not None
    assert opaque.parse_api_key(alter.format(text)) is None


def test_keys_and_refresh_tokens_do_not_stand_for_each_other() -> None:
    key = opaque.new_api_key(clock.new_id("key"), clock.new_secret())
    token = opaque.new_refresh_token(clock.new_id("rt"), clock.new_secret())
    assert opaque.parse_api_key(token) is None
    assert opaque.parse_refresh_token(key) is None
    assert opaque.parse_refresh_token(token) is not None
    with pytest.raises(ValueError, match="not the text"):
        opaque.api_key_hash(token)
    with pytest.raises(ValueError, match="not the text"):
        opaque.refresh_token_hash(key)


@pytest.mark.parametrize(
    "key_id",
    ["01jg0000000000000000000000", "key_", "key_1", "rt_01jg0000000000000000000000", "key_01JG0000000000000000000000"],
)
def test_a_key_is_made_for_a_server_made_id_only(key_id: str) -> None:
    with pytest.raises(ValueError, match="26 base32"):
        opaque.new_api_key(key_id, clock.new_secret())


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_secret_carries_exactly_256_random_bits(size: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        opaque.new_ticket(clock.new_secret(size) if size else "")


def test_the_largest_random_number_fits() -> None:
    text = base64.urlsafe_b64encode(b"\xff" * 32).decode()
    assert len(opaque.new_ticket(text)) == 43


def test_a_ticket_is_found_by_its_hash_and_other_text_by_nothing() -> None:
    ticket = opaque.new_ticket(clock.new_secret())
    assert opaque.ticket_hash(ticket) == opaque.hash_secret(ticket)
    for text in ("", ticket[:-1], ticket + "A", ticket + "\n", ticket[:-1] + "-"):
        assert opaque.ticket_hash(text) is None


def test_another_secret_does_not_verify() -> None:
    assert not opaque.verify_secret("a", opaque.hash_secret("b"))
    assert not opaque.verify_secret("a", "not a hash: é")
