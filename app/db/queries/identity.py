"""Organisations, users and memberships.

What takes no `org_id` acts across organisations and runs as the auth role; the rest runs within the tenant's scope.
"""

from sqlalchemy import RowMapping, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.tables import memberships, organizations, users


async def member(connection: AsyncConnection, org_id: str, user_id: str) -> RowMapping | None:
    """A member with the organisation's name: `user_id, email, user_name, org_id, org_name`."""
    query = (
        select(
            users.c.id.label("user_id"),
            users.c.email,
            users.c.name.label("user_name"),
            organizations.c.id.label("org_id"),
            organizations.c.name.label("org_name"),
        )
        .select_from(memberships)
        .join(users, users.c.id == memberships.c.user_id)
        .join(organizations, organizations.c.id == memberships.c.org_id)
        .where(memberships.c.org_id == org_id, memberships.c.user_id == user_id)
    )
    return (await connection.execute(query)).mappings().first()


async def first_membership(connection: AsyncConnection, email: str) -> RowMapping | None:
    """`org_id, user_id` of the oldest membership of the user with this (normal) e-mail."""
    query = (
        select(memberships.c.org_id, memberships.c.user_id)
        .join(users, users.c.id == memberships.c.user_id)
        .where(func.lower(users.c.email) == email)
        .order_by(memberships.c.created_at, memberships.c.org_id)
        .limit(1)
    )
    return (await connection.execute(query)).mappings().first()


async def replace_password_hash(connection: AsyncConnection, user_id: str, old: str, new: str) -> None:
    """Change a user's hash unless it has been changed meanwhile."""
    await connection.execute(
        update(users).where(users.c.id == user_id, users.c.password_hash == old).values(password_hash=new)
    )


async def lock_first_start(connection: AsyncConnection) -> None:
    """Wait until no other process is in its first start; held to the end of the transaction."""
    await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("stepstream first start", 0))))


async def any_organization(connection: AsyncConnection) -> bool:
    return bool((await connection.execute(select(exists().select_from(organizations)))).scalar())


async def add_organization(connection: AsyncConnection, organization_id: str, name: str) -> None:
    await connection.execute(insert(organizations).values(id=organization_id, name=name))


async def add_user(connection: AsyncConnection, user_id: str, email: str, name: str, password_hash: str | None) -> None:
    """`email` in its normal form."""
    await connection.execute(insert(users).values(id=user_id, email=email, name=name, password_hash=password_hash))


async def add_membership(connection: AsyncConnection, org_id: str, user_id: str, role: str) -> None:
    await connection.execute(insert(memberships).values(org_id=org_id, user_id=user_id, role=role))
