"""What may be done, and which role may do it."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Permission(StrEnum):
    """Declared by every route and used as scopes of keys and tokens; the values are part of the API contract."""

    EXECUTIONS_EXECUTE = "executions.execute"
    EXECUTIONS_READ = "executions.read"
    EXECUTIONS_CONTROL = "executions.control"
    WORKFLOWS_READ = "workflows.read"
    WORKFLOWS_WRITE = "workflows.write"
    APPROVALS_DECIDE = "approvals.decide"
    BUDGETS_WRITE = "budgets.write"
    SCHEDULES_WRITE = "schedules.write"
    SECRETS_WRITE = "secrets.write"
    AUDIT_READ = "audit.read"
    MEMBERS_MANAGE = "members.manage"
    API_KEYS_MANAGE = "api_keys.manage"
    PAYLOADS_READ = "payloads.read"
    METRICS_READ = "metrics.read"
    TRACES_READ = "traces.read"


class Role(StrEnum):
    """A user's part in one organisation."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


_ALL = frozenset(Permission)

# api_keys.manage lets a member manage keys of their own; those of others are the use case's to refuse.
ROLE_PERMISSIONS: Mapping[Role, frozenset[Permission]] = MappingProxyType(
    {
        Role.OWNER: _ALL,
        Role.ADMIN: _ALL,
        Role.MEMBER: _ALL
        - {
            Permission.MEMBERS_MANAGE,
            Permission.AUDIT_READ,
            Permission.SECRETS_WRITE,
            Permission.BUDGETS_WRITE,
        },
        Role.VIEWER: frozenset(
            {
                Permission.EXECUTIONS_READ,
                Permission.WORKFLOWS_READ,
                Permission.PAYLOADS_READ,
                Permission.METRICS_READ,
            }
        ),
    }
)


def effective(role: Role, scopes: frozenset[str] | None) -> frozenset[Permission]:
    """The role's permissions narrowed to `scopes`; None narrows nothing, unknown scopes grant nothing."""
    granted = ROLE_PERMISSIONS[role]
    return granted if scopes is None else frozenset(permission for permission in granted if permission in scopes)
