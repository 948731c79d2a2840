"""How much of a file is looked at at once, and how long one of its records may be."""

from __future__ import annotations

BLOCK_BYTES = 8 << 20
BATCH_RECORDS = 50_000

#: A record that goes on to further lines for longer has a quote that was never closed.
RECORD_LINES = 1000
RECORD_CHARACTERS = 1 << 20
