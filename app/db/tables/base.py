"""The one MetaData, its naming convention, and the column kinds that every table uses."""

from typing import Any

from sqlalchemy import Column, DateTime, MetaData, Text, func
from sqlalchemy.types import TypeEngine

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=NAMING)

ID: TypeEngine[str] = Text(collation="C")
"""Ids compare byte by byte: their order is that of their creation, and their indexes are the smallest."""

MOMENT = DateTime(timezone=True)


def created_at() -> Column[Any]:
    """The database's own time of the insert."""
    return Column("created_at", MOMENT, nullable=False, server_default=func.clock_timestamp())
