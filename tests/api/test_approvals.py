"""Approvals: who may decide, once, and what the decisions come to."""

import asyncio
import json

import pytest

from app.auth.permissions import Role
from tests.api.control_calls import add_approval, add_execution, audited, mail_of
from tests.api.workflow_calls import codes, create, refused

URL = "/api/v1/approvals"
FORM = {"type": "object", "properties": {"limit": {"type": "integer"}}, "required": ["limit"]}


@pytest.fixture
async def execution(client, database):
    workflow = await create(client)
    return workflow | {"id": await add_execution(database, workflow, "WAITING"), "workflow_id": workflow["id"]}


@pytest.fixture
async def member(organization):
    return await organization.member(Role.MEMBER)


async def decide(client, approval_id, decision="approve", **body):
    return await client.post(f"{URL}/{approval_id}/decide", json={"decision": decision, **body})


async def test_a_decision_is_mail_with_an_audit_row_and_shown_at_once(client, owner, database, execution):
    approval_id = await add_approval(database, execution, form=FORM)
    before = (await client.get(f"{URL}/{approval_id}")).json()
    assert (before["status"], before["verdict"], before["decisions"], before["form"]) == ("PENDING", None, [], FORM)
    assert (before["execution_id"], before["workflow_id"]) == (execution["id"], execution["workflow_id"])
    answer = await decide(client, approval_id, comment="fine", data={"limit": 5})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["verdict"]) == ("PENDING", "approved"), "the status follows"
    [made] = answer.json()["decisions"]
    assert (made["decision"], made["comment"], made["data"], made["user_id"]) == (
        "approve", "fine", {"limit": 5}, owner.user_id,
    )  # fmt: skip
    [mail] = await mail_of(database, execution["id"])
    assert (mail["kind"], mail["topic"], mail["dedupe_key"]) == (
        "decision", approval_id, f"{approval_id}:{owner.user_id}",
    )  # fmt: skip
    assert json.loads(mail["payload"]) == {"decision": "approve", "comment": "fine", "data": {"limit": 5}}
    assert await audited(database, approval_id) == ["approval.approved"]


async def test_the_same_decision_again_answers_the_same_and_another_is_refused(client, database, execution):
    approval_id = await add_approval(database, execution, quorum=2)
    first = await decide(client, approval_id, comment="ok")
    again = await decide(client, approval_id, comment="ok")
    assert (again.status_code, again.json()) == (200, first.json())
    refused(await decide(client, approval_id, "reject"), 409, "already_decided_by_you")
    refused(await decide(client, approval_id, comment="other"), 409, "already_decided_by_you")
    await database.execute("UPDATE approvals SET status = 'APPROVED' WHERE id = $1", approval_id)
    assert (await decide(client, approval_id, comment="ok")).status_code == 200, "also once it is over"
    assert len(await mail_of(database, execution["id"])) == 1
    assert await audited(database, approval_id) == ["approval.approved"]


async def test_a_quorum_needs_so_many_people(client, member, organization, database, execution):
    approval_id = await add_approval(database, execution, quorum=2)
    assert (await decide(client, approval_id)).json()["verdict"] is None
    async with member.http() as second:
        assert (await decide(second, approval_id)).json()["verdict"] == "approved"
    async with (await organization.member()).http() as third:
        refused(await decide(third, approval_id, "reject"), 409, "approval_decided")
    assert len(await mail_of(database, execution["id"])) == 2


async def test_one_rejection_rejects(client, member, database, execution):
    approval_id = await add_approval(database, execution, quorum=2, form=FORM)
    answer = await decide(client, approval_id, "reject", comment="no")
    assert (answer.status_code, answer.json()["verdict"]) == (200, "rejected"), "and needs no form"
    async with member.http() as other:
        refused(await decide(other, approval_id, data={"limit": 1}), 409, "approval_decided")
    assert await audited(database, approval_id) == ["approval.rejected"]


async def test_of_people_deciding_at_once_only_as_many_as_it_takes_decide(organization, database, execution):
    approval_id = await add_approval(database, execution, quorum=2)
    clients = [(await organization.member()).http() for _ in range(8)]
    answers = await asyncio.gather(*(decide(client, approval_id) for client in clients))
    for client in clients:
        await client.aclose()
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [409] * 6
    assert len(await mail_of(database, execution["id"])) == 2


@pytest.mark.parametrize("status", ["APPROVED", "REJECTED", "EXPIRED", "CANCELLED"])
async def test_what_is_no_longer_pending_is_not_decided(client, database, execution, status):
    approval_id = await add_approval(database, execution)
    await database.execute("UPDATE approvals SET status = $2 WHERE id = $1", approval_id, status)
    refused(await decide(client, approval_id), 409, "approval_decided")
    assert await mail_of(database, execution["id"]) == []


async def test_only_the_people_and_roles_that_are_named_decide(client, member, owner, database, execution):
    by_role = await add_approval(database, execution, roles=["member"])
    by_name = await add_approval(database, execution, users=[owner.user_id])
    async with member.http() as other:
        refused(await decide(client, by_role), 403, "not_a_decider")
        refused(await decide(other, by_name), 403, "not_a_decider")
        assert (await decide(other, by_role)).status_code == 200
        assert (await decide(client, by_name)).status_code == 200


async def test_who_started_the_execution_does_not_decide_unless_the_workflow_says_so(
    client, owner, database, execution
):
    own = await add_approval(database, execution, requested_by=owner.user_id)
    refused(await decide(client, own), 403, "self_approval")
    allowed = await add_approval(database, execution, requested_by=owner.user_id, self_approval=True)
    assert (await decide(client, allowed)).status_code == 200


async def test_a_key_decides_as_its_user_and_only_with_the_scope(live, client, owner, database, execution):
    approval_id = await add_approval(database, execution, requested_by=owner.user_id)
    for scopes, code in ((["approvals.decide"], "self_approval"), (["executions.read"], "insufficient_scope")):
        key = (await client.post("/api/v1/api-keys", json={"name": "bot", "scopes": scopes})).json()["key"]
        async with live.http(key) as bot:
            refused(await decide(bot, approval_id), 403, code)


async def test_an_approval_fits_its_form(client, database, execution):
    approval_id = await add_approval(database, execution, form=FORM)
    body = refused(await decide(client, approval_id, data={"limit": "much"}), 422, "form_mismatch")
    assert codes(body["errors"]) == {"/data/limit": "form_mismatch"}
    assert "much" not in str(body)
    refused(await decide(client, approval_id), 422, "form_mismatch")
    assert await mail_of(database, execution["id"]) == []


@pytest.mark.parametrize("body", [{}, {"decision": "maybe"}, {"decision": "approve", "comment": "x" * 2_001}])
async def test_a_decision_that_makes_no_sense_is_refused(client, database, execution, body):
    approval_id = await add_approval(database, execution)
    refused(await client.post(f"{URL}/{approval_id}/decide", json=body), 422, "validation_error")


async def test_the_inbox_shows_what_is_pending_by_default_and_pages(client, database, execution):
    ids = [await add_approval(database, execution) for _ in range(3)]
    await database.execute("UPDATE approvals SET status = 'EXPIRED' WHERE id = $1", ids[0])

    async def listed(**params):
        answer = await client.get(URL, params=params)
        assert answer.status_code == 200, answer.text
        return [approval["id"] for approval in answer.json()["data"]]

    assert await listed() == ids[:0:-1]
    assert await listed(status="expired") == ids[:1]
    assert await listed(status="all") == ids[::-1]
    assert await listed(execution_id="exec_nothing") == []
    assert await listed(execution_id=execution["id"], status=["Pending", "EXPIRED"]) == ids[::-1]
    first = (await client.get(URL, params={"limit": 1})).json()
    assert [approval["id"] for approval in first["data"]] == [ids[2]]
    assert await listed(limit=1, cursor=first["next_cursor"]) == [ids[1]]
    body = refused(await client.get(URL, params={"status": ["nonsense", "rubbish"]}), 422, "validation_error")
    assert len(body["errors"]) == 1, "it is one thing to say"


async def test_ones_own_inbox_has_only_what_one_may_decide_and_has_not(
    client, owner, member, viewer_client, database, execution
):
    open_to_all = await add_approval(database, execution, quorum=2)
    of_members = await add_approval(database, execution, roles=["member"])
    of_owner = await add_approval(database, execution, users=[owner.user_id], requested_by="user_somebody")
    own = await add_approval(database, execution, requested_by=owner.user_id)
    own_allowed = await add_approval(database, execution, requested_by=owner.user_id, self_approval=True)

    async def mine(who):
        answer = await who.get(URL, params={"mine": True})
        return {approval["id"] for approval in answer.json()["data"]}

    assert await mine(client) == {open_to_all, of_owner, own_allowed}
    async with member.http() as other:
        assert await mine(other) == {open_to_all, of_members, own, own_allowed}
        await decide(other, open_to_all)
        assert open_to_all not in await mine(other)
    assert open_to_all in await mine(client)
    assert await mine(viewer_client) == set(), "a viewer decides nothing"
    assert len((await viewer_client.get(URL)).json()["data"]) == 5


async def test_approvals_of_others_are_not_there(other_client, database, execution):
    approval_id = await add_approval(database, execution)
    refused(await other_client.get(f"{URL}/{approval_id}"), 404, "not_found")
    refused(await decide(other_client, approval_id), 404, "not_found")
    assert (await other_client.get(URL)).json()["data"] == []
