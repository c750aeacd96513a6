"""Workflows over HTTP: what is saved, what is refused, what a version promises."""

import asyncio
from typing import Any

import httpx
import pytest

from app.api.documents import YAML_EXAMPLE
from app.db.queries.workflows import MEASURED_EXECUTIONS
from tests.database import Database

PATH = "/api/v1/workflows"

GREET: dict[str, Any] = {
    "name": "Greet",
    "description": "Says hello",
    "steps": [{"id": "greet", "type": "set", "with": {"text": "Hello"}}],
}
BROKEN: dict[str, Any] = {
    "name": "Broken",
    "steps": [
        {"id": "a", "type": "set", "needs": ["nowhere"]},
        {"id": "b", "type": "no_such_type"},
        {"id": "b", "type": "set"},
    ],
}
UNCONFIGURED: dict[str, Any] = {
    "name": "Ask",
    "steps": [{"id": "ask", "type": "agent", "with": {"model": "anthropic:claude-opus-4-5", "prompt": "Hi"}}],
}


def greeting(text: str) -> dict[str, Any]:
    return GREET | {"steps": [{"id": "greet", "type": "set", "with": {"text": text}}]}


async def create(client: httpx.AsyncClient, document: Any = GREET, **params: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json=document, params=params)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def put(
    client: httpx.AsyncClient, workflow_id: str, document: Any, if_match: str | None, **params: Any
) -> httpx.Response:
    headers = {} if if_match is None else {"If-Match": if_match}
    return await client.put(f"{PATH}/{workflow_id}", json=document, headers=headers, params=params)


async def delete(client: httpx.AsyncClient, workflow_id: str, if_match: str = "*") -> httpx.Response:
    return await client.delete(f"{PATH}/{workflow_id}", headers={"If-Match": if_match})


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    return body


def codes(problems: list[dict[str, str]]) -> dict[str, str]:
    return {problem["pointer"]: problem["code"] for problem in problems}


async def add_execution(
    database: Database, workflow: dict[str, Any], name: str, duration: float | None = None, connection: Any = None
) -> None:
    await (connection or database).execute(
        "INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, duration_seconds) "
        "SELECT $1, $1, $2, $3, $4, user_id, $5 FROM memberships WHERE org_id = $2 LIMIT 1",
        name,
        workflow["org_id"],
        workflow["id"],
        workflow["version"],
        duration,
    )


async def audited(database: Database, workflow_id: str) -> list[tuple[str, Any]]:
    rows = await database.fetch(
        "SELECT action, details::jsonb ->> 'version' AS version, details::jsonb ->> 'name' AS name FROM audit_logs "
        "WHERE resource_type = 'workflow' AND resource_id = $1 AND success ORDER BY id",
        workflow_id,
    )
    return [(row["action"], (int(row["version"]), row["name"])) for row in rows]


class TestCreate:
    async def test_a_runnable_definition_is_saved_and_published(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(PATH, json=GREET)
        assert answer.status_code == 201
        assert answer.headers["etag"] == '"v1"'
        body = answer.json()
        assert answer.headers["location"] == f"{PATH}/{body['id']}"
        assert body["id"].startswith("wf_")
        assert (body["name"], body["description"]) == ("Greet", "Says hello")
        assert (body["status"], body["version"], body["published_version"]) == ("active", 1, 1)
        assert body["definition"] == GREET
        assert body["problems"] == []
        assert body["project_id"] is body["last_executed_at"] is body["archived_at"] is None
        assert {body[f"{kind}_count"] for kind in ("execution", "success", "failure", "cancelled")} == {0}
        assert body["created_at"].endswith("Z")
        read = await client.get(f"{PATH}/{body['id']}")
        assert read.status_code == 200
        assert read.headers["etag"] == '"v1"'
        assert read.json() == body

    async def test_yaml_is_saved_as_the_json_it_stands_for(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(PATH, content=YAML_EXAMPLE, headers={"Content-Type": "application/yaml"})
        assert answer.status_code == 201, answer.text
        assert answer.json()["definition"]["steps"][1]["with"]["default"] == "cold"
        assert answer.json()["problems"] == []

    async def test_a_document_may_bring_its_own_id_and_project(self, client: httpx.AsyncClient) -> None:
        body = await create(client, {"id": "wf_1df4b9c8", "project_id": "prj-1", **GREET})
        assert (body["id"], body["project_id"]) == ("wf_1df4b9c8", "prj-1")
        assert body["definition"] == GREET
        refused(await client.post(PATH, json={"id": "wf_1df4b9c8", **GREET}), 409, "already_exists")

    async def test_an_id_is_taken_within_one_organisation_only(
        self, client: httpx.AsyncClient, other_client: httpx.AsyncClient
    ) -> None:
        await create(client, {"id": "same", **GREET})
        await create(other_client, {"id": "same", **greeting("Hallo")})
        mine = (await client.get(f"{PATH}/same")).json()
        assert mine["definition"] == GREET

    @pytest.mark.parametrize("own_id", ["", "a b", "ä", "../x", "x" * 65, 7, ["x"]])
    async def test_an_id_that_is_none_is_refused_with_everything_else(
        self, client: httpx.AsyncClient, own_id: object
    ) -> None:
        answer = await client.post(PATH, json={"id": own_id, **BROKEN}, params={"draft": "true"})
        assert {"/id", "/steps/1/type"} <= set(codes(refused(answer, 422, "validation_error")["errors"]))

    async def test_fields_of_the_record_cannot_be_set(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(PATH, json=GREET | {"org_id": "org_b", "execution_count": 7})
        found = codes(refused(answer, 422, "workflow_invalid")["errors"])
        assert found == {"/org_id": "unknown_field", "/execution_count": "unknown_field"}

    async def test_a_definition_that_cannot_run_is_refused_with_all_its_problems(
        self, client: httpx.AsyncClient
    ) -> None:
        problem = refused(await client.post(PATH, json=BROKEN), 422, "workflow_invalid")
        assert codes(problem["errors"]) == {
            "/steps/0/needs/0": "unknown_step",
            "/steps/1/type": "unknown_step_type",
            "/steps/2/id": "duplicate_step_id",
        }
        assert "?draft=true" in problem["detail"]
        assert (await client.get(PATH)).json()["data"] == []

    async def test_a_draft_is_saved_with_its_problems_and_published_once_it_can_run(
        self, client: httpx.AsyncClient
    ) -> None:
        draft = await create(client, BROKEN, draft=True)
        assert (draft["status"], draft["version"], draft["published_version"]) == ("draft", 1, None)
        assert draft["definition"] == BROKEN
        assert "/steps/1/type" in codes(draft["problems"])
        read = (await client.get(f"{PATH}/{draft['id']}")).json()
        assert read == draft
        mended = (await put(client, draft["id"], GREET, '"v1"')).json()
        assert (mended["status"], mended["version"], mended["published_version"]) == ("active", 2, 2)
        assert mended["problems"] == []

    @pytest.mark.parametrize("text", [b"[]", b"null", b'"x"', b"7", b'[{"name": "x"}]'])
    async def test_what_is_no_object_is_refused_even_as_a_draft(self, client: httpx.AsyncClient, text: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        answer = await client.post(PATH, content=text, headers=headers, params={"draft": "true"})
        refused(answer, 422, "validation_error")

    @pytest.mark.parametrize("name", [None, "", 7, "x" * 201, "a\u0000b", "a\nb", "a\u202eb"])
    async def test_a_draft_needs_a_storable_name(self, client: httpx.AsyncClient, name: object) -> None:
        answer = await client.post(PATH, json={"name": name}, params={"draft": "true"})
        assert codes(refused(answer, 422, "validation_error")["errors"]) == {"/name": "invalid_value"}

    @pytest.mark.parametrize("description", [7, {"a": 1}, "x" * 10_000, "a\u0000b"])
    async def test_a_draft_keeps_whatever_else_it_holds(
        self, client: httpx.AsyncClient, description: object
    ) -> None:
        draft = {"name": "Rough", "description": description, "stepz": None}
        body = await create(client, draft, draft=True)
        assert body["definition"] == draft
        assert len(body["description"] or "") <= 4_000

    async def test_nul_in_a_definition_is_kept(self, client: httpx.AsyncClient) -> None:
        document = greeting("a\u0000b") | {"description": "c\u0000d"}
        body = await create(client, document)
        assert body["definition"] == document
        assert body["description"] == "cd"

    async def test_at_most_fifty_problems_are_told(self, client: httpx.AsyncClient) -> None:
        document = {"name": "Many", "steps": [{"id": f"s{n}", "type": "nope"} for n in range(80)]}
        assert len(refused(await client.post(PATH, json=document), 422, "workflow_invalid")["errors"]) == 50
        assert len((await create(client, document, draft=True))["problems"]) == 50

    async def test_missing_set_up_is_shown_but_saved_and_published(self, client: httpx.AsyncClient) -> None:
        body = await create(client, UNCONFIGURED)
        assert (body["status"], body["published_version"]) == ("active", 1)
        [problem] = body["problems"]
        assert problem["pointer"] == "/steps/0/with/model"
        assert problem["code"] in {"model_not_configured", "model_provider_not_installed"}
        assert (await client.get(f"{PATH}/{body['id']}")).json()["problems"] == [problem]
        stored = (await client.get(f"{PATH}/{body['id']}/versions/1")).json()
        assert (stored["valid"], stored["problems"]) == (True, [])

    @pytest.mark.parametrize(
        ("content", "content_type", "status", "code"),
        [
            (b"{", "application/json", 400, "invalid_json"),
            (b"", "application/json", 400, "invalid_json"),
            (b'{"name": NaN}', "application/json", 400, "invalid_json"),
            (b"a: [", "application/yaml", 400, "invalid_yaml"),
            (b"a: &x 1\nb: *x", "application/yaml", 400, "invalid_yaml"),
            (b"name: x", "text/plain", 415, "unsupported_media_type"),
            (b"{}", "application/json; charset=utf-16", 415, "unsupported_media_type"),
            (b"{}", None, 415, "unsupported_media_type"),
        ],
    )
    async def test_what_cannot_be_read_is_refused(
        self, client: httpx.AsyncClient, content: bytes, content_type: str | None, status: int, code: str
    ) -> None:
        headers = {} if content_type is None else {"Content-Type": content_type}
        for route in (PATH, f"{PATH}/validate"):
            refused(await client.post(route, content=content, headers=headers), status, code)
        headers["If-Match"] = "*"
        refused(await client.put(f"{PATH}/x", content=content, headers=headers), status, code)

    async def test_a_definition_may_have_two_mebibytes_and_no_more(self, client: httpx.AsyncClient) -> None:
        limit = 2 << 20
        room = limit - len(httpx.Request("POST", "http://x", json=greeting("")).content)
        await create(client, greeting("x" * room))

        async def chunks(size: int) -> Any:
            for _ in range(size // 1024):
                yield b" " * 1024

        headers = {"Content-Type": "application/json"}
        answer = await client.post(PATH, content=chunks(limit + 1024), headers=headers)
        assert answer.status_code == 413


class TestReplace:
    async def test_each_change_is_a_new_version_that_new_executions_use(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        body = await create(client)
        answer = await put(client, body["id"], greeting("Hi") | {"name": "Salute"}, '"v1"')
        assert answer.status_code == 200
        assert answer.headers["etag"] == '"v2"'
        changed = answer.json()
        assert (changed["name"], changed["version"], changed["published_version"]) == ("Salute", 2, 2)
        assert changed["updated_at"] > body["updated_at"]
        assert changed["created_at"] == body["created_at"]
        first = (await client.get(f"{PATH}/{body['id']}/versions/1")).json()
        assert first["definition"] == GREET
        assert await audited(database, body["id"]) == [
            ("workflow.created", (1, "Greet")),
            ("workflow.updated", (2, "Salute")),
        ]

    async def test_the_same_document_again_changes_nothing(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        body = await create(client)
        answer = await put(client, body["id"], GREET, '"v1"')
        assert answer.status_code == 200
        assert answer.headers["etag"] == '"v1"'
        assert answer.json() == body
        assert len(await audited(database, body["id"])) == 1

    async def test_a_draft_does_not_move_what_new_executions_use(self, client: httpx.AsyncClient) -> None:
        body = await create(client)
        draft = (await put(client, body["id"], BROKEN, '"v1"', draft=True)).json()
        assert (draft["status"], draft["version"], draft["published_version"]) == ("active", 2, 1)
        assert draft["problems"] != []
        runnable = (await put(client, body["id"], greeting("Hi"), '"v2"', draft=True)).json()
        assert (runnable["version"], runnable["published_version"], runnable["problems"]) == (3, 1, [])

    async def test_saving_a_runnable_draft_again_without_draft_publishes_it(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        body = await create(client, GREET, draft=True)
        assert (body["status"], body["published_version"]) == ("draft", None)
        answer = await put(client, body["id"], GREET, '"v1"')
        assert answer.headers["etag"] == '"v1"'
        assert (answer.json()["status"], answer.json()["published_version"]) == ("active", 1)
        assert (await audited(database, body["id"]))[-1] == ("workflow.updated", (1, "Greet"))

    async def test_an_invalid_definition_changes_nothing(self, client: httpx.AsyncClient) -> None:
        body = await create(client)
        refused(await put(client, body["id"], BROKEN, '"v1"'), 422, "workflow_invalid")
        assert (await client.get(f"{PATH}/{body['id']}")).json() == body

    async def test_a_change_says_what_it_is_based_on(self, client: httpx.AsyncClient) -> None:
        body = await create(client)
        refused(await put(client, body["id"], greeting("1"), None), 428, "precondition_required")
        for stale in ('"v2"', '"v0"', "v1", '"1"', '"x"', '""', ""):
            refused(await put(client, body["id"], greeting("1"), stale), 412, "version_conflict")
        for number, matching in enumerate(('"v1"', "*", 'W/"v3"', '"v9", "v4"'), 1):
            answer = await put(client, body["id"], greeting(str(number)), matching)
            assert (answer.status_code, answer.json()["version"]) == (200, number + 1)

    async def test_of_changes_based_on_the_same_version_one_wins(self, client: httpx.AsyncClient) -> None:
        body = await create(client)
        answers = await asyncio.gather(*(put(client, body["id"], greeting(f"{n}"), '"v1"') for n in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412]
        read = (await client.get(f"{PATH}/{body['id']}")).json()
        [winner] = [answer for answer in answers if answer.status_code == 200]
        assert read == winner.json()

    async def test_changes_based_on_whatever_is_latest_all_count(self, client: httpx.AsyncClient) -> None:
        body = await create(client)
        answers = await asyncio.gather(*(put(client, body["id"], greeting(f"{n}"), "*") for n in range(5)))
        assert sorted(answer.json()["version"] for answer in answers) == [2, 3, 4, 5, 6]

    async def test_the_id_in_the_document_is_that_of_the_path(self, client: httpx.AsyncClient) -> None:
        body = await create(client, {"id": "mine", **GREET})
        answer = await put(client, "mine", {"id": "mine", "project_id": "prj", **GREET}, '"v1"')
        assert (answer.status_code, answer.json()["version"], answer.json()["project_id"]) == (200, 1, "prj")
        kept = await put(client, "mine", greeting("Hi"), '"v1"')
        assert kept.json()["project_id"] == "prj"
        cleared = await put(client, "mine", greeting("Hi") | {"project_id": None}, '"v2"')
        assert cleared.json()["project_id"] is None
        wrong = await put(client, body["id"], {"id": "yours", **GREET}, "*")
        assert codes(refused(wrong, 422, "validation_error")["errors"]) == {"/id": "invalid_value"}


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

    async def test_a_draft_runs_into_its_problems_of_today(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        draft = await create(client, BROKEN, draft=True)
        await database.execute("UPDATE workflow_versions SET problems = '[{}]', definition = $1", '{"name": "x"}')
        [problem] = (await client.get(f"{PATH}/{draft['id']}")).json()["problems"]
        assert (problem["pointer"], problem["code"]) == ("/steps", "missing_field")

    async def test_a_saved_version_that_can_no_longer_run_says_so(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        body = await create(client)
        await database.execute(
            "UPDATE workflow_versions SET definition = replace(definition, '\"set\"', '\"uninstalled\"')"
        )
        assert codes((await client.get(f"{PATH}/{body['id']}")).json()["problems"]) == {
            "/steps/0/type": "unknown_step_type"
        }

    async def test_the_list_pages_through_everything_once_newest_first(self, client: httpx.AsyncClient) -> None:
        made = [(await create(client, {"id": f"wf-{n}", **GREET}))["id"] for n in (3, 1, 2, 5, 4)]
        seen: list[str] = []
        path: str | None = f"{PATH}?limit=2"
        while path is not None:
            answer = await client.get(path)
            seen += [row["id"] for row in answer.json()["data"]]
            path = answer.links["next"]["url"] if answer.json()["has_more"] else None
        assert seen == made[::-1]

    async def test_workflows_of_one_moment_are_paged_by_id(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        made = [(await create(client, {"id": f"wf-{n}", **GREET}))["id"] for n in (3, 1, 2)]
        await database.execute("UPDATE workflows SET created_at = '2026-01-01T00:00:00.123456Z'")
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


class TestDelete:
    async def test_a_workflow_without_executions_is_removed(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        body = await create(client)
        answer = await delete(client, body["id"], '"v1"')
        assert (answer.status_code, answer.content) == (204, b"")
        for path in ("", "/versions", "/versions/1", "/stats"):
            refused(await client.get(f"{PATH}/{body['id']}{path}"), 404, "not_found")
        refused(await put(client, body["id"], GREET, "*"), 404, "not_found")
        refused(await delete(client, body["id"]), 404, "not_found")
        assert (await client.get(PATH, params={"archived": "true"})).json()["data"] == []
        assert await database.fetchval("SELECT count(*) FROM workflow_versions") == 0
        assert (await audited(database, body["id"]))[-1] == ("workflow.deleted", (1, "Greet"))

    async def test_a_removed_id_is_free_but_its_version_numbers_are_not(self, client: httpx.AsyncClient) -> None:
        first = await create(client, {"id": "mine", **GREET, "project_id": "prj"})
        assert (await client.get(f"{PATH}/mine")).json() == first
        await delete(client, "mine")
        again = await create(client, {"id": "mine", **greeting("Again")})
        assert (again["version"], again["published_version"], again["project_id"]) == (2, 2, None)
        assert again["created_at"] > first["created_at"]
        assert (await client.get(f"{PATH}/mine")).json() == again
        refused(await client.get(f"{PATH}/mine/versions/1"), 404, "not_found")
        refused(await client.post(PATH, json={"id": "mine", **GREET}), 409, "already_exists")

    async def test_a_workflow_with_executions_is_archived(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        body = await create(client, {"id": "used", **GREET})
        await add_execution(database, body, "exec_1")
        assert (await delete(client, "used")).status_code == 204
        read = (await client.get(f"{PATH}/used")).json()
        assert (read["status"], read["definition"]) == ("archived", GREET)
        assert read["archived_at"] is not None
        assert (await client.get(PATH)).json()["data"] == []
        assert [row["id"] for row in (await client.get(PATH, params={"archived": "true"})).json()["data"]] == ["used"]
        refused(await put(client, "used", greeting("Hi"), "*"), 409, "invalid_state")
        refused(await client.post(PATH, json={"id": "used", **GREET}), 409, "already_exists")
        assert (await delete(client, "used")).status_code == 204
        assert (await client.get(f"{PATH}/used")).json() == read
        assert [action for action, _ in await audited(database, "used")] == ["workflow.created", "workflow.archived"]

    async def test_an_execution_accepted_during_the_deletion_keeps_its_workflow(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        body = await create(client)
        async with database.connected() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await add_execution(database, body, "exec_1", connection=connection)
            deleting = asyncio.create_task(delete(client, body["id"]))
            while not deleting.done() and not await database.fetchval(
                "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
                "WHERE NOT l.granted AND a.datname = current_database()"
            ):
                await asyncio.sleep(0)
            assert not deleting.done()
            await transaction.commit()
        assert (await deleting).status_code == 204
        assert (await client.get(f"{PATH}/{body['id']}")).json()["status"] == "archived"

    async def test_a_deletion_says_what_it_is_based_on(self, client: httpx.AsyncClient) -> None:
        body = await create(client)
        refused(await client.delete(f"{PATH}/{body['id']}"), 428, "precondition_required")
        refused(await delete(client, body["id"], '"v2"'), 412, "version_conflict")
        assert (await client.get(f"{PATH}/{body['id']}")).status_code == 200


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

    @pytest.mark.parametrize("text", [b"null", b"[]", b'"x"', b"1", b"{}"])
    async def test_any_json_is_judged_not_refused(self, client: httpx.AsyncClient, text: bytes) -> None:
        headers = {"Content-Type": "application/json"}
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
        for number, seconds in enumerate((1.0, 2.0, 3.0, None)):
            await add_execution(database, body, f"exec_{number}", seconds)
        await add_execution(database, neighbour, "exec_other", 1000.0)
        stats = (await client.get(f"{PATH}/{body['id']}/stats")).json()
        assert (stats["execution_count"], stats["success_rate"]) == (4, 0.75)
        assert stats["average_duration_seconds"] == 2.0
        assert stats["p95_duration_seconds"] == pytest.approx(2.9)
        assert stats["last_executed_at"] == "2026-01-02T03:04:05Z"

    async def test_durations_are_those_of_the_latest_executions(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        body = await create(client)
        await add_execution(database, body, "exec_00000", 1_000_000.0)
        await database.execute(
            "INSERT INTO executions (id, root_id, org_id, workflow_id, workflow_version, user_id, duration_seconds) "
            "SELECT 'exec_' || lpad(n::text, 5, '0'), 'x', org_id, workflow_id, 1, user_id, 2 "
            "FROM executions, generate_series(1, $1) n",
            MEASURED_EXECUTIONS,
        )
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

    @pytest.mark.parametrize("workflow_id", ["x" * 300, "a b", "ä", "..%2Fx", "exec_1", "validate"])
    async def test_an_id_of_any_shape_is_just_not_found(self, client: httpx.AsyncClient, workflow_id: str) -> None:
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
