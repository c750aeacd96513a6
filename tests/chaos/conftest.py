"""A deployment of one app for the tests of a module."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.chaos.client import Client
from tests.chaos.cluster import Cluster, cluster
from tests.chaos.journal import Journal
from tests.chaos.sink import Sink, sink
from tests.chaos.workload import workflows


@dataclass(frozen=True)
class World:
    """A deployment of one app, what its steps have effects on, and a client that keeps books."""

    deployment: Cluster
    outside: Sink
    client: Client
    journal: Journal


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """The app runs and knows the workflows of the stories."""
    directory = tmp_path_factory.mktemp("chaos")
    async with sink(directory / "effects") as outside, cluster(apps=1, **outside.environment) as deployment:
        journal = Journal(directory / "journal")
        client = Client(deployment, journal, random.Random(1))
        await deployment.apps[0].start()
        for document in workflows(outside.url):
            assert (await client.insist("POST", "/workflows", json=document)).status_code == 201
        yield World(deployment, outside, client, journal)
        await client.close()
        journal.close()
