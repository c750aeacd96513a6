"""A process that dies at any boundary of a commit leaves nothing behind that the next one does not set right.

For each shape of workflow one process after the other is started that will die at the next point, and while it lives a
new execution is begun; those of its predecessors go on in it. In the end every one has come out as if nobody had died.
"""

import asyncio
import random
import signal
from pathlib import Path

import pytest

from app.crashpoints import EXIT_CODE, POINTS, arm
from app.db.engines import connect
from app.db.migrate import known_revisions
from tests.chaos import workload
from tests.chaos.checker import check_all, unfinished
from tests.chaos.cluster import App
from tests.chaos.conftest import World
from tests.chaos.workload import Story, Wish
from tests.database import Database

ROOT = Path(__file__).parents[2]
SECONDS = 60.0

EVERYWHERE = (
    "after_claim",
    "before_effect",
    "in_rescue",
    "before_effect:2",
    "after_effect_before_record",
    "after_effect_before_record:3",
    "before_commit",
    "before_commit:2",
    "before_commit:4",
    "after_commit_before_publish",
    "after_commit_before_publish:3",
    "in_accept",
    "in_heartbeat",
    "in_seal",
    "in_drain",
)
SHAPES: dict[str, tuple[Story, ...]] = {
    "sequence": (workload.chain, workload.broken),
    "tree": (workload.tree,),
    "talk": (workload.talk, workload.cancelled, workload.paused),
}
OF_SHAPE: dict[str, tuple[str, ...]] = {
    "sequence": ("in_retry",),
    "tree": ("in_child_start",),
    "talk": ("in_inbox", "after_inbox", "in_cancel"),
}
ELSEWHERE = {"in_migration"}


def test_every_point_is_died_at() -> None:
    named = {point.partition(":")[0] for points in (EVERYWHERE, *OF_SHAPE.values()) for point in points}
    assert named | ELSEWHERE == POINTS
    sources = [*(ROOT / "app").rglob("*.py"), ROOT / "migrations" / "env.py"]
    text = "".join(path.read_text() for path in sources)
    assert {point for point in POINTS if f'crashpoint("{point}")' in text} == POINTS


def test_what_is_no_point_is_refused() -> None:
    with pytest.raises(ValueError, match="no point 'in_vain'"):
        arm("in_vain:2")


async def dies_at(app: App, point: str) -> None:
    """A process lives until it passes a point."""
    await app.started(STEPSTREAM_CRASHPOINTS=point)
    if point == "in_drain":
        app.process.send(signal.SIGTERM)
    assert await app.process.ends() == EXIT_CODE, (point, app.process.text)
    assert f"crashpoint {point.partition(':')[0]}\n" in app.process.text


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shape", SHAPES)
async def test_whoever_dies_anywhere_leaves_a_record_to_go_on_from(shape: str, world: World) -> None:
    (app,) = world.deployment.apps
    await app.kill()
    telling: list[asyncio.Task[None]] = []
    for number, point in enumerate((*EVERYWHERE, *OF_SHAPE[shape])):
        for story in SHAPES[shape]:
            wish = Wish(world.client, world.outside, f"{shape}-{number}-{story.__name__}", random.Random(number))
            telling.append(asyncio.create_task(story(wish), name=f"{point} {story.__name__}"))
        await dies_at(app, point)
    await app.start()
    async with world.deployment.tables() as tables:
        await all_told(telling, tables)
        await check_all(tables, world.journal, world.outside)
        assert await tables.fetchval("SELECT count(*) FROM step_attempts WHERE status = 'LOST'") > 0
    assert await app.stop() == 0


async def all_told(telling: list[asyncio.Task[None]], tables: Database) -> None:
    """See every story to its end; raises what went wrong in one."""
    _, untold = await asyncio.wait(telling, timeout=SECONDS)
    for task in untold:
        task.cancel()
    assert not untold, ([task.get_name() for task in untold], await unfinished(tables))
    await asyncio.gather(*telling)


async def test_a_migration_that_dies_in_the_middle_is_made_again(world: World) -> None:
    async with world.deployment.postgres.connected() as connection:
        await connection.execute("CREATE DATABASE migrated")
    (app,) = world.deployment.apps
    url = world.deployment.postgres.url.replace("/postgres?", "/migrated?")
    for passing in (1, 2):
        await app.launch("migrate", DATABASE_URL=url, STEPSTREAM_CRASHPOINTS=f"in_migration:{passing}")
        assert await app.process.ends() == EXIT_CODE, app.process.text
    await app.launch("migrate", DATABASE_URL=url)
    assert await app.process.ends() == 0
    made = await connect(url, "test")
    try:
        assert await made.fetchval("SELECT version_num FROM alembic_version") == known_revisions()[0]
    finally:
        await made.close()
