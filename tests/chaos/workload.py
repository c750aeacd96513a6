"""What is done while things break, in stories whose ends can be computed.

A story is one wish of a client, told to its end: it is under way when processes die, and must come out as if none had.
"""

import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from tests.chaos.client import Client
from tests.chaos.journal import pause
from tests.chaos.sink import Sink, chained

MOST_REPAIRS = 20
NOTHING: Mapping[str, Any] = {}


def workflows(url: str) -> list[dict[str, Any]]:
    """The workflows of the stories."""

    def call(step_id: str, before: str, *needs: str, item: str = "", **more: Any) -> dict[str, Any]:
        target = f"{url}/${{{{ execution.id }}}}/{step_id}{item}?k=${{{{ input.key }}}}&h=${{{{ {before} }}}}"
        config = {"url": target, "method": more.pop("method", "GET")}
        return {"id": step_id, "type": "http.request", "needs": list(needs), "with": config, **more}

    def step(step_id: str, kind: str, config: dict[str, Any], *needs: str, **more: Any) -> dict[str, Any]:
        return {"id": step_id, "type": kind, "needs": list(needs), "with": config, **more}

    def of(step_id: str) -> str:
        return f"steps.{step_id}.output.body.h"

    signal = {"signal": "go"}
    approval = {"title": "Go on?", "self_approval": True}
    flaky = {"function": "flaky", "args": {"fail_times": 1, "value": f"${{{{ {of('a')} }}}}"}}
    quick = {"max_attempts": 3, "initial_interval": "50ms", "jitter": "none"}
    child = {"workflow": "wf_child", "input": {"key": "${{ input.key }}", "h": "${{ input.h }}"}}
    of_item = {"workflow": "wf_child", "input": {"key": "${{ input.key }}", "h": "${{ item }}"}}
    graphs: dict[str, list[dict[str, Any]]] = {
        "chain": [
            call("a", "input.h"),
            step("s", "set", {"h": f"${{{{ {of('a')} }}}}"}, "a"),
            call("b", "steps.s.output.h", "s", method="POST"),
            call("c", of("b"), "b"),
        ],
        "diamond": [
            call("a", "input.h"),
            call("b", of("a"), "a"),
            call("c", of("a"), "a"),
            call("d", f"{of('b')} + {of('c')}", "b", "c"),
        ],
        "tree": [
            call("each", "input.h", item="/${{ item }}", for_each="${{ input.items }}", max_parallel=2),
            step("sub", "workflow.run", child, "each"),
            call("c", "steps.sub.output.h", "sub"),
        ],
        "family": [
            call("a", "input.h"),
            step("subs", "workflow.run", of_item, "a", for_each="${{ input.items }}", max_parallel=3),
        ],
        "mailing": [
            call("each", "input.h", item="/${{ item }}", for_each="${{ input.items }}", max_parallel=4, method="POST"),
        ],
        "child": [call("a", "input.h"), step("nap", "delay", {"duration": "20ms"}, "a"), call("b", of("a"), "nap")],
        "talk": [
            call("a", "input.h"),
            step("go", "wait_for_signal", signal, "a"),
            call("b", f"{of('a')} + steps.go.output.payload", "go"),
        ],
        "approved": [call("a", "input.h"), step("ok", "approval", approval, "a"), call("b", of("a"), "ok")],
        "patient": [call("a", "input.h"), step("nap", "delay", {"duration": "1500ms"}, "a"), call("b", of("a"), "nap")],
        "flaky": [
            call("a", "input.h"),
            step("try", "function", flaky, "a", retry=quick),
            call("b", "steps.try.output.value", "try"),
        ],
        "broken": [call("a", "input.h"), call("b", of("a"), "a"), call("c", of("b"), "b")],
    }
    meddled = [
        *graphs["tree"][:2],
        step("go", "wait_for_signal", signal | {"timeout": "2s", "on_timeout": "continue"}),
        step("ok", "approval", approval | {"deadline": "2s", "on_deadline": "approve"}, "sub", "go", run_if="all_done"),
        call("c", "input.h", "ok.approved"),
    ]
    graphs |= {
        "limited": graphs["diamond"],
        "newest": graphs["diamond"],
        "rated": graphs["diamond"],
        "meddled": meddled,
    }
    last = {"diamond": "d", "limited": "d", "newest": "d", "rated": "d"}
    last |= {"tree": "c", "chain": "c", "broken": "c", "meddled": "c"}
    outputs = {name: {"h": f"${{{{ {of(last.get(name, 'b'))} }}}}"} for name in graphs}
    outputs["tree"]["each"] = "${{ steps.each.output.map(answer, answer.body.h) }}"
    outputs["mailing"] = {"each": outputs["tree"]["each"]}
    outputs["family"] = {"each": "${{ steps.subs.output.map(child, child.h) }}"}
    more: dict[str, dict[str, Any]] = {
        "limited": {"concurrency": {"limit": 2, "key": "one"}},
        "newest": {"concurrency": {"limit": 1, "key": "newest", "on_limit": "cancel_oldest"}},
        "rated": {"rate_limit": {"limit": 3, "per": "1s"}},
    }
    return [
        {"id": f"wf_{name}", "name": name, "steps": steps, "output": outputs[name], **more.get(name, {})}
        for name, steps in graphs.items()
    ]


@dataclass
class Wish:
    """One wish, and the means to have it fulfilled. `family` are the executions it took; `watch` is told of each."""

    client: Client
    sink: Sink
    key: str
    chance: random.Random
    watch: Callable[[str], None] = lambda _execution_id: None
    family: list[str] = field(default_factory=list)

    @property
    def seed(self) -> str:
        """The hash a story begins with."""
        return chained(self.key, "begin")

    async def start(self, kind: str, options: Mapping[str, Any] = NOTHING, **more: Any) -> str:
        value = {"key": self.key, "h": self.seed, **more}
        return self._begun(await self.client.start(f"wf_{kind}", value, self.key, **options))

    async def done(self, kind: str, expected: dict[str, Any], **more: Any) -> None:
        """Start a run and see it completed with this output."""
        self.completed(await self.client.ended(await self.start(kind, **more)), expected)

    def completed(self, record: dict[str, Any], expected: dict[str, Any]) -> None:
        told = {name: record[name] for name in ("id", "status", "error_code", "error", "output")}
        assert record["status"] == "COMPLETED", (self.key, told)
        assert record["output"] == expected, (self.key, told, expected)

    async def repaired(self, record: dict[str, Any], expected: dict[str, Any]) -> None:
        """See an execution completed, repairing it as long as the outcome of a step is unknown.

        A repair is the word of a person that what may happen once may happen again.
        """
        while record["status"] == "FAILED" and len(self.family) < MOST_REPAIRS:
            assert record["error_code"] == "outcome_unknown", record
            record = await self.repair(record["id"])
        self.completed(record, expected)

    async def repair(self, execution_id: str) -> dict[str, Any]:
        """Retry an execution that failed; the record of the new one, ended."""
        key = f"{self.key}-repair-{len(self.family)}"
        answer = await self.client.insist(
            "POST", f"/executions/{execution_id}/retry", key=key, json={"reason": "again"}
        )
        assert answer.status_code == 201, answer.text
        return await self.client.ended(self._begun(answer.json()["id"]))

    async def ask(self, path: str, *accepted: int, **body: Any) -> None:
        """Ask something of the newest execution."""
        answer = await self.client.insist("POST", f"/executions/{self.family[-1]}/{path}", json=body)
        assert answer.status_code in (202, 200, *accepted), answer.text

    def _begun(self, execution_id: str) -> str:
        self.family.append(execution_id)
        self.watch(execution_id)
        return execution_id


Story: TypeAlias = Callable[[Wish], Coroutine[Any, Any, None]]


async def chain(wish: Wish) -> None:
    """Steps of every kind of effect."""
    record = await wish.client.ended(await wish.start("chain"))
    await wish.repaired(record, {"h": chained(wish.seed, "a", "b", "c")})


async def diamond(wish: Wish) -> None:
    a = chained(wish.seed, "a")
    await wish.done("diamond", {"h": chained(chained(a, "b") + chained(a, "c"), "d")})


async def limited(wish: Wish) -> None:
    """Of these only two run at once, wherever they run."""
    a = chained(wish.seed, "a")
    await wish.done("limited", {"h": chained(chained(a, "b") + chained(a, "c"), "d")})


async def newest(wish: Wish) -> None:
    """Of these only the newest runs: it takes the place of whoever did."""
    record = await wish.client.ended(await wish.start("newest"))
    if record["status"] != "COMPLETED":
        assert record["status"] == "CANCELLED", record


async def rated(wish: Wish) -> None:
    """Of these so many begin in a second."""
    a = chained(wish.seed, "a")
    await wish.done("rated", {"h": chained(chained(a, "b") + chained(a, "c"), "d")})


async def later(wish: Wish) -> None:
    """A run that waits for its time."""
    at = datetime.now(UTC) + timedelta(seconds=wish.chance.uniform(0, 2))
    execution_id = await wish.start("diamond", {"start_at": at.isoformat()})
    a = chained(wish.seed, "a")
    expected = {"h": chained(chained(a, "b") + chained(a, "c"), "d")}
    wish.completed(await wish.client.ended(execution_id), expected)


async def tree(wish: Wish) -> None:
    """Items of a map, and a sub-workflow."""
    each = [chained(wish.seed, f"each/{item}") for item in range(4)]
    await wish.done("tree", {"h": chained(wish.seed, "a", "b", "c"), "each": each}, items=[*range(4)])


async def family(wish: Wish) -> None:
    """A sub-workflow for each item."""
    items = [chained(wish.seed, str(number)) for number in range(5)]
    await wish.done("family", {"each": [chained(item, "a", "b") for item in items]}, items=items)


async def mailing(wish: Wish) -> None:
    """Items that may be sent once each."""
    each = [chained(wish.seed, f"each/{item}") for item in range(8)]
    record = await wish.client.ended(await wish.start("mailing", items=[*range(8)]))
    await wish.repaired(record, {"each": each})


async def talk(wish: Wish) -> None:
    """Signals, one of them sent twice: it is used once."""
    execution_id = await wish.start("talk")
    for _ in range(2):
        await wish.ask("signal", 409, name="go", payload="word", dedupe_key=wish.key)
    record = await wish.client.ended(execution_id)
    wish.completed(record, {"h": chained(chained(wish.seed, "a") + "word", "b")})


async def approved(wish: Wish) -> None:
    execution_id = await wish.start("approved")
    while not (found := await _approvals(wish, execution_id)):
        await pause(0.1)
    answer = await wish.client.insist("POST", f"/approvals/{found[0]}/decide", json={"decision": "approve"})
    assert answer.status_code == 200, answer.text
    wish.completed(await wish.client.ended(execution_id), {"h": chained(wish.seed, "a", "b")})


async def _approvals(wish: Wish, execution_id: str) -> list[str]:
    answer = await wish.client.insist("GET", "/approvals", params={"execution_id": execution_id})
    return [found["id"] for found in answer.json()["data"]]


async def patient(wish: Wish) -> None:
    """A wait that nobody is held for."""
    await wish.done("patient", {"h": chained(wish.seed, "a", "b")})


async def flaky(wish: Wish) -> None:
    """A step that fails once and is tried again. What a kill cuts off is no failure, so it never uses up its tries."""
    await wish.done("flaky", {"h": chained(wish.seed, "a", "b")})


async def broken(wish: Wish) -> None:
    """A run that fails, and its repair, which does not do again what was done."""
    wish.sink.refused.add((wish.key, "b"))
    record = await wish.client.ended(await wish.start("broken"))
    assert (record["status"], record["error_code"]) == ("FAILED", "http_status"), record
    wish.sink.refused.discard((wish.key, "b"))
    repaired = await wish.repair(record["id"])
    wish.completed(repaired, {"h": chained(wish.seed, "a", "b", "c")})
    assert wish.sink.effects[repaired["id"], "a"] == 0


async def cancelled(wish: Wish) -> None:
    """A run that would wait for ever, ended by a person."""
    execution_id = await wish.start("talk")
    await pause(wish.chance.uniform(0, 0.5))
    await wish.ask("cancel", 409, reason="no longer wanted")
    record = await wish.client.ended(execution_id)
    assert record["status"] == "CANCELLED", record
    assert wish.sink.effects[execution_id, "b"] == 0


async def terminated(wish: Wish) -> None:
    """A run that is ended without being asked."""
    execution_id = await wish.start("family", items=["x", "y", "z"])
    await pause(wish.chance.uniform(0, 0.3))
    await wish.ask("terminate", 409, reason="at once")
    record = await wish.client.ended(execution_id)
    assert record["status"] in {"CANCELLED", "COMPLETED"}, record


async def stepped(wish: Wish) -> None:
    """A run that stops before a step until somebody lets it go on."""
    execution_id = await wish.start("patient", {"breakpoints": ["b"]})
    wish.completed(await wish.client.ended(execution_id), {"h": chained(wish.seed, "a", "b")})


async def meddled(wish: Wish) -> None:
    """A run that people ask this and that of; whatever comes of it, it ends, and its record is whole."""
    execution_id = await wish.start("meddled", items=[*range(4)])
    path = f"/executions/{execution_id}"
    for _ in range(wish.chance.randrange(8)):
        method, ask, body = wish.chance.choice(MEDDLING)
        await wish.client.insist(method, f"{path}/{ask}", json=body)
        await pause(wish.chance.uniform(0, 0.3))
    record = await wish.client.ended(execution_id)
    if record["status"] != "COMPLETED" and wish.chance.random() < 0.5:
        await wish.repair(execution_id)


async def paused(wish: Wish) -> None:
    """A run that is stopped on its way, and goes on."""
    execution_id = await wish.start("diamond")
    await wish.ask("pause", 409, reason="wait")
    await pause(wish.chance.uniform(0, 0.5))
    await wish.ask("resume", 409, reason="go on")
    a = chained(wish.seed, "a")
    expected = {"h": chained(chained(a, "b") + chained(a, "c"), "d")}
    wish.completed(await wish.client.ended(execution_id), expected)


MEDDLING: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "pause", {}),
    ("POST", "pause", {}),
    ("POST", "resume", {}),
    ("POST", "resume", {}),
    ("POST", "step", {}),
    ("POST", "cancel", {}),
    ("POST", "terminate", {}),
    ("POST", "signal", {"name": "go", "payload": 1}),
    ("PUT", "breakpoints", {"steps": ["sub", "c"]}),
    ("PUT", "steps/go/output", {"output": {"signal": None, "payload": 2, "signals": {}}}),
    ("PATCH", "budget", {"max_steps": 4}),
    ("PATCH", "budget", {"max_steps": 1000}),
)

STORIES: dict[str, Story] = {
    story.__name__: story
    for story in (
        chain,
        diamond,
        limited,
        tree,
        family,
        mailing,
        talk,
        approved,
        patient,
        flaky,
        broken,
        cancelled,
        terminated,
        stepped,
        paused,
        newest,
        rated,
        later,
        meddled,
    )
}
