"""Example answers of the API's description, by operation. A test holds each against its schema."""

from typing import Any

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


_HEALTHY = {"status": "ok", "checks": {"database": "ok", "lease": "ok"}}

EXAMPLES: dict[str, dict[str, Any]] = {
    "startExecution": {"200": EXECUTION, "201": ACCEPTED},
    "executeWorkflow": {"200": EXECUTION, "201": ACCEPTED},
    "listExecutions": {"200": _page(EXECUTION)},
    "listWorkflowExecutions": {"200": _page(EXECUTION)},
    "getExecution": {"200": DETAIL},
    "listExecutionSteps": {"200": {"data": [STEP]}},
    "getExecutionStep": {"200": STEP},
    "cancelExecution": {"202": EXECUTION | {"status": "RUNNING", "progress": 33, "output": None, "completed_at": None}},
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
