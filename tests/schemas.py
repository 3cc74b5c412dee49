"""The JSON schemas in docs, as strict as our own output has to be: a key that no schema tells of is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schemas"


def validate(command: str, data: object) -> None:
    """Raise jsonschema.ValidationError where `data` is not what the schema of a command says."""
    schema = json.loads((FOLDER / f"{command}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(_strict(schema)).validate(data)


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if schema.get("type") == "object":
        strict["additionalProperties"] = False
    return strict
