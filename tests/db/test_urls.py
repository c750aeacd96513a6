"""Every role finds its way in from one URL, and no URL says more than it must."""

import pytest
from pydantic import SecretStr

from app.db.urls import API, AUTH, ENGINE, LOGINS, driver_url, own_passwords, role_url, with_login
from app.settings import Settings, SettingsError


def password_for(role: str) -> str:
    return f"p@ss of {role[11:]}"


def settings(**values: str) -> Settings:
    """Settings with these URLs, whatever the environment says."""
    urls = ("database_url", "api_database_url", "engine_database_url", "auth_database_url")
    return Settings().model_copy(update={name: SecretStr(values[name]) if name in values else None for name in urls})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://admin:x@db:5433/app", "postgresql://stepstream_api:p%40ss%20of%20api@db:5433/app"),
        ("postgres://db/app", "postgresql://stepstream_api:p%40ss%20of%20api@db/app"),
        ("postgresql+asyncpg://a%40b:x%2Fy@db/app", "postgresql://stepstream_api:p%40ss%20of%20api@db/app"),
        ("postgresql://a@/app?host=/run/pg", "postgresql://stepstream_api:p%40ss%20of%20api@/app?host=/run/pg"),
        (
            "postgresql://a:b@one:1,two:2/app?sslmode=require&user=c&password=d",
            "postgresql://stepstream_api:p%40ss%20of%20api@one:1,two:2/app?sslmode=require",
        ),
        ("postgresql://[::1]:5432/app", "postgresql://stepstream_api:p%40ss%20of%20api@[::1]:5432/app"),
    ],
)
def test_a_role_logs_in_where_the_migrator_does(url: str, expected: str) -> None:
    assert role_url(settings(database_url=url), API, password_for) == expected


def test_a_roles_own_url_wins_and_its_password_is_left_alone() -> None:
    chosen = settings(database_url="postgresql://a:b@db/app", api_database_url="postgres://me:mine@pooler/app")
    assert role_url(chosen, API, password_for, "postgresql://other/db") == "postgresql://me:mine@pooler/app"
    assert role_url(chosen, ENGINE, password_for).endswith("@db/app")
    assert [own_passwords(chosen, password_for)(role) for role in LOGINS] == [None, "p@ss of engine", "p@ss of auth"]


def test_a_url_set_to_nothing_is_not_set() -> None:
    chosen = settings(database_url="postgresql://a@db/app", api_database_url="")
    assert role_url(chosen, API, password_for).endswith("@db/app")
    assert own_passwords(chosen, password_for)(API) == "p@ss of api"


def test_the_embedded_database_needs_no_setting() -> None:
    url = role_url(settings(), AUTH, password_for, "postgresql://postgres@/stepstream?host=/data/postgres")
    assert url == "postgresql://stepstream_auth:p%40ss%20of%20auth@/stepstream?host=/data/postgres"


def test_without_a_password_none_is_written() -> None:
    assert with_login("postgresql://a:b@db/app", "me", None) == "postgresql://me@db/app"


def test_no_database_at_all_says_which_setting_is_missing() -> None:
    with pytest.raises(SettingsError, match="set DATABASE_URL or ENGINE_DATABASE_URL"):
        role_url(settings(), ENGINE, password_for)


@pytest.mark.parametrize("url", ["mysql://a:secret@db/app", "db/app?password=secret", "secret"])
def test_a_url_of_something_else_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        driver_url(url)
    assert "secret" not in str(caught.value)


def test_the_ssl_option_of_sqlalchemy_is_understood() -> None:
    assert driver_url("postgresql+asyncpg://a@db/app?ssl=require") == "postgresql://a@db/app?sslmode=require"
