"""JSON Schemas that users write: compiled without remote references and with patterns that cannot run away."""

from typing import Any

import jsonschema_rs

from app.domain.errors import Problem
from app.domain.expressions import escape

_MASK = "the value"


class UnsupportedSchema(ValueError):
    """A schema that is no JSON Schema, refers outside itself, or has a pattern that linear time cannot match."""


def compile_schema(schema: dict[str, Any] | bool) -> jsonschema_rs.Validator:
    """A validator (Draft 2020-12 unless the schema says otherwise); raises UnsupportedSchema."""
    try:
        return jsonschema_rs.validator_for(
            schema, offline=True, mask=_MASK, pattern_options=jsonschema_rs.RegexOptions(size_limit=1 << 20)
        )
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise UnsupportedSchema(str(error).splitlines()[0][:300]) from error


def schema_problems(validator: jsonschema_rs.Validator, value: Any, code: str) -> list[Problem]:
    """Every mismatch of a value with a schema; values are not echoed, pointers are relative to the value."""
    return [
        Problem(code, str(error.message)[:300], "".join(f"/{escape(token)}" for token in error.instance_path))
        for error in validator.iter_errors(value)
    ]
