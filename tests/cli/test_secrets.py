"""`stepstream secrets` and `stepstream keys`, as an operator has them."""

import json

import httpx

from tests.cli.operator import Up
from tests.cli.processes import SECONDS, done, installation, stepstream

VALUE = "sk_live_canary/of+the=cli"


async def secrets(up: Up, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    return await done("secrets", *arguments, stdin=stdin, **up.environment)


async def test_a_secret_is_set_from_stdin_listed_replaced_and_deleted(up: Up) -> None:
    assert "no secrets" in (await secrets(up, "list"))[1]
    code, _, err = await secrets(up, "set", "stripe", stdin=f"{VALUE}\n")
    assert (code, "--host" in err) == (2, True)
    made = await secrets(up, "set", "stripe", "--host", "api.stripe.com", "--host", "*.stripe.com", stdin=f"{VALUE}\n")
    assert made == (0, "stripe is at version 1, for api.stripe.com, *.stripe.com.\n", "")
    replaced = await secrets(up, "set", "stripe", "--json", stdin=f"{VALUE}-2")
    known = json.loads(replaced[1])
    assert (known["version"], known["allowed_hosts"], known["last4"]) == (2, ["api.stripe.com", "*.stripe.com"], "li-2")
    listed = await secrets(up, "list")
    assert "stripe" in listed[1]
    assert (await secrets(up, "set", "stripe", stdin="tiny"))[0] == 2
    deleted = await secrets(up, "delete", "stripe")
    assert (deleted[0], (await secrets(up, "delete", "stripe"))[0]) == (0, 2)
    assert VALUE not in "".join(text for answer in (made, replaced, listed, deleted) for text in answer[1:])


async def test_after_a_change_of_the_master_secret_everything_goes_on() -> None:
    async with installation() as data_dir:
        async with stepstream("up", "--data-dir", data_dir, "--port", "0") as process:
            environment = {"STEPSTREAM_SERVER": await process.ready()}
            options = ("set", "stripe", "--host", "127.0.0.1", "--data-dir", data_dir)
            assert (await done("secrets", *options, stdin=VALUE, **environment))[0] == 0
            assert await process.stops() == 0
        previous = data_dir / "previous.key"
        (data_dir / "secret.key").rename(previous)
        both = {"STEPSTREAM_PREVIOUS_SECRET_KEY_FILE": str(previous)}
        async with stepstream("up", "--data-dir", data_dir, "--port", "0", **both) as process:
            url = await process.ready()
            code, _, err = await done("keys", "rotate", "--data-dir", data_dir)
            assert (code, "STEPSTREAM_PREVIOUS_SECRET_KEY_FILE" in err) == (1, True)
            for count in (1, 0):
                code, out, _ = await done("keys", "rotate", "--data-dir", data_dir, **both)
                assert (code, out) == (0, f"{count} sealed under the present master secret.\n")
            token = (await done("token", "--data-dir", data_dir))[1].strip()
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=SECONDS) as http:
                assert (await http.get("/secrets/stripe")).json()["version"] == 1
            assert await process.stops() == 0
