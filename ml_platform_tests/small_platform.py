"""A small platform for tests: a product, its landing folder, and steps that run without Dagster."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.data_engineering import buckets
from ml_platform.engine import local
from ml_platform.engine.step import StepRequest, StepResult
from ml_platform.settings import Settings
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.path_locations import FolderLocation
from ml_platform.storage.tables import Tables

if TYPE_CHECKING:
    import pytest
    from pyspark.sql import SparkSession

D = date.fromisoformat

SHOP: dict[str, Any] = {
    "name": "shop",
    "description": "Does a customer buy on the day of a visit?",
    "start": "2024-01-01",
    "timezone": "UTC",
    "source": {
        "key": ["visit"],
        "event_day": "day",
        "label": "bought",
        "label_delay_days": 1,
        "columns": {
            "visit": {"type": "long"},
            "day": {"type": "date"},
            "customer": {"type": "string"},
            "spend": {"type": "double", "nullable": True},
            "pages": {"type": "integer"},
            "channel": {"type": "string", "allowed": ["web", "app", "other"], "fill_null": "other"},
            "bought": {"type": "integer", "allowed": [0, 1], "nullable": True},
        },
    },
    "mrds": {
        "entity": ["customer"],
        "order_by": ["visit"],
        "aggregate": {"spend": "sum", "pages": "max", "channel": "last", "visit": "count", "bought": "last"},
    },
    "model": {
        "features": {"numeric": ["spend", "pages"], "categorical": ["channel"]},
        "estimator": {"class": "sklearn.linear_model.LogisticRegression", "params": {"random_state": 1}},
        "training_months": 2,
        "holdout_days": 20,
        "minimum_rows": 50,
        "first_month": "2024-02",
    },
    "evaluation": {
        "metric": "f1",
        "threshold": 0.6,
        "window_days": 10,
        "minimum_rows": 50,
        "minimum_positives": 10,
    },
    "retrain": {"cooldown_days": 7, "training_days": 14},
    "validation": {"minimum_rows": 1, "not_null": ["customer", "pages", "channel"]},
}


def shop(**changes: Any) -> Product:
    """The product ``shop``, changed as :func:`shop_contract` says."""
    return parse_product(shop_contract(**changes), "shop.yaml")


def shop_contract(**changes: Any) -> dict[str, Any]:
    """The contract of ``shop``; changes are named by dotted paths with double underscores for dots."""
    content = copy.deepcopy(SHOP)
    for path, value in changes.items():
        *sections, last = path.split("__")
        place = content
        for section in sections:
            place = place[section]
        place[last] = copy.deepcopy(value)
    return content


class Platform:
    """A product with its settings; runs steps on the session it is given."""

    def __init__(self, settings: Settings, spark: SparkSession, product: Product | None = None) -> None:
        self.settings = settings
        self.spark = spark
        self.product = product or shop()
        self.tables = Tables.of(settings, lambda: spark)
        self.ledger = Ledger(self.tables, self.product.name)
        self.sessions_asked_for = 0

    def folder(self, day: str | date) -> Path:
        folder = self.settings.landing_path / self.product.name / str(day)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def deliver(self, day: str | date, name: str, text: str | bytes) -> Path:
        """Put a file into a day's delivery."""
        path = self.folder(day) / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def run(self, step: str, days: str | date | Iterable[date], **options: Any) -> StepResult:
        """Run one step over days, in this process."""
        chosen = [days] if isinstance(days, str | date) else list(days)
        request = StepRequest(
            step=step,  # type: ignore[arg-type]
            product=self.product.name,
            days=tuple(D(day) if isinstance(day, str) else day for day in chosen),
            run_id=options.pop("run_id", "run-1"),
            **options,
        )
        context = local.context_for(request, self.product, self.settings, self._session, lambda _: None)
        return local.run_step(context)

    def _session(self) -> SparkSession:
        self.sessions_asked_for += 1
        return self.spark

    def rows(self, table: str, order: Sequence[str] = ()) -> pd.DataFrame:
        """A whole table, in a fixed order."""
        frame = self.tables.read(self.spark, self.product.name, table).toPandas()
        by = list(order) or sorted(frame.columns)
        return frame.sort_values(by, ignore_index=True) if len(frame) else frame

    def fingerprints(self, *assets: str) -> Mapping[tuple[str, date], str | None]:
        """The fingerprints of every day of some assets."""
        return {
            (asset, day): record.fingerprint
            for asset in assets
            for day, record in self.ledger.latest(asset).items()
        }


def days(first: str, last: str) -> list[date]:
    start, end = D(first), D(last)
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]


def visits(
    day: date, *, seed: int = 0, rows: int = 150, customers: int = 400, shifted: bool = False
) -> pd.DataFrame:
    """A day of visits whose ``bought`` follows ``spend`` and ``channel``, the same for the same arguments.

    ``shifted`` turns the effect of ``spend`` round.
    """
    draw = np.random.default_rng([seed, day.toordinal()])
    spend = draw.gamma(2.0, 20.0, rows).round(2)
    channel = draw.choice(["web", "app"], rows)
    effect = (40.0 - spend) if shifted else (spend - 40.0)
    chance = 1 / (1 + np.exp(-(effect / 6 + np.where(channel == "app", 0.8, -0.8))))
    return pd.DataFrame(
        {
            "visit": day.toordinal() * 100_000 + np.arange(rows),
            "day": day.isoformat(),
            "customer": [f"c{n:04d}" for n in draw.integers(0, customers, rows)],
            "spend": spend,
            "pages": draw.integers(1, 9, rows),
            "channel": channel,
            "bought": (draw.random(rows) < chance).astype(int),
        }
    )


def deliver_visits(platform: Platform, chosen: Iterable[date], **options: Any) -> dict[date, pd.DataFrame]:
    """Deliver days of :func:`visits`, the rows the next morning and the labels the morning after."""
    delivered = {}
    for day in chosen:
        frame = visits(day, **options)
        rows = frame.drop(columns="bought").to_csv(index=False)
        labels = frame[["visit", "day", "bought"]].to_csv(index=False)
        platform.deliver(day, f"{day + timedelta(days=1)}T0600_visits.csv", rows)
        platform.deliver(day, f"{day + timedelta(days=2)}T0600_labels.csv", labels)
        delivered[day] = frame
    return delivered


DATA_STEPS = ("ards", "mrds", "online_features")
SCORING_STEPS = ("predictions", "model_performance")


CARRIERS = ("tasks", "buckets", "Spark", "buckets of Spark")


def carry_by(carrier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have days written by ``tasks`` or by ``Spark``, as a whole or in ``buckets`` of a few records each."""
    if "Spark" in carrier:
        monkeypatch.setattr(FolderLocation, "day_files", lambda *_: None)
    if "buckets" in carrier:
        monkeypatch.setattr(buckets, "BUCKET_BYTES", 64)
        monkeypatch.setattr(buckets, "PIECE_BYTES", 200)


def forget_registry() -> None:
    """What this process knows of MLflow's databases goes; the next run is another process."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Models
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Runs

    from ml_platform.machine_learning.mlflow_store import prepared_client

    for stores in (Models, Runs):
        for engine in stores._engine_map.values():
            engine.dispose()
    prepared_client.cache_clear()
