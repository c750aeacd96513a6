"""`audit verify`: the whole chain however long, and a status for scripts."""

import asyncio
import json
from typing import Any, cast

from app.cli.auditing import _whole
from app.cli.client import Client
from tests.cli.operator import Up
from tests.cli.processes import SECONDS, done


async def test_a_chain_is_verified_and_a_head_that_was_kept_is_found_again(up: Up) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            code, out, _ = await done("audit", "verify", "--json", **up.environment)
            found = json.loads(out)
            assert (code, found["sound"]) == (0, True)
            if found["unsealed"] == 0:
                break
    assert found["rows"] > 0
    code, out, _ = await done("audit", "verify", "--after", found["head"], **up.environment)
    assert (code, found["head"] in out) == (0, True)
    forged = found["head"].partition(":")[0] + ":" + "0" * 64
    code, out, _ = await done("audit", "verify", "--after", forged, **up.environment)
    assert code == 1
    assert "does not contain the head" in out
    code, _, err = await done("audit", "verify", "--after", "nonsense", **up.environment)
    assert code == 2
    assert "after" in err


class Stretches:
    """A server with a long chain."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []

    async def get(self, path: str, **query: str) -> dict[str, Any]:
        self.asked.append(query)
        return self.answers.pop(0)


async def test_a_long_chain_is_asked_for_stretch_by_stretch_until_its_end_or_its_break() -> None:
    stretch = {"sound": True, "complete": False, "seals": 2, "rows": 10}
    server = Stretches(
        stretch | {"head": "2:aa"}, stretch | {"head": "4:bb"}, stretch | {"head": "5:cc", "complete": True}
    )
    found = await _whole(cast("Client", server), None)
    assert (found["rows"], found["seals"], found["head"]) == (30, 6, "5:cc")
    assert server.asked == [{}, {"after": "2:aa"}, {"after": "4:bb"}]
    server = Stretches(stretch | {"head": "2:aa"}, stretch | {"head": "2:aa", "sound": False})
    assert (await _whole(cast("Client", server), "0:"))["sound"] is False
    assert server.asked == [{"after": "0:"}, {"after": "2:aa"}]
