import re

from auth_fakes import MASTER

from app.auth.secret import derive, derive_password


def test_a_derived_secret_never_changes_because_stored_state_depends_on_it() -> None:
    assert derive(MASTER, "jwt:1").hex() == "15c1f9d87a3490ce17b461f79b93fe8d603fbc4573faa411cc689b24e2607f6c"
    assert derive_password(MASTER, "stepstream_api") == "31KZGUH58xLJ_xmvvLKSvOpsiksIs78OdYplxogYQUg"


def test_purposes_and_masters_give_unrelated_secrets() -> None:
    secrets = {derive(MASTER, "jwt:1"), derive(MASTER, "jwt:2"), derive(MASTER, "cursor"), derive(MASTER[:-1], "jwt:1")}
    assert len(secrets) == 4
    assert {len(secret) for secret in secrets} == {32}


def test_a_password_fits_a_connection_url() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", derive_password(MASTER, "stepstream_engine"))
