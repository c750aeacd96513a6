"""The roles of the cluster and their way into one database.

Roles belong to the cluster, which may hold several of our databases. So everything is compared first and only what
differs is changed; a DBA who has prepared all of it need not give us the right to.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping

import asyncpg

from app import clock
from app.db.engines import DriverConnection
from app.db.urls import API, AUTH, ENGINE, LOGINS, OWNER, PasswordFor
from app.domain.errors import StepstreamError

_COMMON_SETTINGS = {"search_path": "public", "jit": "off", "idle_in_transaction_session_timeout": "10s"}
ROLE_SETTINGS: Mapping[str, Mapping[str, str]] = {
    API: {**_COMMON_SETTINGS, "statement_timeout": "15s", "lock_timeout": "3s"},
    ENGINE: {**_COMMON_SETTINGS, "statement_timeout": "60s"},
    AUTH: {**_COMMON_SETTINGS, "statement_timeout": "15s"},
}

# A column of pg_roles with the keyword for true and the one for false.
_ATTRIBUTES = {
    "rolcanlogin": ("LOGIN", "NOLOGIN"),
    "rolinherit": ("INHERIT", "NOINHERIT"),
    "rolsuper": ("SUPERUSER", "NOSUPERUSER"),
    "rolbypassrls": ("BYPASSRLS", "NOBYPASSRLS"),
    "rolcreaterole": ("CREATEROLE", "NOCREATEROLE"),
    "rolcreatedb": ("CREATEDB", "NOCREATEDB"),
    "rolreplication": ("REPLICATION", "NOREPLICATION"),
}
_ROLES = "SELECT * FROM pg_roles WHERE rolname = ANY($1)"
_REACH = """
SELECT has_schema_privilege($1, 'public', 'CREATE')
  AND bool_and(has_schema_privilege(login, 'public', 'USAGE'))
  AND bool_and(has_database_privilege(login, current_database(), 'CONNECT'))
FROM unnest($2::text[]) AS login
"""
# What two that provision at once meet; the last is the server's "tuple concurrently updated".
_COLLISIONS = (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError, asyncpg.InternalServerError)
_ATTEMPTS = 20
_SCRAM_ITERATIONS = 4096
_OLDEST_SERVER = 15
_MEMBERS_MAY_NOT_SET = 16


class ProvisionError(StepstreamError):
    """The migrator's login may not do what is needed; says what, and how a DBA allows or does it."""

    code = "provision_failed"


async def provision(connection: DriverConnection, password_for: PasswordFor) -> None:
    """Create or correct the roles, and let them into the connection's database.

    Needs a superuser, or a login with CREATEROLE that owns the database; raises ProvisionError when that is not enough.
    Safe to repeat, and at the same moment from several databases of the cluster.
    """
    version = connection.get_server_version()
    if version.major < _OLDEST_SERVER:
        raise ProvisionError(f"This is Postgres {version.major}; Stepstream needs {_OLDEST_SERVER} or newer")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await _provision_roles(connection, password_for)
            await open_database(connection)
        except _COLLISIONS:
            if attempt == _ATTEMPTS:
                raise
        else:
            return


async def open_database(connection: DriverConnection) -> None:
    """Let the roles, which exist, into the connection's database, and everybody else no further than it says."""
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    logins = ", ".join(LOGINS)
    for statement in (
        f"REVOKE ALL ON DATABASE {database} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {database} TO {logins}",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {OWNER}",
        f"GRANT USAGE ON SCHEMA public TO {logins}",
    ):
        await _execute(connection, statement)
    # To who owns neither database nor schema, Postgres only mutters a warning.
    if not await connection.fetchval(_REACH, OWNER, list(LOGINS)):
        login = await connection.fetchval("SELECT quote_ident(session_user)")
        raise ProvisionError(
            f"The login {login} of DATABASE_URL cannot open the database {database} to Stepstream's roles: it has to "
            f"own it. As its owner run: ALTER DATABASE {database} OWNER TO {login}; ALTER SCHEMA public OWNER TO "
            "pg_database_owner"
        )


async def _provision_roles(connection: DriverConnection, password_for: PasswordFor) -> None:
    found = {row["rolname"]: row for row in await connection.fetch(_ROLES, [OWNER, *LOGINS])}
    await _provision_role(connection, OWNER, found.get(OWNER), {"rolcanlogin": False}, {})
    for role in LOGINS:
        wanted = {"rolcanlogin": True, "rolinherit": False}
        await _provision_role(connection, role, found.get(role), wanted, ROLE_SETTINGS[role])
        password = password_for(role)
        if password is not None:
            # The server, its log and pg_stat_activity get to see only the verifier.
            await _execute(connection, f"ALTER ROLE {role} PASSWORD '{scram_verifier(password)}'", secret=True)
    await _become_member(connection)


async def _provision_role(
    connection: DriverConnection,
    role: str,
    found: asyncpg.Record | None,
    wanted: Mapping[str, bool],
    settings: Mapping[str, str],
) -> None:
    # Inheriting means nothing for a role that is member of no other; the rest is off unless wanted.
    target = {**{name: False for name in _ATTRIBUTES if name != "rolinherit"}, **wanted}
    if found is None:
        words = [_ATTRIBUTES[name][0 if value else 1] for name, value in wanted.items()]
        await _execute(connection, f"CREATE ROLE {role} {' '.join(words)}")
    else:
        words = [_ATTRIBUTES[name][0 if value else 1] for name, value in target.items() if found[name] is not value]
        if words:
            await _execute(connection, f"ALTER ROLE {role} {' '.join(words)}")
    current = set((found and found["rolconfig"]) or ())
    for name, value in settings.items():
        if f"{name}={value}" not in current:
            await _execute(connection, f"ALTER ROLE {role} SET {name} = '{value}'")


async def _become_member(connection: DriverConnection) -> None:
    """Let the migrator act as the owner; a superuser may anyhow."""
    # Since 16 who creates a role is a member of it, but may not act as it before granting that to himself.
    right = "SET" if connection.get_server_version().major >= _MEMBERS_MAY_NOT_SET else "MEMBER"
    if not await connection.fetchval("SELECT pg_has_role(current_user, $1, $2)", OWNER, right):
        await _execute(connection, f"GRANT {OWNER} TO CURRENT_USER")


async def _execute(connection: DriverConnection, statement: str, *, secret: bool = False) -> None:
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        shown = f"{statement.partition(chr(39))[0]}…" if secret else statement
        raise ProvisionError(
            f"The login of DATABASE_URL may not run `{shown}` ({' '.join(str(error).split())}). Either let it own the "
            "database and have CREATEROLE, with the ADMIN option on those of the stepstream roles that exist; or let a "
            "superuser run that statement. A role's password is left alone where its own URL is set (API_, ENGINE_, "
            "AUTH_DATABASE_URL)"
        ) from error


def scram_verifier(password: str) -> str:
    """What Postgres stores of an ASCII password (RFC 5803), with a fresh salt."""
    salt = clock.new_secret(12).encode()
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _SCRAM_ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(part).decode() for part in (salt, hashlib.sha256(client_key).digest(), server_key)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"
