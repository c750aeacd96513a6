"""What the fuzzer of the API does beyond its own: it asks for things that exist, and asks again as somebody else.

Read by `schemathesis` in its own process, by SCHEMATHESIS_HOOKS. FUZZ_BELONGINGS is what the first organisation owns,
by parameter; FUZZ_STRANGER is the token of the second.
"""

import json
import os
from typing import Any

import schemathesis

BELONGINGS: dict[str, str] = json.loads(os.environ["FUZZ_BELONGINGS"])
STRANGER = {"Authorization": f"Bearer {os.environ['FUZZ_STRANGER']}"}


@schemathesis.hook
def map_path_parameters(_context: Any, path_parameters: Any) -> Any:
    """Half of the ids are those of things that exist."""
    if isinstance(path_parameters, dict):
        for name, value in path_parameters.items():
            if name in BELONGINGS and len(str(value)) % 2 == 0:
                path_parameters[name] = BELONGINGS[name]
    return path_parameters


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Whoever waits for a run waits a second: the time is for other inputs."""
    if case.headers and (case.headers.get("prefer") or "").startswith("wait="):
        case.headers["prefer"] = "wait=1"


@schemathesis.check
def another_organization_is_told_nothing(_context: Any, response: Any, case: Any) -> None:
    """Whatever is answered to its owner is not there for others."""
    if response.status_code < 300 and set(case.path_parameters or {}) & set(BELONGINGS):
        again = case.call(headers=STRANGER)
        assert again.status_code in {404, 429}, f"a stranger is answered {again.status_code}: {again.text[:500]}"
