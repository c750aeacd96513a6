"""The roles of the database, and the URL each logs in with."""

from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pydantic import SecretStr

from app.settings import Settings, SettingsError

OWNER = "stepstream_owner"
API = "stepstream_api"
ENGINE = "stepstream_engine"
AUTH = "stepstream_auth"
LOGINS = (API, ENGINE, AUTH)

PasswordFor: TypeAlias = Callable[[str], str | None]
"""The password of a role; None for one whose password is the operator's to set."""


def role_url(settings: Settings, role: str, password_for: PasswordFor, admin_url: str | None = None) -> str:
    """The URL, password included, that `role` logs in with; raises SettingsError if the settings name no database.

    It is the role's own setting (API_, ENGINE_ or AUTH_DATABASE_URL), else `admin_url` or DATABASE_URL with user and
    password replaced. `admin_url` is for a database that the settings do not name: the embedded one.
    """
    own = _own_url(settings, role)
    if own is not None:
        return driver_url(own.get_secret_value())
    base = admin_url or (settings.database_url and settings.database_url.get_secret_value())
    if not base:
        raise SettingsError(f"No database for {role}: set DATABASE_URL or {_variable(role)}")
    return with_login(base, role, password_for(role))


def own_passwords(settings: Settings, password_for: PasswordFor) -> PasswordFor:
    """`password_for`, but None for the roles whose URL is set: those passwords are left as they are."""
    return lambda role: password_for(role) if _own_url(settings, role) is None else None


def with_login(url: str, user: str, password: str | None) -> str:
    """The same server and database, logged in as somebody else."""
    parts = urlsplit(driver_url(url))
    login = quote(user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in {"user", "password", "passfile"}]
    query = "?" + urlencode(kept, safe="/,", quote_via=quote) if kept else ""
    return f"postgresql://{login}@{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


def driver_url(url: str) -> str:
    """A Postgres URL as asyncpg reads it; SQLAlchemy's way of writing one (`postgresql+asyncpg`, `ssl=`) is accepted.

    Raises SettingsError, which does not quote the URL: there may be a password in it.
    """
    scheme, colon, rest = url.strip().partition("://")
    if not colon or scheme.partition("+")[0] not in {"postgres", "postgresql"}:
        raise SettingsError("A database URL looks like postgresql://user:password@host:5432/database")
    address, mark, query = rest.partition("?")
    options = ["sslmode" + option[3:] if option.startswith("ssl=") else option for option in query.split("&")]
    return f"postgresql://{address}{mark}{'&'.join(options)}"


def _own_url(settings: Settings, role: str) -> SecretStr | None:
    urls = {API: settings.api_database_url, ENGINE: settings.engine_database_url, AUTH: settings.auth_database_url}
    # A variable that is set to nothing, as compose files do, is not set.
    return urls[role] or None


def _variable(role: str) -> str:
    return f"{role.removeprefix('stepstream_').upper()}_DATABASE_URL"
