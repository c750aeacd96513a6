"""The demo, as the README's first command runs it."""

import json
import signal

import httpx

from tests.cli.processes import done, installation, postmaster, stepstream


async def test_the_demo_runs_and_shows_what_it_recorded() -> None:
    async with installation() as data_dir:
        code, out, err = await done("demo", "--exit", "--data-dir", data_dir, "--port", "0")
        assert (code, err) == (0, "")
        for shown in (
            "Sales intelligence",
            "stand-in: local text, no AI, no network",
            "↻  Look up the CRM",
            "✓  Look up the CRM",
            "Put them on the newsletter  skipped",
            "✓ completed",
            "GET /api/v1/executions/exec_",
            "Nordlicht Logistik",
            "executions  1",
            "workflow.executed",
            "127.0.0.1, stepstream-cli/",
        ):
            assert shown in out, shown
        assert postmaster(data_dir) is None
        assert "WARNING" in (data_dir / "demo.log").read_text()
        again = await done("demo", "--exit", "--data-dir", data_dir, "--port", "0")
        assert "executions  2" in again[1]


async def test_the_demo_serves_on_until_it_is_stopped() -> None:
    async with installation() as data_dir:
        async with stepstream("demo", "--data-dir", data_dir, "--port", "0") as process:
            url = (await process.says(r"It is all still here.*?(http://\S+)"))[1]
            await process.says("Serving on")
            token = (await done("token", "--data-dir", data_dir))[1].strip()
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http:
                found = await http.get(f"{url}/api/v1/workflows/wf_sales_intelligence/executions")
            (record,) = found.json()["data"]
            assert record["status"] == "COMPLETED"
            assert json.dumps(record["agent_results"]).count("stand-in (local, no AI)") == 3
            assert await process.stops(signal.SIGINT) == 0
        assert postmaster(data_dir) is None
