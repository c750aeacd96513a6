"""A sealed value opens with the right master key, for what it was sealed for, and not otherwise."""

import pytest

from app.auth.sealing import MasterKeys, Sealed, Unreadable

OLD, NEW = b"old-master-secret" * 3, b"new-master-secret" * 3
PLACE = "org_1|stripe|1"


def test_a_value_comes_back_and_is_sealed_anew_each_time():
    keys = MasterKeys([OLD])
    first, second = keys.seal("välue", PLACE), keys.seal("välue", PLACE)
    assert keys.open(first, PLACE) == keys.open(second, PLACE) == "välue"
    assert first.ciphertext != second.ciphertext
    assert first.wrapped_key != second.wrapped_key
    assert "välue".encode() not in first.ciphertext + first.wrapped_key


@pytest.mark.parametrize("place", ["org_2|stripe|1", "org_1|stripe|2", "org_1|other|1", ""])
def test_it_opens_in_its_own_place_only(place):
    keys = MasterKeys([OLD])
    with pytest.raises(Unreadable):
        keys.open(keys.seal("value", PLACE), place)


@pytest.mark.parametrize("part", ["ciphertext", "wrapped_key"])
def test_what_was_altered_or_cut_does_not_open(part):
    keys = MasterKeys([OLD])
    sealed = keys.seal("value", PLACE)
    whole = getattr(sealed, part)
    for altered in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:5], b""):
        changed = {"ciphertext": sealed.ciphertext, "wrapped_key": sealed.wrapped_key, part: altered}
        with pytest.raises(Unreadable):
            keys.open(Sealed(**changed, key_id=sealed.key_id), PLACE)


def test_after_a_change_of_the_master_secret_the_previous_one_opens_and_the_new_one_seals():
    sealed = MasterKeys([OLD]).seal("value", PLACE)
    both = MasterKeys([NEW, OLD])
    assert both.open(sealed, PLACE) == "value"
    rewrapped = both.rewrapped(sealed, PLACE)
    assert rewrapped.ciphertext == sealed.ciphertext
    assert MasterKeys([NEW]).open(rewrapped, PLACE) == "value"
    assert both.seal("other", PLACE).key_id == MasterKeys([NEW]).current_id == rewrapped.key_id
    for keys, unreadable in ((MasterKeys([NEW]), sealed), (MasterKeys([OLD]), rewrapped)):
        with pytest.raises(Unreadable):
            keys.open(unreadable, PLACE)
