"""Addresses of what people look at: Dagster's UI, the reports, the pages of today."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from urllib.parse import quote

#: The folder of a page of today, below a product's reports or beside those of all products; no product's or
#: asset's name begins like this.
TODAY = "_today"
TODAY_PAGE = "index.html"


@dataclass(frozen=True)
class Links:
    """Where pages are.

    Attributes:
        ui: the address of Dagster's UI.
        reports: the address below which reports are found; None if it isn't known.
    """

    ui: str
    reports: str | None = None

    def run(self, run_id: str) -> str:
        return f"{self._ui}/runs/{quote(run_id, safe='')}"

    def product(self, name: str) -> str:
        """The graph of a product's assets."""
        selection = f'key:"{name}/*"'
        return f"{self._ui}/asset-groups~{quote(selection, safe='*')}/"

    def partition(self, product: str, asset: str, partition: str) -> str:
        """A day or a month of an asset: its events, metadata and checks."""
        return f"{self._asset(product, asset)}?view=partitions&partition={quote(partition)}"

    def partitions(self, product: str, asset: str) -> str:
        """All days or months of an asset."""
        return f"{self._asset(product, asset)}?view=partitions"

    def check(self, product: str, asset: str, check: str) -> str:
        """The history of an asset's check."""
        return f"{self._asset(product, asset)}?view=checks&checkDetail={quote(check)}"

    def report(self, product: str, asset: str, partition: str) -> str | None:
        return self.reports and f"{self.reports}/{product}/{asset}/{partition}/report.html"

    def todays(self, product: str | None = None) -> str | None:
        """The page of today: of a product, or of all."""
        place = f"{product}/{TODAY}" if product else TODAY
        return self.reports and f"{self.reports}/{place}/{TODAY_PAGE}"

    @property
    def _ui(self) -> str:
        return self.ui.rstrip("/")

    def _asset(self, product: str, asset: str) -> str:
        return f"{self._ui}/assets/{quote(product, safe='')}/{quote(asset, safe='')}"


@dataclass(frozen=True)
class Around:
    """What a report links to: the nearest partitions before and after that have one, and Dagster."""

    links: Links
    before: date | None = None
    after: date | None = None
