"""`doctor` tells an operator and a program whether the record is sound, and is never wrong about not knowing."""

import json
from pathlib import Path

import pytest

from app.db.invariants import rules
from app.db.selfcheck import RULES
from tests.cli.processes import done
from tests.database import SECRET, Database


@pytest.fixture
def environment(database: Database, tmp_path: Path) -> dict[str, str]:
    secret = tmp_path / "secret.key"
    secret.write_text(SECRET)
    return {"DATABASE_URL": database.admin_url, "STEPSTREAM_SECRET_KEY_FILE": str(secret)}


async def test_a_sound_record_is_0_and_every_rule_is_named(database: Database, environment: dict[str, str]) -> None:
    await database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = off")
    code, out, err = await done("doctor", **environment)
    assert (code, err) == (0, "")
    names = [*RULES, *(rule.name for rule in rules()), "audit_chain"]
    assert [line.split()[1] for line in out.splitlines() if line.startswith("✓")] == names
    assert "! The server runs with synchronous_commit=off" in out
    assert out.endswith(f"All {len(names)} rules hold\n")


async def test_a_broken_rule_is_1_with_what_breaks_it(database: Database, environment: dict[str, str]) -> None:
    await database.add_tenant("org_a")
    await database.execute("UPDATE workflows SET failure_count = 3; CREATE VIEW planted AS SELECT * FROM executions")
    await database.execute(
        "INSERT INTO audit_seals (org_id, seq, upto, size, audit_ids, digests, sealed_at, hash) "
        "VALUES ('org_a', 1, 9, 1, '{audit_x}', 'forged', now(), 'forged')"
    )
    await database.execute(
        "INSERT INTO audit_logs (id, org_id, action, success, timestamp, position) "
        "VALUES ('audit_y', 'org_a', 'user.login', true, '2026-01-02 03:04:05+00', 99)"
    )
    code, out, _ = await done("doctor", **environment)
    assert code == 1
    assert "✗ counters_are_counts" in out
    assert "wf_org_a, org_id org_a" in out
    assert "✗ M2" in out
    assert "org_a, seal 1, row None, problem A seal is not what the one before it and its own rows make it" in out
    assert "! 1 rows of the audit log of org_a are not sealed, the oldest of 2026-01-02 03:04:05 UTC" in out
    assert "3 of " in out
    assert "P2, P8 cannot be relied on" in out
    code, out, _ = await done("doctor", "--json", **environment)
    answer = json.loads(out)
    assert (code, answer["status"]) == (1, "broken")
    (counters,) = [rule for rule in answer["rules"] if rule["rule"] == "counters_are_counts"]
    assert (counters["holds"], counters["broken_by"], counters["undecided"]) == (False, 1, None)
    assert counters["examples"] == [{"id": "wf_org_a", "org_id": "org_a", "execution_count": 0, "counted": 0}]
    assert {rule["rule"] for rule in answer["rules"] if not rule["holds"]} == {
        "counters_are_counts",
        "M2",
        "audit_chain",
    }


async def test_what_could_not_be_looked_at_is_2(database: Database, environment: dict[str, str]) -> None:
    await database.execute(
        "ALTER TABLE idempotency_keys RENAME TO kept; CREATE VIEW idempotency_keys WITH (security_invoker = true) AS "
        "SELECT kept.* FROM pg_sleep(60) LEFT JOIN kept ON true; GRANT SELECT ON idempotency_keys TO stepstream_engine"
    )
    code, out, _ = await done("doctor", "--timeout", "1s", **environment)
    assert code == 2, out
    assert "? keys_stand_for_executions" in out
    assert "no other is broken" in out
    away = environment | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    code, out, err = await done("doctor", **away)
    assert (code, out) == (2, "")
    assert err.startswith("Error: The database does not answer")
    code, out, err = await done("doctor", "--json", **away)
    assert (code, err, json.loads(out)["status"]) == (2, "", "unknown")
    await database.execute(
        "UPDATE alembic_version SET version_num = '9999'; COMMENT ON TABLE alembic_version IS NULL"  # serves no other
    )
    code, _, err = await done("doctor", **environment)
    assert code == 2
    assert "9999" in err
