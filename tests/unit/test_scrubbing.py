"""A known value is cut out of text in every form that people and programs commonly write it in."""

import base64
import html
import json
import re
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.jsontext import decode, encode
from app.domain.scrubbing import MASK, Scrubber

PLAIN = "sk_live_51H8xCanary"
HARD = "p/ä+\"s\\s&w <o>r'd=%?"
LINES = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END KEY-----\n"

FORMS = {
    "raw": str,
    "hex": lambda value: value.encode().hex(),
    "HEX": lambda value: value.encode().hex().upper(),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 unpadded": lambda value: base64.b64encode(value.encode()).decode().rstrip("="),
    "base64 urlsafe": lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    "base64 mime": lambda value: base64.encodebytes((value * 5).encode()).decode().replace("\n", ""),
    "base64 quoted": lambda value: quote(base64.b64encode(value.encode()).decode(), safe=""),
    "quote": quote,
    "quote all": lambda value: quote(value, safe=""),
    "quote lower": lambda value: re.sub("%..", lambda found: found[0].lower(), quote(value, safe="")),
    "quote_plus": quote_plus,
    "urlencode": lambda value: urlencode({"k": value})[2:],
    "json": lambda value: json.dumps(value)[1:-1],
    "json unicode": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    "json slashes": lambda value: json.dumps(value)[1:-1].replace("/", "\\/"),
    "json orjson": lambda value: encode(value)[1:-1],
    "html": html.escape,
}


@pytest.mark.parametrize("value", [PLAIN, HARD, LINES])
@pytest.mark.parametrize("form", FORMS)
def test_a_value_is_cut_out_in_every_form(form, value):
    written = FORMS[form](value)
    scrubber = Scrubber([value])
    said = f"before {written} after"
    assert written not in scrubber.text(said)
    assert scrubber.text(said).startswith("before ")
    # However the text with it is put into JSON, which escapes it once more.
    document = {"a": [said, 1, None], written: {"deep": written}}
    assert encode(written)[1:-1] not in scrubber.json(encode(document))


@pytest.mark.parametrize("before", range(7))
@pytest.mark.parametrize("after", range(4))
def test_a_value_is_found_inside_the_base64_of_something_longer(before, after):
    whole = base64.b64encode(b"x" * before + PLAIN.encode() + b"y" * after).decode()
    scrubbed = Scrubber([PLAIN]).text(whole)
    kept = scrubbed.replace(MASK, "")
    assert MASK in scrubbed
    assert len(kept) <= (before + after) * 4 // 3 + 8, "little more than what is around it is left"


def test_each_long_line_of_a_value_is_cut_out_by_itself():
    said = Scrubber([LINES]).text("the line MIIEvQIBADANBgkqhkiG9w0B is wrong; it is behind -----BEGIN KEY-----")
    assert said == f"the line {MASK} is wrong; it is behind -----BEGIN KEY-----"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("https://hooks.example.com/services/T00/B00/xxxx?k=1", "https://hooks.example.com/services/T00/B00/xxxx"),
        ("https://example.com/a?token=0123456789abcdef", "token=0123456789abcdef is wrong"),
        (base64.b64encode(b"ann:correct horse").decode(), "ann:correct horse"),
        (base64.b64encode(b"ann:correct horse").decode(), "the password 'correct horse' is wrong"),
    ],
)
def test_what_a_value_is_made_of_is_cut_out_by_itself(value, told):
    said = Scrubber([value]).text(told)
    assert MASK in said
    assert not any(word in said for word in ("T00", "0123456789", "horse"))


def test_scrubbed_json_stays_json_also_where_the_value_is_a_number_or_a_key():
    scrubber = Scrubber(["12345678", "abcdefgh", '","x":"'])
    text = encode({"pin": 12345678, "in": 1.12345678, "n": 7, "abcdefgh": 1, "abcdefgh2": '","x":"', "z": "12345678!"})
    assert decode(scrubber.json(text)) == {
        "pin": MASK, "in": MASK, "n": 7, MASK: 1, f"{MASK}2": MASK, "z": f"{MASK}!",
    }  # fmt: skip


def test_keys_that_become_one_are_one():
    text = Scrubber(["abcdefgh", "ijklmnop"]).json('{"abcdefgh":1,"ijklmnop":2}')
    assert text == f'{{"{MASK}":2}}'


def test_text_without_a_value_is_left_as_it_is():
    scrubber = Scrubber([PLAIN, "short"])
    text = '{"a": "short", "b": [1.0, 1e5]}'
    assert scrubber.json(text) is text
    assert scrubber.text(text) is text


@given(st.data(), st.sampled_from([PLAIN, HARD]), st.sampled_from(sorted(FORMS)))
def test_however_a_text_is_cut_into_pieces_nothing_of_a_value_is_told(data, value, form):
    """Pieces are told as soon as they can be; what may be the beginning of a value waits."""
    scrubber, written = Scrubber([value]), FORMS[form](value)
    text = f"so {written}{written[:3]} and {written}"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    told, left = [], ""
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        left = scrubber.text(left + text[start:end])
        held = scrubber.held(left)
        told.append(left[: len(left) - held])
        left = left[len(left) - held :]
    told.append(left)
    assert written not in "".join(told)
    assert "".join(told).startswith("so ")
