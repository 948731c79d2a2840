"""A check of a set-up on Databricks: one small sample product, end to end, there and here, and compared.

What is made in the workspace lies in one folder of the volume and under one name in MLflow, and is removed
at the end, whatever came of it. The wheel stays: the next step needs it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg

from ml_platform.build import build_definitions
from ml_platform.contract.assets import DRIFT_REPORT, MODEL, names
from ml_platform.contract.days import DayRange
from ml_platform.contract.loading import load_product, parse_product
from ml_platform.contract.product import Product
from ml_platform.contract.secrets import SecretAddress
from ml_platform.engine.databricks import wheel as wheels
from ml_platform.engine.databricks.runner import DatabricksStepRunner
from ml_platform.engine.databricks.workspace import Workspace, in_words
from ml_platform.graph.assets import asset_key
from ml_platform.graph.bad_days import only_bad_days
from ml_platform.graph.partitions import range_tags
from ml_platform.graph.resources import LocalStepRunner, StepRunner
from ml_platform.samples import SAMPLES
from ml_platform.settings import PACKAGE, Settings

SAMPLE = "customers"
DAYS = DayRange(date(2022, 1, 1), date(2022, 2, 10))
_MONTHS = {MODEL: date(2022, 2, 1), DRIFT_REPORT: date(2022, 1, 1)}

#: Outcome and fingerprint of each asset's partitions.
Made = dict[tuple[str, str], tuple[str, str]]


class SmokeError(Exception):
    """A run failed; the message says on which engine, and why."""


@dataclass
class Verdict:
    """What was compared, and what was not the same: asset, partition, here, there."""

    compared: int
    differences: list[tuple[str, str, str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass
class Smoke:
    """One check.

    Args:
        tables: root of the tables over there; a folder of the volume without one.
        say: takes each line of progress.
    """

    settings: Settings
    workspace: Workspace
    volume: str
    assets: Sequence[str] = field(default_factory=names)
    rows_per_day: int = 100
    tables: str | None = None
    say: Callable[[str], None] = lambda _: None

    def run(self) -> Verdict:
        """Run everything, compare, and clean up.

        Raises:
            SmokeError: a run failed.
        """
        self.say(f"{self.workspace.host} as {self.workspace.user()}")
        path, now = wheels.upload(self.workspace, self.volume, wheels.build_wheel())
        self.say(f"wheel {'uploaded to' if now else 'is there:'} {path}")
        product = _product(f"smoke_{secrets.token_hex(4)}")
        assets = [asset for asset in self.assets if self._has_place(asset)]
        with TemporaryDirectory(prefix="ml_platform_smoke") as folder, self._place(product) as place:
            home = Path(folder)
            SAMPLES[SAMPLE](product, home / "landing", DAYS, rows_per_day=self.rows_per_day)
            self.say(f"deliveries of {DAYS} are copied to {place}")
            self._copy(home / "landing", f"{place}/landing")
            there = self._there(place)
            made_there = self._made(
                product,
                there,
                DatabricksStepRunner(there, progress=self.say, clock=self.workspace.clock),
                assets,
            )
            here = self._here(home)
            made_here = self._made(product, here, LocalStepRunner(here, progress=self.say), assets)
        return _compared(made_here, made_there, [name for name in self.assets if name not in assets])

    def _has_place(self, asset: str) -> bool:
        """Whether a step over there has what it needs; the online store is the team's own."""
        known = {"ML_PLATFORM_ONLINE_STORE_URL"} & self.settings.databricks_secrets.keys()
        return asset != "online_features" or bool(known or self.settings.online_store_url)

    def _there(self, place: str) -> Settings:
        return self.settings.model_copy(
            update={
                "engine": "databricks",
                "landing": Path(f"{place}/landing"),
                "tables": self.tables or f"{place}/tables",
                "report_targets": (SecretAddress(f"{place}/reports"),),
                "mlflow_tracking_uri": self.settings.mlflow_tracking_uri or SecretAddress("databricks"),
            }
        )

    def _here(self, home: Path) -> Settings:
        places = ("landing", "tables", "mlflow_tracking_uri", "online_store_url")
        return self.settings.model_copy(
            update={"engine": "local", "home": home, "report_targets": (), **dict.fromkeys(places)}
        )

    def _made(self, product: Product, settings: Settings, runner: StepRunner, assets: Sequence[str]) -> Made:
        definitions = build_definitions(
            settings, products={product.name: product}, resource_overrides={"step_runner": runner}
        )
        job = definitions.resolve_implicit_global_asset_job_def()
        made: Made = {}
        with dg.DagsterInstance.ephemeral() as instance:
            for asset in assets:
                first, last = (_MONTHS[asset],) * 2 if asset in _MONTHS else (DAYS.first, DAYS.last)
                self.say(f"{settings.engine}: {asset}, {DayRange(first, last)}")
                result = job.execute_in_process(
                    asset_selection=[asset_key(product, asset)],
                    instance=instance,
                    tags=range_tags(first, last),
                    run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                    raise_on_error=False,
                )
                # Days that can't be used are compared like all others.
                if not result.success and not only_bad_days(instance, result.run_id):
                    raise SmokeError(f"{asset} on the engine {settings.engine}: {_why(result)}")
                made |= _facts(instance, product, asset)
        return made

    def _copy(self, folder: Path, target: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                self.workspace.put(f"{target}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    @contextmanager
    def _place(self, product: Product) -> Iterator[str]:
        """A folder of the volume for this check; removed with what MLflow has of it."""
        place = f"{self.volume}/smoke/{product.name}"
        try:
            yield place
        finally:
            self.workspace.remove_folder(place)
            if MODEL in self.assets:
                self._forget(product)
            self.say(f"{place} is removed")
            if self.tables:
                self.say(f"remove {self.tables}/{product.name} yourself")

    def _forget(self, product: Product) -> None:
        import mlflow

        try:
            client = mlflow.MlflowClient(
                self.settings.tracking_uri if self.settings.mlflow_tracking_uri else "databricks"
            )
            for model in client.search_registered_models(f"name = '{product.name}'"):
                client.delete_registered_model(model.name)
            experiment = client.get_experiment_by_name(product.name)
            if experiment is not None:
                client.delete_experiment(experiment.experiment_id)
        except Exception as error:
            self.say(f"{product.name} in MLflow could not be removed: {in_words(error)}")


def _product(name: str) -> Product:
    contract = load_product(PACKAGE / "products" / f"{SAMPLE}.yaml").model_dump(mode="json", by_alias=True)
    return parse_product({**contract, "name": name, "engine": {}}, f"{SAMPLE}.yaml")


def _facts(instance: dg.DagsterInstance, product: Product, asset: str) -> Made:
    records = instance.fetch_materializations(asset_key(product, asset), limit=len(DAYS) + 1).records
    found: Made = {}
    for record in records:
        assert record.asset_materialization is not None
        metadata: Mapping[str, Any] = record.asset_materialization.metadata
        facts = [str(metadata[name].value) if name in metadata else "" for name in ("outcome", "fingerprint")]
        found[asset, record.partition_key or ""] = (facts[0], facts[1])
    return found


def _why(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None:
                pages = [str(value.value) for value in (data.user_failure_data.metadata or {}).values()]
                return "\n".join([data.user_failure_data.description or "", *pages])
            return str(data.error)
    return "the run failed"


def _compared(here: Made, there: Made, left_out: list[str]) -> Verdict:
    partitions = sorted({*here, *there})
    nothing = ("nothing", "")
    differences = [
        (
            asset,
            partition,
            " ".join(here.get((asset, partition), nothing)),
            " ".join(there.get((asset, partition), nothing)),
        )
        for asset, partition in partitions
        if here.get((asset, partition)) != there.get((asset, partition))
    ]
    return Verdict(len(partitions), differences, left_out)
