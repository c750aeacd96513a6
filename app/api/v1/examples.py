"""Example answers of the API's description, by operation. A test holds each against its schema."""

from typing import Any

from app.api.v1.insight_examples import understanding

EXECUTION: dict[str, Any] = {
    "id": "exec_01m7ysep63e8xszhc98wadng7k",
    "workflow_id": "wf_sales",
    "workflow_version": 3,
    "org_id": "org_demo",
    "user_id": "user_admin",
    "status": "COMPLETED",
    "status_reason": None,
    "status_message": None,
    "input_data": "Find leads in Berlin",
    "output": {"leads": ["Nordlicht Logistik"], "score": 0.9},
    "error": None,
    "error_code": None,
    "agent_results": {"qualify": {"model": "openai:gpt-5.2", "tokens": {"input": 80, "output": 44}, "cost": 0.0011}},
    "execution_graph": {
        "nodes": [{"id": "qualify", "name": "Sales qualifier", "type": "agent", "step_number": 1}],
        "edges": [],
        "order": ["qualify"],
    },
    "tokens_used": 124,
    "cost": 0.0011,
    "duration_seconds": 0.819,
    "progress": 100,
    "retry_of": None,
    "forked_from": None,
    "parent_id": None,
    "labels": {"team": "sales"},
    "wake_at": None,
    "created_at": "2026-11-21T10:11:56.752000Z",
    "started_at": "2026-11-21T10:11:56.755000Z",
    "completed_at": "2026-11-21T10:11:57.573000Z",
}

ACCEPTED = EXECUTION | {
    "status": "PENDING",
    "output": None,
    "agent_results": {},
    "execution_graph": {},
    "tokens_used": 0,
    "cost": 0.0,
    "duration_seconds": None,
    "progress": 0,
    "started_at": None,
    "completed_at": None,
}

DAY_BUDGET: dict[str, Any] = {
    "scope": "organization",
    "workflow_id": None,
    "limits": {"max_cost": 20.0},
    "day": "2026-11-21",
    "used": {"cost": 3.5, "tokens": 41000, "steps": 820, "seconds": 512.4},
    "updated_at": "2026-11-21T08:00:00.000000Z",
    "updated_by": "user_admin",
}

SECRET: dict[str, Any] = {
    "name": "stripe",
    "version": 2,
    "allowed_hosts": ["api.stripe.com"],
    "last4": "mple",
    "updated_at": "2026-11-21T08:00:00.000000Z",
    "updated_by": "user_admin",
    "last_used_at": "2026-11-21T10:11:56.752000Z",
}

STEP: dict[str, Any] = {
    "id": "qualify",
    "step_number": 1,
    "name": "Sales qualifier",
    "type": "agent",
    "status": "COMPLETED",
    "reason": None,
    "attempt": 1,
    "input": {"model": "openai:gpt-5.2", "prompt": "Find leads in Berlin"},
    "output": {"text": "Nordlicht Logistik", "data": None},
    "ports": [],
    "error": None,
    "error_code": None,
    "wake_at": None,
    "started_at": "2026-11-21T10:11:56.755000Z",
    "completed_at": "2026-11-21T10:11:57.570000Z",
    "execution_time_ms": 812.4,
    "tokens_used": 124,
    "cost": 0.0011,
    "iteration": 0,
    "items": None,
    "awaits": None,
    "reused_from": None,
    "edited_by": None,
    "attempts": [
        {
            "attempt": 1,
            "status": "COMPLETED",
            "worker_id": "worker_01m7ysenp0f1cst8e6m1bq4xkp",
            "error": None,
            "error_code": None,
            "started_at": "2026-11-21T10:11:56.755000Z",
            "completed_at": "2026-11-21T10:11:57.567000Z",
        }
    ],
}

DETAIL = EXECUTION | {
    "eta": None,
    "progress_weighted": 100.0,
    "diff_summary": None,
    "root_id": EXECUTION["id"],
    "priority": 0,
    "control": {"breakpoints": ["send"], "pins": [], "only": None, "budget": {"max_cost": 1.5}, "pause": None},
    "steps": [STEP],
    "metrics": {
        "total_steps": 1,
        "settled_steps": 1,
        "successful_steps": 1,
        "failed_steps": 0,
        "skipped_steps": 0,
        "attempts": 1,
        "queue_seconds": 0.003,
    },
}

RUNNING = EXECUTION | {"status": "RUNNING", "progress": 33, "output": None, "completed_at": None}
PAUSED = RUNNING | {"status": "PAUSED", "status_reason": "paused"}
RETRIED = EXECUTION | {"retry_of": "exec_01m7yscq7we0ctp2n1dk6y3z5a"}

DECISION = {
    "decision": "approve",
    "comment": "Checked with the customer",
    "data": {"limit": 5000},
    "user_id": "user_admin",
    "decided_at": "2026-11-21T10:20:00Z",
}

APPROVAL: dict[str, Any] = {
    "id": "appr_01m7yt5n3hfz0r9e2k7s4w6b1d",
    "execution_id": EXECUTION["id"],
    "workflow_id": "wf_sales",
    "step_id": "confirm",
    "status": "PENDING",
    "title": "Raise the credit limit",
    "message": "Nordlicht Logistik asks for 5000",
    "form": {"type": "object", "properties": {"limit": {"type": "integer"}}, "required": ["limit"]},
    "deciders": {"users": [], "roles": ["admin"], "self_approval": False, "requested_by": "user_ann"},
    "quorum": 1,
    "verdict": None,
    "decisions": [],
    "created_at": "2026-11-21T10:12:00Z",
    "deadline_at": "2026-11-22T10:12:00Z",
    "decided_at": None,
}

EVENT: dict[str, Any] = {
    "seq": 4,
    "type": "step_completed",
    "execution_id": "exec_01m7ysep63e8xszhc98wadng7k",
    "step_id": "qualify",
    "timestamp": "2026-11-21T10:11:57.570000Z",
    "progress": 100,
    "data": {
        "step_number": 1,
        "step_name": "Sales qualifier",
        "status": "completed",
        "execution_time_ms": 812.4,
        "error_message": None,
        "progress": 100,
    },
}

VERSION: dict[str, Any] = {
    "workflow_id": "wf_sales",
    "version": 3,
    "published": True,
    "valid": True,
    "created_by": "user_admin",
    "created_at": "2026-11-20T09:00:00Z",
}

API_KEY: dict[str, Any] = {
    "id": "key_01m7ysd2q4f2tb0yq3p8w9jx5c",
    "name": "nightly import",
    "user_id": "user_admin",
    "scopes": ["executions.execute", "executions.read"],
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": "2026-11-21T10:00:00Z",
    "created_at": "2026-11-01T08:00:00Z",
}


def _page(item: dict[str, Any]) -> dict[str, Any]:
    return {"data": [item], "next_cursor": "q0h4cm9x", "has_more": True}


_HEALTHY = {"status": "ok", "checks": {"storage": "ok", "database": "ok", "lease": "ok"}}

EXAMPLES: dict[str, dict[str, Any]] = {
    "startExecution": {"200": EXECUTION, "201": ACCEPTED},
    "executeWorkflow": {"200": EXECUTION, "201": ACCEPTED},
    "listExecutions": {"200": _page(EXECUTION)},
    "listWorkflowExecutions": {"200": _page(EXECUTION)},
    "getExecution": {"200": DETAIL},
    "listExecutionSteps": {"200": {"data": [STEP]}},
    "getExecutionStep": {"200": STEP},
    "listExecutionStepItems": {"200": _page(STEP | {"id": "qualify[0]", "index": 0})},
    "cancelExecution": {"202": RUNNING},
    "terminateExecution": {"202": RUNNING},
    "pauseExecution": {"202": RUNNING},
    "resumeExecution": {"202": PAUSED},
    "stepExecution": {"202": PAUSED},
    "setExecutionBreakpoints": {"202": RUNNING},
    "setExecutionStepOutput": {"202": PAUSED},
    "setExecutionBudget": {"202": PAUSED | {"status_reason": "budget_exceeded"}},
    "signalExecution": {
        "202": {
            "signal_id": "mail_01m7yt0c4ke0d9w1c8m0t1x6vq",
            "execution_id": EXECUTION["id"],
            "name": "paid",
            "duplicate": False,
        }
    },
    "controlExecutions": {
        "200": {
            "action": "cancel",
            "matched": 1,
            "applied": 1,
            "dry_run": False,
            "execution_ids": [EXECUTION["id"]],
            "new_execution_ids": [],
            "failures": [],
        }
    },
    "retryExecution": {"200": RETRIED, "201": ACCEPTED | {"retry_of": EXECUTION["id"]}},
    "replayExecution": {"200": EXECUTION, "201": ACCEPTED | {"forked_from": EXECUTION["id"]}},
    "runWorkflowStep": {"200": EXECUTION, "201": ACCEPTED},
    "getExecutionLineage": {
        "200": {
            "root_id": EXECUTION["id"],
            "data": [
                {
                    "id": "exec_01m7yt4fz1f6qk2vhd5w3m8c0p",
                    "workflow_id": "wf_sales",
                    "status": "COMPLETED",
                    "retry_of": EXECUTION["id"],
                    "forked_from": None,
                    "parent_id": None,
                    "created_at": "2026-11-21T10:15:02.118000Z",
                }
            ],
        }
    },
    **understanding(EXECUTION),
    "listApprovals": {"200": _page(APPROVAL)},
    "getApproval": {"200": APPROVAL},
    "decideApproval": {"200": APPROVAL | {"verdict": "approved", "decisions": [DECISION]}},
    "listBudgets": {"200": {"data": [DAY_BUDGET]}},
    "setOrganizationBudget": {"200": DAY_BUDGET},
    "setWorkflowBudget": {"200": DAY_BUDGET | {"scope": "workflow", "workflow_id": "wf_sales"}},
    "getExecutionMetrics": {
        "200": {
            "total": 40,
            "success_rate": 0.95,
            "tokens_used": 4960,
            "cost": 0.044,
            "by_status": {
                "COMPLETED": {
                    "count": 38,
                    "average_duration_seconds": 0.8,
                    "p95_duration_seconds": 1.4,
                    "tokens_used": 4900,
                    "cost": 0.043,
                }
            },
        }
    },
    "listExecutionEvents": {"200": {"data": [EVENT], "last_seq": 4, "has_more": False}},
    "listExecutionLogs": {
        "200": {
            "data": [
                {
                    "seq": 2,
                    "timestamp": "2026-11-21T10:11:56.755000Z",
                    "level": "info",
                    "scope": "workflow",
                    "message": "Starting workflow 'Sales'",
                }
            ],
            "last_seq": 4,
            "has_more": False,
        }
    },
    "listWorkflowVersions": {"200": _page(VERSION)},
    "getWorkflowVersion": {"200": VERSION | {"definition": {"name": "Sales", "steps": []}, "problems": []}},
    "getWorkflowStats": {
        "200": {
            "workflow_id": "wf_sales",
            "execution_count": 40,
            "success_count": 38,
            "failure_count": 2,
            "cancelled_count": 0,
            "success_rate": 0.95,
            "average_duration_seconds": 0.8,
            "p95_duration_seconds": 1.4,
            "last_executed_at": "2026-11-21T10:11:57.573000Z",
        }
    },
    "listApiKeys": {"200": _page(API_KEY)},
    "getApiKey": {"200": API_KEY},
    "createSecret": {"201": SECRET},
    "listSecrets": {"200": _page(SECRET)},
    "getSecret": {"200": SECRET},
    "replaceSecret": {"200": SECRET | {"version": 3}},
    "verifyAuditLog": {
        "200": {
            "sound": True,
            "complete": True,
            "head": "17:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "seals": 17,
            "rows": 240,
            "first_broken": None,
            "unsealed": 2,
            "unsealed_since": "2026-11-21T10:11:57.573000Z",
        }
    },
    "whoAmI": {
        "200": {
            "user": {"id": "user_admin", "email": "admin@stepstream.local", "name": "Administrator"},
            "organization": {"id": "org_demo", "name": "Demo organisation"},
            "role": "owner",
            "permissions": ["executions.execute", "executions.read"],
            "credential": {"kind": "api_key", "id": API_KEY["id"], "expires_at": None},
        }
    },
    "live": {"200": {"status": "ok", "checks": {}}},
    "health": {"200": _HEALTHY},
    "ready": {"200": _HEALTHY},
}

BODY_EXAMPLES: dict[str, dict[str, Any]] = {
    "signIn": {
        "application/x-www-form-urlencoded": {
            "grant_type": "password",
            "username": "admin@stepstream.local",
            "password": "as printed at the first start",
            "scope": "executions.read executions.execute org:org_demo",
        }
    },
}
