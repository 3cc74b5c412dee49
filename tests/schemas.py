"""What docs say of JSON, as strict as our own output has to be: a key that no schema tells of is an error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema

DOCS = Path(__file__).resolve().parent.parent / "docs"


def validate(command: str, data: object) -> None:
    """Raise jsonschema.ValidationError where `data` is not what the schema of a command says."""
    schema = json.loads((DOCS / "schemas" / f"{command}.json").read_text(encoding="utf-8"))
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


def documented_keys() -> set[str]:
    """The keys of JSON objects that docs/restore.rst describes: what stands first in a row of its tables."""
    page = (DOCS / "restore.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^``(?:- )?[a-z_]+``(?:, ``[a-z_]+``)? ", page, re.MULTILINE)
    return {key for row in rows for key in re.findall(r"[a-z_]+", row)}
