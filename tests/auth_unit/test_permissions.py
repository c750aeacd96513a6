import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.auth.permissions import ROLE_PERMISSIONS, Permission, Role, effective
from app.auth.principal import Caller, Principal

READS = {Permission.EXECUTIONS_READ, Permission.WORKFLOWS_READ, Permission.PAYLOADS_READ, Permission.METRICS_READ}


def test_every_role_has_its_permissions() -> None:
    assert set(ROLE_PERMISSIONS) == set(Role)
    assert ROLE_PERMISSIONS[Role.OWNER] == ROLE_PERMISSIONS[Role.ADMIN] == set(Permission)
    assert set(Permission) - ROLE_PERMISSIONS[Role.MEMBER] == {
        Permission.MEMBERS_MANAGE,
        Permission.AUDIT_READ,
        Permission.SECRETS_WRITE,
        Permission.BUDGETS_WRITE,
    }
    assert ROLE_PERMISSIONS[Role.VIEWER] == READS


def test_the_permission_names_are_the_contract() -> None:
    assert {str(permission) for permission in Permission} == {
        "executions.execute",
        "executions.read",
        "executions.control",
        "workflows.read",
        "workflows.write",
        "approvals.decide",
        "budgets.write",
        "schedules.write",
        "secrets.write",
        "audit.read",
        "members.manage",
        "api_keys.manage",
        "payloads.read",
        "metrics.read",
        "traces.read",
    }


def test_nobody_can_widen_a_role() -> None:
    with pytest.raises(TypeError):
        ROLE_PERMISSIONS[Role.VIEWER] = frozenset(Permission)  # type: ignore[index]


@settings(deadline=None)
@given(st.sampled_from(Role), st.frozensets(st.sampled_from([str(p) for p in Permission]) | st.text()))
def test_scopes_only_ever_narrow(role: Role, scopes: frozenset[str]) -> None:
    assert effective(role, scopes) == {p for p in ROLE_PERMISSIONS[role] if str(p) in scopes}


def test_no_scopes_given_is_the_whole_role_and_none_of_them_is_nothing() -> None:
    assert effective(Role.MEMBER, None) == ROLE_PERMISSIONS[Role.MEMBER]
    assert effective(Role.OWNER, frozenset()) == frozenset()


def test_a_key_that_reads_may_not_control() -> None:
    permissions = effective(Role.OWNER, frozenset({"executions.read"}))
    principal = Principal("org_a", "user_a", Role.OWNER, permissions, "api_key", "key_a", None)
    assert principal.allows(Permission.EXECUTIONS_READ)
    assert not principal.allows(Permission.EXECUTIONS_CONTROL)
    caller = Caller(principal, "192.0.2.1", "curl", "req_a")
    assert (caller.org_id, caller.user_id) == ("org_a", "user_a")
