"""Verifying the audit log over HTTP: one's own chain, from the beginning or from a head that was kept."""

import asyncio
from typing import Any

import httpx

from tests.api.live import Organization
from tests.database import Database

VERIFY = "/api/v1/audit-logs/verify"
FIELDS = {"sound", "complete", "head", "seals", "rows", "first_broken", "unsealed", "unsealed_since"}


async def sealed(client: httpx.AsyncClient, organization: Organization, **parameters: str) -> dict[str, Any]:
    """The answer once the process itself has sealed everything."""
    unsealed = (
        "SELECT FROM audit_logs WHERE org_id = $1 "
        "AND position > (SELECT coalesce(max(upto), 0) FROM audit_seals WHERE org_id = $1)"
    )
    async with asyncio.timeout(20):
        while await organization.live.database.fetch(unsealed, organization.id):
            pass
    answer = await client.get(VERIFY, params=parameters)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert set(found) == FIELDS
    assert found["unsealed"] == 0
    return found


async def test_what_requests_leave_is_sealed_by_itself_and_verified(
    client: httpx.AsyncClient, other_client: httpx.AsyncClient, organization: Organization, database: Database
) -> None:
    kept = await sealed(client, organization)
    assert (kept["sound"], kept["complete"], kept["first_broken"], kept["unsealed_since"]) == (True, True, None, None)
    assert kept["rows"] == await database.fetchval("SELECT count(*) FROM audit_logs WHERE org_id = $1", organization.id)
    await client.post("/api/v1/api-keys", json={"name": "one more"})
    later = await sealed(client, organization, after=kept["head"])
    assert (later["sound"], later["rows"]) == (True, 1)
    whole = await sealed(client, organization)
    assert (whole["head"], whole["rows"]) == (later["head"], kept["rows"] + 1)
    foreign = (await other_client.get(VERIFY, params={"after": kept["head"]})).json()
    assert (foreign["sound"], foreign["first_broken"]["problem"]) == (False, "head_unknown")


async def test_a_changed_row_is_told(client: httpx.AsyncClient, organization: Organization, database: Database) -> None:
    before = await sealed(client, organization)
    await database.execute("UPDATE audit_logs SET user_id = 'somebody' WHERE org_id = $1", organization.id)
    first = await database.fetchval(
        "SELECT id FROM audit_logs WHERE org_id = $1 ORDER BY position LIMIT 1", organization.id
    )
    found = (await client.get(VERIFY)).json()
    assert found["sound"] is False
    assert found["first_broken"] == {
        "problem": "row_altered",
        "meaning": "A row is not what was sealed",
        "seal": 1,
        "audit_id": first,
    }
    assert (found["head"], found["rows"]) == ("0:", 0)
    await database.execute("DELETE FROM audit_seals WHERE org_id = $1", organization.id)
    await client.post("/api/v1/api-keys", json={"name": "something new to seal"})
    assert (await sealed(client, organization))["sound"]
    found = (await client.get(VERIFY, params={"after": before["head"]})).json()
    assert (found["sound"], found["head"]) == (False, before["head"])


async def test_who_may_not_read_the_log_may_not_verify_it(
    client: httpx.AsyncClient, viewer_client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    assert (await anonymous.get(VERIFY)).status_code == 401
    assert (await viewer_client.get(VERIFY)).status_code == 403
    for wrong in ("1", "x:", "1:abc", f"1:{'G' * 64}", f"{'9' * 19}:{'0' * 64}", f"1:{'0' * 64}\n"):
        answer = await client.get(VERIFY, params={"after": wrong})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "query:after"), wrong
