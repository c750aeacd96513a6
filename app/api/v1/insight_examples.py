"""Example answers about understanding runs."""

from typing import Any

EXECUTION_ID = "exec_01m7ysep63e8xszhc98wadng7k"

FAILED_RUN: dict[str, Any] = {
    "id": "exec_01m7yt8v0q3k6w9z2c5f8h1j4m",
    "workflow_id": "wf_sales",
    "workflow_version": 4,
    "status": "FAILED",
    "error_code": "http_error",
    "error": "GET https://crm.example/leads answered 503",
    "created_at": "2026-11-21T10:31:02.118000Z",
    "duration_seconds": 4.201,
    "tokens_used": 0,
    "cost": 0.0,
}

DIFF: dict[str, Any] = {
    "same_input": False,
    "input_patch": [{"op": "replace", "path": "", "value": "Find leads in Hamburg"}],
    "output_patch": [{"op": "replace", "path": "", "value": None}],
    "definition_changes": [{"op": "replace", "path": "/steps/0/timeout", "value": "5s"}],
    "first_divergence": {
        "step_id": "qualify",
        "what": "input",
        "detail": "Step 'qualify' got another input, and is FAILED instead of COMPLETED",
    },
    "steps": [
        {
            "step_id": "qualify",
            "left_status": "COMPLETED",
            "right_status": "FAILED",
            "input_patch": [{"op": "replace", "path": "/prompt", "value": "Find leads in Hamburg"}],
            "output_patch": [{"op": "replace", "path": "", "value": None}],
            "duration_delta_ms": 3388.6,
            "tokens_delta": -124,
            "cost_delta": -0.0011,
        }
    ],
    "duration_delta_seconds": 3.382,
    "cost_delta": -0.0011,
    "tokens_delta": -124,
    "cut": [],
}

FAILURE: dict[str, Any] = {
    "fingerprint": "5d3f6f0a6c1e4b7d9a2c8e15",
    "count": 12,
    "workflow_ids": ["wf_sales"],
    "step_id": "qualify",
    "error_code": "http_error",
    "sample_message": "GET https://crm.example/leads answered 503",
    "first_seen": "2026-11-21T08:02:11.401000Z",
    "last_seen": "2026-11-21T10:31:06.319000Z",
    "latest_execution_id": FAILED_RUN["id"],
}


EXPLANATION: dict[str, Any] = {
    "execution_id": EXECUTION_ID,
    "status": "WAITING",
    "code": "retry_backoff",
    "message": "Step 'qualify' failed at attempt 2 and is tried again: HTTP 503",
    "blocker": {
        "type": "step",
        "id": "qualify",
        "url": f"/api/v1/executions/{EXECUTION_ID}/steps/qualify",
    },
    "moves_at": "2026-11-21T10:12:30Z",
    "details": {"steps": [], "step_count": 1, "last_error": "HTTP 503", "last_error_code": "http_error"},
}

TIMELINE: dict[str, Any] = {
    "execution_id": EXECUTION_ID,
    "status": "COMPLETED",
    "created_at": "2026-11-21T10:11:56.752000Z",
    "started_at": "2026-11-21T10:11:56.755000Z",
    "completed_at": "2026-11-21T10:11:57.573000Z",
    "spans": [
        {
            "step_id": "qualify",
            "kind": "attempt",
            "from": "2026-11-21T10:11:56.755000Z",
            "to": "2026-11-21T10:11:57.567000Z",
            "attempt": 1,
            "status": "COMPLETED",
            "reason": None,
        }
    ],
    "cut": False,
}

GRAPH: dict[str, Any] = {
    "execution_id": EXECUTION_ID,
    "status": "COMPLETED",
    "nodes": [
        {
            "id": "qualify",
            "name": "Sales qualifier",
            "type": "agent",
            "status": "COMPLETED",
            "step_number": 1,
            "duration_ms": 812.4,
            "attempts": 1,
        },
    ],
    "edges": [{"from": "qualify", "to": "send", "port": None, "taken": True}],
}

RETRIED: dict[str, Any] = {
    "action": "retry",
    "matched": 1,
    "applied": 1,
    "dry_run": False,
    "execution_ids": [FAILED_RUN["id"]],
    "new_execution_ids": ["exec_01m7yta2c4e6g8j0m2p4r6t8v0"],
    "failures": [],
}


def understanding(execution: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The examples by operation; `execution` is that of the other ones."""
    diff = {"left": {name: execution[name] for name in FAILED_RUN}, "right": FAILED_RUN} | DIFF
    failed = execution | FAILED_RUN | {"output": None, "progress": 0}
    return {
        "explainExecution": {"200": EXPLANATION},
        "diffExecutions": {"200": diff},
        "diffExecutionWithLastSuccess": {"200": diff},
        "getExecutionTimeline": {"200": TIMELINE},
        "getExecutionGraph": {"200": GRAPH},
        "listFailures": {"200": {"data": [FAILURE], "next_cursor": "q0h4cm9x", "has_more": True}},
        "getFailure": {"200": FAILURE | {"executions": [failed]}},
        "retryFailures": {"200": RETRIED},
    }
