"""Whether it is safe to serve from this database: asked at the start, of the catalogue and with each role's own login.

Row-level security holds for plain roles and plain objects only. What undoes it, by our mistake or by somebody's change
by hand, is a finding, and with a finding nothing is served.
"""

from collections.abc import Mapping

import asyncpg

from app.db.engines import DriverConnection, connect
from app.db.errors import translated
from app.db.link import hang_up
from app.db.migrate import SchemaOutdated, known_revisions, serves
from app.db.urls import LOGINS
from app.domain.errors import StepstreamError

UNPROTECTED_TABLES = """
SELECT format('table %s holds tenants'' rows without row-level security both enabled and forced', c.oid::regclass)
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'f')
  AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
  AND (c.relname IN ('organizations', 'users')
       OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'org_id' AND NOT a.attisdropped))
"""

DEFINER_VIEWS = """
SELECT format('view %s shows every tenant''s rows: it lacks security_invoker', c.oid::regclass)
FROM pg_class c
WHERE c.relkind = 'v' AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
  AND has_schema_privilege('stepstream_api', c.relnamespace, 'USAGE')
  AND NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions)
                  WHERE option_name = 'security_invoker' AND option_value::boolean)
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""

UNFILTERED_COPIES = """
SELECT format('materialized view %s holds every tenant''s rows', c.oid::regclass)
FROM pg_class c
WHERE c.relkind = 'm' AND has_schema_privilege('stepstream_api', c.relnamespace, 'USAGE')
UNION ALL
SELECT format('function %s runs as its owner: it is SECURITY DEFINER', p.oid::regprocedure)
FROM pg_proc p
WHERE p.prosecdef AND p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
  AND has_schema_privilege('stepstream_api', p.pronamespace, 'USAGE')
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
"""

CROSSING_FOREIGN_KEYS = """
SELECT format('foreign key %s of %s reaches other tenants'' rows: it omits org_id', c.conname, c.conrelid::regclass)
FROM pg_constraint c
JOIN pg_attribute here ON here.attrelid = c.conrelid AND here.attname = 'org_id' AND NOT here.attisdropped
JOIN pg_attribute there ON there.attrelid = c.confrelid AND there.attname = 'org_id' AND NOT there.attisdropped
WHERE c.contype = 'f'
  AND NOT EXISTS (SELECT FROM unnest(c.conkey, c.confkey) AS pair(here_no, there_no)
                  WHERE pair.here_no = here.attnum AND pair.there_no = there.attnum)
"""

SERVER_MADE_KEYS: Mapping[str, str] = {
    "executions.id": "the server makes it",
    "execution_steps.execution_id": "the server makes it; only the recorder writes there",
    "step_attempts.execution_id": "the server makes it; only the recorder writes there",
    "execution_events.execution_id": "the server makes it; only the recorder writes there",
    "execution_inbox.id": "the server makes it",
    "approvals.id": "the server makes it",
    "audit_logs.id": "the server makes it",
    "api_keys.id": "the server makes it, and looks it up before it knows the organisation",
    "refresh_tokens.id": "the server makes it, and looks it up before it knows the organisation",
    "stream_tickets.secret_hash": "the hash of a secret that the server makes",
}
"""First columns of unique keys that need no org_id before them, with the reason: no tenant can choose such a value,
so no clash tells one of another's."""

TELLING_UNIQUE_KEYS = """
SELECT format('unique index %s tells of other tenants'' values: it does not begin with org_id', i.indexrelid::regclass)
FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid AND c.relnamespace = 'public'::regnamespace
JOIN pg_attribute org ON org.attrelid = c.oid AND org.attname = 'org_id' AND NOT org.attisdropped
LEFT JOIN pg_attribute key ON key.attrelid = c.oid AND key.attnum = i.indkey[0]
WHERE i.indisunique AND i.indkey[0] <> org.attnum
  AND coalesce(c.relname || '.' || key.attname, '') <> ALL ($1::text[])
"""

POWERFUL_ROLES = """
SELECT format('role %s is %s', wanted.name, coalesce(r.flaws, 'missing'))
FROM unnest('{stepstream_owner,stepstream_api,stepstream_engine,stepstream_auth}'::text[]) AS wanted(name)
LEFT JOIN (
  SELECT rolname, concat_ws(', ',
    CASE WHEN rolsuper THEN 'a superuser' END,
    CASE WHEN rolbypassrls THEN 'above row-level security (BYPASSRLS)' END,
    CASE WHEN rolcreaterole THEN 'allowed to create roles' END,
    CASE WHEN rolcreatedb THEN 'allowed to create databases' END,
    CASE WHEN rolreplication THEN 'allowed to replicate' END,
    CASE WHEN rolinherit AND rolname <> 'stepstream_owner' THEN 'inheriting (it needs NOINHERIT)' END,
    CASE WHEN rolcanlogin AND rolname = 'stepstream_owner' THEN 'allowed to log in' END
  ) AS flaws
  FROM pg_roles
) r ON r.rolname = wanted.name
WHERE r.flaws IS DISTINCT FROM ''
"""

ENTITLED_ROLES = """
SELECT format('role %s is a member of %s', member.rolname, granted.rolname)
FROM pg_auth_members m
JOIN pg_roles member ON member.oid = m.member
JOIN pg_roles granted ON granted.oid = m.roleid
WHERE member.rolname IN ('stepstream_api', 'stepstream_engine', 'stepstream_auth')
UNION ALL
SELECT format('role %s owns %s', r.rolname, CASE
  WHEN d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    THEN pg_describe_object(d.classid, d.objid, d.objsubid)
  ELSE 'something in another database' END)
FROM pg_shdepend d
JOIN pg_roles r ON r.oid = d.refobjid AND d.refclassid = 'pg_authid'::regclass
WHERE d.deptype = 'o' AND r.rolname IN ('stepstream_api', 'stepstream_engine', 'stepstream_auth')
"""

UNBOUND_POLICIES = """
SELECT DISTINCT format('policy %s of %s lets the api role beyond the bound organisation', p.polname, c.oid::regclass)
FROM pg_policy p
JOIN pg_class c ON c.oid = p.polrelid
CROSS JOIN LATERAL unnest(ARRAY[pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid)]) AS rule(condition)
CROSS JOIN (VALUES ('NULLIF(current_setting(''app.org_id''::text, true), ''''::text)')) AS bound(org)
WHERE p.polpermissive
  AND EXISTS (SELECT FROM unnest(p.polroles) AS holder(id)
              WHERE id = 0 OR id = (SELECT oid FROM pg_roles WHERE rolname = 'stepstream_api'))
  AND CASE c.relname
    WHEN 'users' THEN position('.org_id = ' || bound.org IN condition) = 0
    WHEN 'organizations' THEN condition <> format('(id = %s)', bound.org)
    ELSE condition <> format('(org_id = %s)', bound.org)
  END
"""

RULES: Mapping[str, str] = {
    "M1": UNPROTECTED_TABLES,
    "M2": DEFINER_VIEWS,
    "M3": UNFILTERED_COPIES,
    "M4": CROSSING_FOREIGN_KEYS,
    "M5": TELLING_UNIQUE_KEYS,
    "M6": POWERFUL_ROLES,
    "M7": ENTITLED_ROLES,
    "M8": UNBOUND_POLICIES,
}
"""The catalogue queries; each row is a sentence about one thing that breaks the rule."""

_LAX_SETTINGS = """
SELECT name FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off' ORDER BY name
"""
PATCHED_SERVERS: Mapping[int, int] = {15: 18, 16: 14, 17: 10, 18: 4}
"""The oldest minor release of each version of Postgres without a known hole that a plain login can use."""
_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)


class SelfCheckError(StepstreamError):
    """It is not safe to serve from this database; `findings` has a sentence for everything that is wrong."""

    code = "self_check_failed"

    def __init__(self, findings: list[str]) -> None:
        super().__init__("It is not safe to serve from this database:\n" + "\n".join(f"- {each}" for each in findings))
        self.findings = findings


async def check(urls: Mapping[str, str]) -> list[str]:
    """Check the database with the login of each role; `urls` has the URL of each.

    Returns warnings for the log. Raises SchemaOutdated, SelfCheckError, or Unavailable when the database does not
    answer.
    """
    findings: list[str] = []
    warnings: dict[str, None] = {}
    catalogue_seen = False
    with translated():
        for role in LOGINS:
            try:
                connection = await connect(urls[role], "stepstream-selfcheck")
            except _REFUSED as error:
                findings.append(f"{role} cannot log in ({error}): run `stepstream migrate` or correct its URL")
                continue
            try:
                findings += await _check_login(connection, role)
                warnings |= dict.fromkeys(await server_warnings(connection))
                if not catalogue_seen:
                    newer = await check_schema(connection)
                    warnings |= dict.fromkeys(newer)
                    # Which keys of a newer version's tables are its server's own, only that version knows.
                    rules = [rule for rule in RULES if not newer or rule != "M5"]
                    findings += [finding for rule in rules for finding in await violations(connection, rule)]
                    catalogue_seen = True
            finally:
                await hang_up(connection)
    if findings:
        raise SelfCheckError(findings)
    return list(warnings)


async def violations(connection: DriverConnection, rule: str) -> list[str]:
    """What the catalogue says against one of the RULES, a sentence each."""
    arguments = [list(SERVER_MADE_KEYS)] if rule == "M5" else []
    return [f"{rule}: {row[0]}" for row in await connection.fetch(RULES[rule], *arguments)]


async def _check_login(connection: DriverConnection, role: str) -> list[str]:
    name = await connection.fetchval("SELECT current_user")
    return [] if name == role else [f"The URL for {role} acts as {name}: let it log in as {role}"]


async def server_warnings(connection: DriverConnection) -> list[str]:
    """What of the server can cost executions or let somebody in, a sentence each."""
    version = connection.get_server_version()
    outdated = outdated_server(version.major, version.micro)  # to asyncpg 18.6 is 18.0.6
    return ([] if outdated is None else [outdated]) + [
        f"The server runs with {row['name']}=off: a crash can lose executions that were answered with success"
        for row in await connection.fetch(_LAX_SETTINGS)
    ]


def outdated_server(major: int, minor: int) -> str | None:
    """A sentence about a server with known holes; None for one without."""
    patched = PATCHED_SERVERS.get(major, 0)
    if minor >= patched:
        return None
    return f"The server is Postgres {major}.{minor}, whose holes any login can use: update it to {major}.{patched}"


async def check_schema(connection: DriverConnection) -> list[str]:
    """Raise SchemaOutdated unless the database has the schema of this version, or one that serves it, too.

    Returns a warning in the latter case: while versions change, processes of the one before may start anew.
    """
    head, known = known_revisions()
    try:
        revision = await connection.fetchval("SELECT version_num FROM public.alembic_version")
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
        revision = None
    if revision is None:
        raise SchemaOutdated("This database is not migrated, or not completely: run `stepstream migrate`")
    if revision not in known and await serves(connection, known):
        return [f"This database is at revision {revision} of a newer version: update this process, too"]
    if revision not in known:
        raise SchemaOutdated(
            f"This database is at revision {revision}, which this version of Stepstream does not know: "
            "run the version that migrated it, or a newer one"
        )
    if revision != head:
        raise SchemaOutdated(f"This database is at revision {revision} and needs {head}: run `stepstream migrate`")
    return []
