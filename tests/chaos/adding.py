"""A workflow whose output is its input and two, with a wait in between."""

from typing import Any


def adding(nap: str) -> dict[str, Any]:
    """Its definition."""
    return {
        "id": "wf_adding",
        "name": "Adding",
        "steps": [
            {"id": "one", "type": "function", "with": {"function": "echo", "args": {"n": "${{ input + 1 }}"}}},
            {"id": "nap", "type": "delay", "needs": ["one"], "with": {"duration": nap}},
            {"id": "two", "type": "set", "needs": ["nap"], "with": {"n": "${{ steps.one.output.n + 1 }}"}},
        ],
        "output": "${{ steps.two.output.n }}",
    }
