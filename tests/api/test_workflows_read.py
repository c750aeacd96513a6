"""Reading workflows over HTTP: lists, versions, checks, figures, step types, and who may."""

import httpx
import pytest

from app import clock
from app.api.documents import YAML_EXAMPLE
from app.db.queries.workflows import MEASURED_EXECUTIONS
from tests.api.workflow_calls import (
    BROKEN,
    GREET,
    PATH,
    UNCONFIGURED,
    add_executions,
    codes,
    create,
    delete,
    greeting,
    put,
    refused,
)
from tests.database import Database


class TestRead:
    async def test_a_known_version_is_not_sent_again(self, client: httpx.AsyncClient) -> None:
        path = f"{PATH}/{(await create(client))['id']}"
        for known in ('"v1"', 'W/"v1"', '"v7", "v1"', "*"):
            answer = await client.get(path, headers={"If-None-Match": known})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", '"v1"')
        assert (await client.get(path, headers={"If-None-Match": '"v2"'})).status_code == 200

    async def test_nobody_keeps_an_answer_whose_counters_move(self, client: httpx.AsyncClient) -> None:
        answer = await client.get(f"{PATH}/{(await create(client))['id']}")
        assert answer.headers["cache-control"] == "no-store"

    async def test_a_draft_runs_into_its_problems_of_today(self, client: httpx.AsyncClient, database: Database) -> None:
        draft = await create(client, BROKEN, draft=True)
        await database.execute(
            "UPDATE workflow_versions SET definition = $1 WHERE workflow_id = $2", '{"name": "x"}', draft["id"]
        )
        [problem] = (await client.get(f"{PATH}/{draft['id']}")).json()["problems"]
        assert (problem["pointer"], problem["code"]) == ("/steps", "missing_field")

    async def test_a_saved_version_that_can_no_longer_run_says_so(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        body = await create(client)
        await database.execute(
            "UPDATE workflow_versions SET definition = replace(definition, '\"set\"', '\"uninstalled\"') "
            "WHERE workflow_id = $1",
            body["id"],
        )
        assert codes((await client.get(f"{PATH}/{body['id']}")).json()["problems"]) == {
            "/steps/0/type": "unknown_step_type"
        }

    async def test_the_list_pages_through_everything_once_newest_first(self, client: httpx.AsyncClient) -> None:
        prefix = clock.new_id("wf")
        made = [(await create(client, {"id": f"{prefix}-{n}", **GREET}))["id"] for n in (3, 1, 2, 5, 4)]
        seen: list[str] = []
        path: str | None = f"{PATH}?limit=2"
        while path is not None:
            answer = await client.get(path)
            seen += [row["id"] for row in answer.json()["data"]]
            path = answer.links["next"]["url"] if answer.json()["has_more"] else None
        assert seen == made[::-1]

    async def test_workflows_of_one_moment_are_paged_by_id(self, client: httpx.AsyncClient, database: Database) -> None:
        prefix = clock.new_id("wf")
        made = [(await create(client, {"id": f"{prefix}-{n}", **GREET}))["id"] for n in (3, 1, 2)]
        await database.execute(
            "UPDATE workflows SET created_at = '2026-01-01T00:00:00.123456Z' WHERE id = ANY($1)", made
        )
        first = (await client.get(PATH, params={"limit": 1})).json()
        second = (await client.get(PATH, params={"limit": 2, "cursor": first["next_cursor"]})).json()
        assert [row["id"] for row in first["data"] + second["data"]] == sorted(made, reverse=True)
        assert second["has_more"] is False

    async def test_the_list_leaves_definitions_out(self, client: httpx.AsyncClient) -> None:
        body = await create(client)
        [row] = (await client.get(PATH)).json()["data"]
        assert row == {key: value for key, value in body.items() if key not in {"definition", "problems"}}

    async def test_the_list_is_narrowed_by_a_part_of_the_name(self, client: httpx.AsyncClient) -> None:
        for name in ("Sales leads", "SALES 100%", "a_b", "other"):
            await create(client, GREET | {"name": name})

        async def found(q: str) -> set[str]:
            answer = await client.get(PATH, params={"q": q})
            return {row["name"] for row in answer.json()["data"]}

        assert await found("sales") == {"Sales leads", "SALES 100%"}
        assert await found("0%") == {"SALES 100%"}
        assert await found("_") == {"a_b"}
        assert await found("%") == {"SALES 100%"}
        assert await found("/") == set()
        assert len(await found("")) == 4

    async def test_a_cursor_of_another_list_is_refused(self, client: httpx.AsyncClient) -> None:
        workflow = await create(client)
        await create(client)
        cursor = (await client.get(PATH, params={"limit": 1})).json()["next_cursor"]
        for path in (f"{PATH}/{workflow['id']}/versions", PATH):
            answer = await client.get(path, params={"cursor": cursor if path != PATH else "x" + cursor})
            refused(answer, 422, "invalid_cursor")

    async def test_limits_are_refused_not_clamped(self, client: httpx.AsyncClient) -> None:
        for limit in ("0", "201", "-1", "x"):
            refused(await client.get(PATH, params={"limit": limit}), 422, "validation_error")

    async def test_versions_are_listed_newest_first(self, client: httpx.AsyncClient) -> None:
        body = await create(client)
        await put(client, body["id"], greeting("Hi"), "*")
        await put(client, body["id"], BROKEN, "*", draft=True)
        path = f"{PATH}/{body['id']}/versions"
        first = (await client.get(path, params={"limit": 2})).json()
        rest = (await client.get(path, params={"limit": 2, "cursor": first["next_cursor"]})).json()
        assert [(row["version"], row["valid"], row["published"]) for row in first["data"] + rest["data"]] == [
            (3, False, False),
            (2, True, True),
            (1, True, False),
        ]
        assert rest["has_more"] is False
        assert "definition" not in first["data"][0]
        third = (await client.get(f"{path}/3")).json()
        assert third["definition"] == BROKEN
        assert "unknown_step_type" in codes(third["problems"]).values()
        assert third["created_by"] is not None

    async def test_a_version_that_is_not_there_is_not_found(self, client: httpx.AsyncClient) -> None:
        body = await create(client)
        refused(await client.get(f"{PATH}/{body['id']}/versions/2"), 404, "not_found")
        for number in ("0", "-1", "x", str(1 << 40)):
            refused(await client.get(f"{PATH}/{body['id']}/versions/{number}"), 422, "validation_error")


class TestValidate:
    async def test_a_right_definition_is_valid(self, client: httpx.AsyncClient) -> None:
        for document in (GREET, {"id": "mine", "project_id": None, **GREET}):
            answer = await client.post(f"{PATH}/validate", json=document)
            assert (answer.status_code, answer.json()) == (200, {"valid": True, "problems": []})
        assert (await client.get(PATH)).json()["data"] == []

    async def test_everything_wrong_is_told(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(f"{PATH}/validate", json={"id": "a b", **BROKEN})
        assert answer.status_code == 200
        assert answer.json()["valid"] is False
        assert codes(answer.json()["problems"]) == {
            "/id": "invalid_value",
            "/steps/0/needs/0": "unknown_step",
            "/steps/1/type": "unknown_step_type",
            "/steps/2/id": "duplicate_step_id",
        }

    async def test_yaml_is_checked_too(self, client: httpx.AsyncClient) -> None:
        headers = {"Content-Type": "text/yaml"}
        answer = await client.post(f"{PATH}/validate", content=YAML_EXAMPLE, headers=headers)
        assert answer.json() == {"valid": True, "problems": []}

    async def test_any_json_is_judged_not_refused(self, client: httpx.AsyncClient) -> None:
        headers = {"Content-Type": "application/json"}
        for text in (b"null", b"[]", b'"x"', b"1", b"{}"):
            answer = await client.post(f"{PATH}/validate", content=text, headers=headers)
            assert answer.status_code == 200
            assert answer.json()["valid"] is False
            assert answer.json()["problems"] != []

    async def test_missing_set_up_is_a_problem_of_a_valid_definition(self, client: httpx.AsyncClient) -> None:
        answer = (await client.post(f"{PATH}/validate", json=UNCONFIGURED)).json()
        assert answer["valid"] is True
        assert [problem["pointer"] for problem in answer["problems"]] == ["/steps/0/with/model"]


class TestStats:
    async def test_a_workflow_that_never_ran_has_no_rates(self, client: httpx.AsyncClient) -> None:
        body = await create(client)
        assert (await client.get(f"{PATH}/{body['id']}/stats")).json() == {
            "workflow_id": body["id"],
            "execution_count": 0,
            "success_count": 0,
            "failure_count": 0,
            "cancelled_count": 0,
            "success_rate": None,
            "average_duration_seconds": None,
            "p95_duration_seconds": None,
            "last_executed_at": None,
        }

    async def test_figures_are_those_of_this_workflow_alone(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        body, neighbour = await create(client), await create(client)
        await database.execute(
            "UPDATE workflows SET execution_count = 4, success_count = 3, failure_count = 1, "
            "last_executed_at = '2026-01-02T03:04:05Z' WHERE id = $1",
            body["id"],
        )
        for seconds in (1.0, 2.0, 3.0, None):
            await add_executions(database, body, seconds)
        await add_executions(database, neighbour, 1000.0)
        stats = (await client.get(f"{PATH}/{body['id']}/stats")).json()
        assert (stats["execution_count"], stats["success_rate"]) == (4, 0.75)
        assert stats["average_duration_seconds"] == 2.0
        assert stats["p95_duration_seconds"] == pytest.approx(2.9)
        assert stats["last_executed_at"] == "2026-01-02T03:04:05Z"

    async def test_durations_are_those_of_the_latest_executions(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        body = await create(client)
        await add_executions(database, body, 1_000_000.0)
        await add_executions(database, body, 2.0, MEASURED_EXECUTIONS)
        assert (await client.get(f"{PATH}/{body['id']}/stats")).json()["average_duration_seconds"] == 2.0


class TestAccess:
    async def test_nothing_of_another_organisation_can_be_seen_or_changed(
        self, client: httpx.AsyncClient, other_client: httpx.AsyncClient
    ) -> None:
        body = await create(client)
        path = f"{PATH}/{body['id']}"
        for foreign, missing in ((path, f"{PATH}/wf_none"), (f"{path}/versions/1", f"{PATH}/wf_none/versions/1")):
            answers = [refused(await other_client.get(url), 404, "not_found") for url in (foreign, missing)]
            for answer in answers:
                del answer["instance"], answer["request_id"]
            assert answers[0] == answers[1]
        refused(await other_client.get(f"{path}/versions"), 404, "not_found")
        refused(await other_client.get(f"{path}/stats"), 404, "not_found")
        refused(await put(other_client, body["id"], greeting("Hi"), "*"), 404, "not_found")
        refused(await put(other_client, body["id"], greeting("Hi"), None), 404, "not_found")
        refused(await delete(other_client, body["id"]), 404, "not_found")
        assert (await other_client.get(PATH)).json()["data"] == []
        assert (await client.get(path)).json() == body

    async def test_a_cursor_of_another_organisation_is_refused(
        self, client: httpx.AsyncClient, other_client: httpx.AsyncClient
    ) -> None:
        await create(client)
        await create(client)
        cursor = (await client.get(PATH, params={"limit": 1})).json()["next_cursor"]
        refused(await other_client.get(PATH, params={"cursor": cursor}), 422, "invalid_cursor")

    async def test_a_viewer_reads_and_checks_but_changes_nothing(
        self, client: httpx.AsyncClient, viewer_client: httpx.AsyncClient
    ) -> None:
        body = await create(client)
        path = f"{PATH}/{body['id']}"
        for url in (PATH, path, f"{path}/versions", f"{path}/versions/1", f"{path}/stats"):
            assert (await viewer_client.get(url)).status_code == 200
        assert (await viewer_client.post(f"{PATH}/validate", json=GREET)).status_code == 200
        refused(await viewer_client.post(PATH, json=GREET), 403, "insufficient_scope")
        refused(await put(viewer_client, body["id"], greeting("Hi"), "*"), 403, "insufficient_scope")
        refused(await delete(viewer_client, body["id"]), 403, "insufficient_scope")
        assert (await client.get(path)).json() == body

    async def test_a_caller_is_known_before_a_body_is_read(self, viewer_client: httpx.AsyncClient) -> None:
        answer = await viewer_client.post(PATH, content=b"{", headers={"Content-Type": "application/json"})
        refused(answer, 403, "insufficient_scope")

    async def test_an_id_of_any_shape_is_just_not_found(self, client: httpx.AsyncClient) -> None:
        for workflow_id in ("x" * 300, "a b", "ä", "..%2Fx", "exec_1", "validate"):
            refused(await client.get(f"{PATH}/{workflow_id}"), 404, "not_found")


class TestStepTypes:
    async def test_all_types_are_listed_with_their_schemas(self, viewer_client: httpx.AsyncClient) -> None:
        answer = (await viewer_client.get("/api/v1/step-types")).json()
        by_type = {entry["type"]: entry for entry in answer["data"]}
        assert {"set", "switch", "delay", "function", "http.request", "agent"} <= set(by_type)
        assert (answer["next_cursor"], answer["has_more"]) == (None, False)
        assert by_type["switch"]["ports_from"] == "cases"
        assert by_type["http.request"]["effect"] == "once"
        one = (await viewer_client.get("/api/v1/step-types/http.request")).json()
        assert one == by_type["http.request"]
        assert {"method", "url"} <= set(one["config_schema"]["properties"])

    async def test_defaults_are_written_as_a_definition_writes_them(self, client: httpx.AsyncClient) -> None:
        kind = (await client.get("/api/v1/step-types/log")).json()
        step = {"id": "a", "type": "log", "with": {"message": "x"}, "retry": kind["retry"], "timeout": kind["timeout"]}
        await create(client, {"name": "Defaults", "steps": [step]})

    async def test_an_unknown_type_is_not_found(self, client: httpx.AsyncClient) -> None:
        refused(await client.get("/api/v1/step-types/nope"), 404, "not_found")
