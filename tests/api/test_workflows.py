"""Saving, changing and deleting workflows over HTTP: what is accepted, what is refused, what a version promises."""

import asyncio

import httpx

from app.api.documents import YAML_EXAMPLE
from tests.api.workflow_calls import (
    BROKEN,
    GREET,
    PATH,
    UNCONFIGURED,
    add_executions,
    audited,
    codes,
    create,
    delete,
    greeting,
    put,
    refused,
)
from tests.database import Database


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

    async def test_an_id_that_is_none_is_refused_with_everything_else(self, client: httpx.AsyncClient) -> None:
        for own_id in ("", "a b", "ä", "../x", "x" * 65, "x\n", 7, ["x"]):
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

    async def test_what_is_no_object_is_refused_even_as_a_draft(self, client: httpx.AsyncClient) -> None:
        headers = {"Content-Type": "application/json"}
        for text in (b"[]", b"null", b'"x"', b"7", b'[{"name": "x"}]'):
            answer = await client.post(PATH, content=text, headers=headers, params={"draft": "true"})
            refused(answer, 422, "validation_error")

    async def test_a_draft_needs_a_storable_name(self, client: httpx.AsyncClient) -> None:
        for name in (None, "", 7, "x" * 201, "a\u0000b", "a\nb", "a\u202eb"):
            answer = await client.post(PATH, json={"name": name}, params={"draft": "true"})
            assert codes(refused(answer, 422, "validation_error")["errors"]) == {"/name": "invalid_value"}

    async def test_a_draft_keeps_whatever_else_it_holds(self, client: httpx.AsyncClient) -> None:
        for description in (7, {"a": 1}, "x" * 10_000, "a\u0000b"):
            draft = {"name": "Rough", "description": description, "stepz": None}
            body = await create(client, draft, draft=True)
            assert body["definition"] == draft
            assert len(body["description"] or "") <= 4_000

    async def test_nul_is_kept_in_settings_and_refused_in_our_own_fields(self, client: httpx.AsyncClient) -> None:
        document = greeting("a\u0000b")
        assert (await create(client, document))["definition"] == document
        answer = await client.post(PATH, json=document | {"description": "c\u0000d"})
        assert refused(answer, 422, "workflow_invalid")["errors"][0]["code"] == "invalid_character"

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

    async def test_what_cannot_be_read_is_refused(self, client: httpx.AsyncClient) -> None:
        unreadable: tuple[tuple[bytes, str | None, int, str], ...] = (
            (b"{", "application/json", 400, "invalid_json"),
            (b"", "application/json", 400, "invalid_json"),
            (b'{"name": NaN}', "application/json", 400, "invalid_json"),
            (b"a: [", "application/yaml", 400, "invalid_yaml"),
            (b"a: &x 1\nb: *x", "application/yaml", 400, "invalid_yaml"),
            (b"name: x", "text/plain", 415, "unsupported_media_type"),
            (b"{}", "application/json; charset=utf-16", 415, "unsupported_media_type"),
            (b"{}", None, 415, "unsupported_media_type"),
        )
        for content, content_type, status, code in unreadable:
            headers = {} if content_type is None else {"Content-Type": content_type}
            for route in (PATH, f"{PATH}/validate"):
                refused(await client.post(route, content=content, headers=headers), status, code)
            changing = headers | {"If-Match": "*"}
            refused(await client.put(f"{PATH}/x", content=content, headers=changing), status, code)

    async def test_a_definition_may_have_two_mebibytes_and_no_more(self, client: httpx.AsyncClient) -> None:
        limit = 2 << 20
        room = limit - len(httpx.Request("POST", "http://x", json=greeting("")).content)
        await create(client, greeting("x" * room))
        headers = {"Content-Type": "application/json"}
        refused(await client.post(PATH, content=b" " * (limit + 1), headers=headers), 413, "body_too_large")


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

    async def test_the_same_document_again_changes_nothing(self, client: httpx.AsyncClient, database: Database) -> None:
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

    async def test_an_id_that_is_no_text_is_a_problem(self, client: httpx.AsyncClient) -> None:
        made = await create(client, GREET)
        for wrong in ({}, [], 1):
            answer = await client.put(f"{PATH}/{made['id']}", json=GREET | {"id": wrong}, headers={"If-Match": "*"})
            assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


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
        assert not await database.fetch("SELECT 1 FROM workflow_versions WHERE workflow_id = $1", body["id"])
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
        run = await client.post(f"{PATH}/mine/execute", json={}, headers={"Prefer": "wait=30"})
        assert (run.status_code, run.json()["output"]) == (200, {"text": "Again"}), run.text

    async def test_a_workflow_with_executions_is_archived(self, client: httpx.AsyncClient, database: Database) -> None:
        body = await create(client, {"id": "used", **GREET})
        await add_executions(database, body)
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
            await add_executions(connection, body)
            deleting = asyncio.create_task(delete(client, body["id"]))
            blocked = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid)))"
            while not await database.fetchval(blocked, connection.get_server_pid()):
                assert not deleting.done()
            await transaction.commit()
        assert (await deleting).status_code == 204
        assert (await client.get(f"{PATH}/{body['id']}")).json()["status"] == "archived"

    async def test_a_deletion_says_what_it_is_based_on(self, client: httpx.AsyncClient) -> None:
        body = await create(client)
        refused(await client.delete(f"{PATH}/{body['id']}"), 428, "precondition_required")
        refused(await delete(client, body["id"], '"v2"'), 412, "version_conflict")
        assert (await client.get(f"{PATH}/{body['id']}")).status_code == 200
