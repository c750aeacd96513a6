"""Another server in front of the app: uvicorn with several workers on one port, each a process like ours."""

import os
import signal

from app.db.engines import connect
from tests.cli.processes import done, installation, running, stepstream, superuser_url
from tests.cli.sink import sink
from tests.cli.test_kill_and_resume import Fleet, check_records, workflows

COUNT = 60
OTHERS = "SELECT count(*) FROM workers WHERE pid <> $1"
BUSIEST = "SELECT w.pid FROM workers w JOIN executions e ON e.owner = w.id GROUP BY w.id ORDER BY count(*) DESC LIMIT 1"


async def test_uvicorn_runs_several_workers_and_what_one_leaves_another_ends() -> None:
    async with installation() as data_dir, sink() as outside:
        outside.holds = lambda path: path.endswith("/a")
        async with stepstream("up", "--data-dir", data_dir, "--port", "0", **outside.environment) as host:
            await host.ready()
            token = (await done("token", "--data-dir", data_dir))[1].strip()
            database = await connect(superuser_url(data_dir), "test")
            own = {"DATABASE_URL": superuser_url(data_dir), "STEPSTREAM_DATA_DIR": str(data_dir), **outside.environment}
            arguments = ("app.main:app", "--workers", "2", "--port", "0", "--timeout-graceful-shutdown", "2")
            async with running("uvicorn", *arguments, **own) as uvicorn:
                try:
                    url = (await uvicorn.says(r"Uvicorn running on (http://[\d.:]+)"))[1]
                    await uvicorn.says(r"(?s)startup complete.*startup complete")
                    fleet = Fleet(token)
                    await fleet.save(url, workflows(outside.url)[:2])
                    await fleet.start_all(url, count=COUNT)
                    await outside.until(lambda: len(outside.held) == COUNT)
                    assert await database.fetchval(OTHERS, host.pid) == 2
                    os.kill(await database.fetchval(BUSIEST), signal.SIGKILL)
                    outside.release()
                    await fleet.all_end(url)
                    await check_records(database, fleet)
                    assert await uvicorn.stops() == 0
                    assert await database.fetchval(OTHERS, host.pid) == 0, "who is told to stop gives its lease back"
                finally:
                    await database.close()
                    if not uvicorn.ended:
                        await uvicorn.stops()  # killed, it would leave its workers behind
            assert await host.stops() == 0
