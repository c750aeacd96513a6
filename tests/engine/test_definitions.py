"""Compiled workflows are kept, loaded once for a crowd, and not remembered as broken."""

import asyncio

import pytest

from app.domain.errors import Problems, Unavailable
from app.engine import definitions as module
from app.engine.definitions import Definitions
from tests.engine.harness import Catalog

KEY = ("org_a", "wf_1", 1)
GOOD = {"name": "Good", "steps": [{"id": "a", "type": "start"}]}


class Source:
    def __init__(self):
        self.asked = []
        self.answer = GOOD
        self.free = asyncio.Event()
        self.free.set()

    async def definition(self, *key):
        self.asked.append(key)
        await self.free.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
async def source():
    return Source()


@pytest.fixture
async def definitions(source):
    catalog = Catalog({})
    yield Definitions(source, catalog)
    await catalog.aclose()


async def test_a_crowd_loads_a_workflow_once_and_those_who_leave_do_not_matter(definitions, source):
    source.free.clear()
    crowd = [asyncio.ensure_future(definitions.get(*KEY)) for _ in range(50)]
    await asyncio.sleep(0)
    for leaving in crowd[:3]:
        leaving.cancel()
    source.free.set()
    found = await asyncio.gather(*crowd, return_exceptions=True)
    assert len({id(workflow) for workflow in found[3:]}) == 1
    assert await definitions.get(*KEY) is found[3]
    assert source.asked == [KEY]
    assert definitions._loading == {}


async def test_what_could_not_be_loaded_is_asked_for_again(definitions, source):
    source.answer = Unavailable("away")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await definitions.get(*KEY)
    source.answer = None
    with pytest.raises(Problems) as caught:
        await definitions.get(*KEY)
    assert caught.value.error_code == "workflow_invalid"
    source.answer = GOOD
    assert (await definitions.get(*KEY)).definition.name == "Good"
    assert len(source.asked) == 4


async def test_all_may_leave_a_loading_that_fails(definitions, source):
    source.free.clear()
    leaving = asyncio.ensure_future(definitions.get(*KEY))
    await asyncio.sleep(0)
    leaving.cancel()
    source.answer = Unavailable("away")
    source.free.set()
    await asyncio.wait([leaving])
    while definitions._loading:
        await asyncio.sleep(0)


async def test_only_the_most_recently_used_are_kept(definitions, source, monkeypatch):
    monkeypatch.setattr(module, "KEEP", 2)
    for version in (1, 2, 1, 3, 1, 2):
        await definitions.get("org_a", "wf_1", version)
    assert [version for _, _, version in source.asked] == [1, 2, 3, 2]
    assert len(definitions._kept) == 2
