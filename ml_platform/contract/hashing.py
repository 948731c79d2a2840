"""The hash by which plain data is told apart: contracts, inputs, results."""

from __future__ import annotations

import hashlib
import json


def fingerprint_of(content: object) -> str:
    """A short hash of plain data (dicts, lists, strings, numbers); the order of dict keys is ignored."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
