"""stand-in"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ml_platform.settings import Settings


class ReportStore:
    def __init__(self, root: Path) -> None:
        self.root = root

    def publish_many(self, reports: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, str]]:
        links = {}
        for path, files in reports.items():
            for name, content in files.items():
                target = self.root / path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            links[path] = {"local": (self.root / path / next(iter(files))).as_uri()}
        return links


def report_store(settings: Settings) -> ReportStore:
    return ReportStore(settings.reports_path)
