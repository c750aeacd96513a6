"""Heads of workflows: a crowd asks together, and nobody is told what was true before he came."""

import asyncio
from functools import partial

from app.db.engines import connect
from app.db.urls import ENGINE
from app.db.workflow_source import WorkflowSource
from app.engine.ports import WorkflowHead


async def test_a_crowd_asks_together_and_sees_what_was_saved_before_it_came(database):
    await database.add_tenant("org_a")
    await database.add_tenant("org_b")
    source = WorkflowSource(partial(connect, database.role_url(ENGINE), "test"))
    try:
        wanted = [
            ("org_a", "wf_org_a"),
            ("org_b", "wf_org_b"),
            ("org_a", "wf_org_b"),
            ("org_a", "wf\0"),
            ("org_a", "ö"),
        ]
        found = await asyncio.gather(*(source.head(*each) for each in wanted * 20))
        head = WorkflowHead(1, archived=False)
        assert found == [head, head, None, None, None] * 20
        asking = asyncio.ensure_future(source.head("org_a", "wf_org_a"))
        await asyncio.sleep(0)
        await database.execute("UPDATE workflows SET archived_at = now() WHERE org_id = 'org_a'")
        assert await source.head("org_a", "wf_org_a") == WorkflowHead(1, archived=True)
        assert (await asking).version == 1
    finally:
        await source.close()
