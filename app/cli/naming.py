"""What people call things on the command line, as the API knows them."""

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from app import clock
from app.cli.client import Client, Value
from app.cli.failures import CommandFailed
from app.cli.options import Selection
from app.domain.durations import parse_duration
from app.domain.events import timestamp_text

LAST = "last"


async def execution_id(client: Client, word: str) -> str:
    """The id of an execution; `last` is the newest one. Raises CommandFailed if there is none."""
    if word != LAST:
        return word
    found = (await client.get("/executions", limit=1))["data"]
    if not found:
        raise CommandFailed("There is no execution yet: start one with `stepstream run`")
    return str(found[0]["id"])


async def path_of(client: Client, word: str, *below: str) -> str:
    """The path of an execution, or of something below it."""
    return "/".join(["/executions", quote(await execution_id(client, word), safe=""), *below])


def moment_of(text: str, option: str) -> str:
    """A time given as an age (`2h`) or as a time with an offset, in RFC 3339; raises CommandFailed."""
    try:
        return timestamp_text(clock.now() - timedelta(seconds=parse_duration(text)))
    except ValueError:
        pass
    return _time_of(text, option, "an age such as 2h")


def _time_of(text: str, option: str, other: str) -> str:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise CommandFailed(f"{option}: {text} is neither {other} nor a time such as 2030-01-01T06:00:00Z")
    return timestamp_text(found.astimezone(UTC))


def start_of(text: str) -> str:
    """When to start, given as a span from now (`2h`) or as a time with an offset; raises CommandFailed."""
    try:
        return timestamp_text(clock.now() + timedelta(seconds=parse_duration(text)))
    except ValueError:
        pass
    return _time_of(text, "--start-at", "a span such as 2h")


def labels_of(given: list[str] | None) -> dict[str, str]:
    """Labels by key; raises CommandFailed."""
    labels = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise CommandFailed(f"--label: {text} is not KEY=VALUE")
        labels[key] = value
    return labels


def query_of(wanted: Selection) -> dict[str, Value]:
    """The query string of a list."""
    query: dict[str, Value] = {f"label.{key}": value for key, value in labels_of(wanted.labels).items()}
    if wanted.statuses:
        query["status"] = wanted.statuses
    return query | narrowed(wanted)


def narrowed(wanted: Selection) -> dict[str, str]:
    """The workflow and the times, as lists and filters name them alike."""
    found = {}
    if wanted.workflow is not None:
        found["workflow_id"] = wanted.workflow
    if wanted.since is not None:
        found["created_after"] = moment_of(wanted.since, "--since")
    if wanted.until is not None:
        found["created_before"] = moment_of(wanted.until, "--until")
    return found
