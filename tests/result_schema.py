"""The JSON schema of a result, which documents are held to."""

from __future__ import annotations

import json
from pathlib import Path

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "result.schema.json").read_text())
