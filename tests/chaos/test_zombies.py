"""Who is stopped at a boundary of a commit, loses everything to another process and then wakes up, changes nothing.

That is checked by the record, in which nothing of its may appear behind that of its successor, and by what happened
outside: a step that may happen once has not happened again.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import workload
from tests.chaos.checker import check_all, check_log
from tests.chaos.client import Client
from tests.chaos.cluster import Cluster, cluster
from tests.chaos.journal import Journal, pause
from tests.chaos.sink import sink
from tests.chaos.test_crash_points import all_told
from tests.chaos.workload import Story, Wish, workflows

POINTS = (
    "after_claim",
    "before_effect:5",
    "after_effect_before_record:2",
    "after_effect_before_record:6",
    "before_commit:4",
    "after_commit_before_publish:2",
    "in_child_start",
    "in_heartbeat",
)
STORIES = (workload.chain, workload.tree, workload.mailing, workload.talk, workload.patient)


def begin(wish: Wish, story: Story) -> asyncio.Task[None]:
    return asyncio.create_task(story(wish), name=wish.key)


@pytest.fixture
async def deployment() -> AsyncIterator[Cluster]:
    async with cluster(apps=2, STEPSTREAM_LEASE_TTL="1", STEPSTREAM_SCAN_INTERVAL="0.1") as made:
        yield made


@pytest.mark.timeout(300)
async def test_whoever_is_stopped_anywhere_and_wakes_up_has_nothing_to_say(deployment: Cluster, tmp_path: Path) -> None:
    steady, zombie = deployment.apps
    async with sink(tmp_path / "effects") as outside:
        deployment.environment |= outside.environment
        journal = Journal(tmp_path / "journal")
        client = Client(deployment, journal, random.Random(1), only=steady)
        # It is asked everything and drives one at a time, so that something is left for the other one.
        await steady.start(STEPSTREAM_MAX_RUNNING="1")
        for document in workflows(outside.url):
            assert (await client.insist("POST", "/workflows", json=document)).status_code == 201
        async with deployment.tables() as tables:
            for point in POINTS:
                armed = f"{point}:freeze" if ":" in point else f"{point}:1:freeze"
                telling: list[asyncio.Task[None]] = []
                await zombie.launch("serve", "--port", "0", STEPSTREAM_CRASHPOINTS=armed)
                while not zombie.frozen:
                    assert not zombie.process.ended, (point, zombie.process.text)
                    if all(task.done() for task in telling):
                        key = f"{point.replace(':', '-')}-{len(telling)}"
                        telling += [
                            begin(Wish(client, outside, f"{key}-{story.__name__}", random.Random(1)), story)
                            for story in STORIES
                        ]
                    await pause(0.02)
                await zombie.process.says(f"crashpoint {point.partition(':')[0]}\n")
                await all_told(telling, tables)
                zombie.thaw()
                assert await zombie.stop() in {0, 143}, "143: it was not ready yet"
                check_log(zombie.process.out)
            await check_all(tables, journal, outside)
            assert await tables.fetchval("SELECT count(*) FROM executions WHERE lease_epoch > 1") > 0
        await client.close()
        journal.close()
        assert await steady.stop() == 0
