"""One file of a day's delivery, and what its records look like once they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa

from ml_platform.contract.product import Product
from ml_platform.contract.source import LABEL_KNOWN_ON
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.data_engineering.files import FileRules
from ml_platform.data_engineering.formats import Format, format_of

#: The kind of a row in a file that was replaced: it counts only as of mornings before that.
EARLIER_ROW = "earlier_row"


@dataclass(frozen=True)
class DeliveryFile:
    """One file of a day's delivery; ``number`` is its place in the order in which they count.

    Of two files the one that is known later counts, and of those known on one morning the one whose name
    comes later. ``known_on`` is the morning since which its labels are known, ``rows_on`` that of its rows.

    ``header`` has the names as they stand in the file, of JSON lines in its first lines;
    :func:`.headers.resolve` says what they mean.
    ``size`` is in bytes, as it lies there, and ``likely_bytes`` what that probably is unpacked.
    """

    day: date
    path: str
    name: str
    number: int
    labels_only: bool
    header: tuple[str, ...]
    known_on: date
    size: int = 0
    likely_bytes: int = 0
    rules: FileRules = field(default_factory=FileRules)
    replaced: bool = False  # a later file of the day has come to replace what was delivered before it
    replaces: bool = False  # it has come to replace what was delivered before it
    rows_on: date | None = None

    @property
    def rows_known_on(self) -> date:
        """The morning since which its rows are known; that of its labels unless it is said."""
        return self.rows_on or self.known_on

    @property
    def format(self) -> Format:
        """How the file holds its records."""
        return format_of(self.name) or Format.CSV


def parsed_schema(product: Product) -> pa.Schema:
    """The schema of :func:`.parsing.parse_file`, the same for every file of a product.

    ``_kind`` is ``row``, ``label``, ``pending`` (in a label file, without a label yet), ``bad`` (with
    ``_line``, ``_raw`` and ``_reason``), ``unreadable``, or ``unreachable`` where that is no fault of the
    file's content;
    ``_record`` counts the records of a file from 0, blank lines not counted; where a file is read in parts,
    those of a part come after those of the parts before it.
    """
    columns = [(name, ARROW_TYPES[declared.type]) for name, declared in product.source.columns.items()]
    return pa.schema(
        [
            ("_day", pa.date32()),
            ("_file", pa.string()),
            ("_file_number", pa.int32()),
            ("_record", pa.int64()),
            ("_kind", pa.string()),
            *columns,
            (LABEL_KNOWN_ON, pa.date32()),
            ("_line", pa.int64()),
            ("_raw", pa.string()),
            ("_reason", pa.string()),
        ]
    )
