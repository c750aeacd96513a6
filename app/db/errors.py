"""What the database says, in the words of the domain: one table from SQLSTATE to error."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
import structlog
from sqlalchemy import exc

from app.domain.errors import Conflict, ConnectionLost, NotFound, Problem, Problems, StepstreamError, Unavailable

_log = structlog.get_logger("database")

STORAGE_FULL = "storage_full"

_NOT_STORABLE = frozenset({"22P05", "22021", "22P02", "22003", "22000", "54001"})
# Deadlock, serialization failure, lock or statement timeout, cancelled, idle too long in a transaction.
_BUSY = frozenset({"40001", "40P01", "55P03", "57014", "25P03", "25P04"})
# The network or the server ended the connection.
_LOST = ("08", "57P01", "57P02")
# No slot or memory, shutting down or read-only, login refused, database gone, system error.
_UNAVAILABLE = ("53", "57P", "25006", "28", "3D000", "58")


@contextmanager
def translated() -> Iterator[None]:
    """Raise domain errors for what the driver, the pool or the network raise inside.

    Put only database work inside: any OSError and TimeoutError counts as the database not answering. What is no fault
    of the input or of the moment, such as a misspelt column, passes through as it is.
    """
    try:
        yield
    except Exception as error:
        meant = domain_error(error)
        if meant is None:
            raise
        raise meant from error


@asynccontextmanager
async def answered_within(seconds: float) -> AsyncIterator[None]:
    """As `translated`; and when the database has not answered in time, what waits for it inside is given up."""
    with translated():
        async with asyncio.timeout(seconds):
            yield


def domain_error(error: Exception) -> StepstreamError | None:
    """The domain's error for one of the driver, pool or network; None if it has none (a bug, or no such error)."""
    if isinstance(error, exc.TimeoutError):
        return Unavailable("All database connections are in use. Try again.", code="database_busy")
    if isinstance(error, exc.DBAPIError):
        # SQLAlchemy wraps the driver's error twice, and calls a lost connection so even where the driver does not.
        cause = error.orig.__cause__ if error.orig is not None else None
        return _of_driver(cause) or (_lost() if error.connection_invalidated else None)
    return _of_driver(error)


def sqlstate(error: BaseException) -> str | None:
    """The five characters Postgres gave an error, however it is wrapped; None if it came from elsewhere."""
    state = getattr(error.orig if isinstance(error, exc.DBAPIError) else error, "sqlstate", None)
    return state if isinstance(state, str) else None


def _of_driver(error: BaseException | None) -> StepstreamError | None:
    if isinstance(error, asyncpg.DataError) and isinstance(error.__cause__, TypeError):
        # asyncpg gives its own complaint about an argument's type the state of a bad value.
        return None
    if isinstance(error, asyncpg.PostgresError):
        return _of_state(error.sqlstate or "", str(error))
    if isinstance(error, asyncpg.InterfaceError) and "connection is closed" in str(error):
        return _lost()
    if isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in str(error):
        # The server has said farewell, and the end of the connection is still on its way.
        return _lost()
    return _unavailable() if isinstance(error, OSError) else None


def _of_state(state: str, message: str) -> StepstreamError | None:
    if state in _NOT_STORABLE:
        return _not_storable()
    if state == "23505":
        return Conflict("Something with this identity exists already.", code="already_exists")
    if state == "23503":
        sentence = "This refers to something that does not exist, or is itself still referred to."
        return Problems(sentence, [Problem("unknown_reference", sentence)], code="unknown_reference")
    if state == "42501":
        # Only a bug of ours comes here; to the caller a forbidden row is one that is not there.
        _log.error("refused by the database's access rules", sqlstate=state, reason=message)
        return NotFound("There is no such thing here.")
    if state in {"SS001", "SS002"}:
        return Conflict(message)
    if state in _BUSY:
        return Unavailable("The database is busy. Try again.", code="database_busy")
    if state.startswith(_LOST):
        return _lost()
    if state == "53300":
        return Unavailable("The database takes no more connections: raise its max_connections, or run fewer processes.")
    if state == "53100":
        return Unavailable("The database's disk is full. Free some space.", code=STORAGE_FULL, retry_after=30)
    return _unavailable() if state.startswith(_UNAVAILABLE) else None


def _not_storable() -> Problems:
    sentence = "A value cannot be stored: NUL, a lone surrogate, or a number beyond its range."
    return Problems(sentence, [Problem("value_not_storable", sentence)], code="value_not_storable")


def _unavailable() -> Unavailable:
    return Unavailable("The database does not answer. Try again.")


def _lost() -> Unavailable:
    return ConnectionLost("The database does not answer. Try again.")
