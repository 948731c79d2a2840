"""The page that the check of a set-up ends with, to be read and to be attached to an issue: no secrets."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from ml_platform.cli.smoke_traces import Trace
from ml_platform.contract.secrets import scrub
from ml_platform.settings import Settings

#: Packages whose versions tell most of a difference between here and there.
PACKAGES = (
    "ml-platform", "dagster", "databricks-sdk", "deltalake", "evidently", "great-expectations", "mlflow",
    "mlflow-skinny", "numpy", "pandas", "pyarrow", "pyspark", "scikit-learn", "scipy", "skops",
)  # fmt: skip
_SHOWN_DIFFERENCES = 20


@dataclass
class StepDone:
    """One asset's run on one engine; ``seconds`` by the clock."""

    engine: str
    asset: str
    partitions: str
    seconds: float
    outcome: str


@dataclass
class Page:
    """All that the check has found out."""

    product: str
    host: str
    user: str = ""
    outcome: str = "failed"
    error: str = ""
    wheel: str = ""
    remote: str = ""
    steps: list[StepDone] = field(default_factory=list)
    compared: dict[str, tuple[int, int]] = field(default_factory=dict)
    differences: list[tuple[str, str, str, str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    traces: list[Trace] = field(default_factory=list)

    @property
    def left(self) -> list[Trace]:
        """What could not be removed."""
        return [trace for trace in self.traces if trace.left]

    def text(self, settings: Settings) -> str:
        """The page as Markdown."""
        parts = [
            [f"# Check of a set-up on Databricks: {self.outcome}", "", *self._heading()],
            ["## Versions", "", f"- here: {versions()}", f"- there: {self.remote or 'no step has said'}"],
            ["## Settings", "", *(f"- {name}: {value}" for name, value in shown(settings).items())],
            ["## Steps", "", *table(("engine", "asset", "partitions", "seconds", "outcome"), self._steps())],
            ["## Fingerprints, here and there", "", *self._fingerprints()],
            ["## Created and removed", "", *table(("what", "name", "state"), self._traces())],
        ]
        if self.error:
            parts.insert(1, ["## Error", "", "```", self.error, "```"])
        if self.left:
            parts.append(["## To be removed by hand", "", *(f"- {each.by_hand}" for each in self.left)])
        return scrub("\n".join("\n".join([*part, ""]) for part in parts), settings.secrets)

    def _heading(self) -> list[str]:
        return [f"- product: {self.product}", f"- workspace: {self.host} as {self.user or 'nobody yet'}",
                f"- wheel: {self.wheel or 'not made'}"]  # fmt: skip

    def _steps(self) -> list[tuple[str, ...]]:
        return [
            (done.engine, done.asset, done.partitions, f"{done.seconds:.1f}", done.outcome)
            for done in self.steps
        ]

    def _fingerprints(self) -> list[str]:
        rows = [(asset, str(all_), str(equal)) for asset, (all_, equal) in self.compared.items()]
        lines = table(("asset", "partitions", "the same"), rows) if rows else ["Nothing was compared."]
        shown_ = self.differences[:_SHOWN_DIFFERENCES]
        lines += [f"- {asset} {day}: here {here}, there {there}" for asset, day, here, there in shown_]
        if len(self.differences) > len(shown_):
            lines.append(f"- and {len(self.differences) - len(shown_)} more")
        return lines + [f"- {asset} was left out: {why}" for asset, why in self.left_out.items()]

    def _traces(self) -> list[tuple[str, ...]]:
        return [(trace.kind, trace.name, trace.state) for trace in self.traces]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def versions() -> str:
    """Python and the packages of this environment."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def shown(settings: Settings) -> dict[str, str]:
    """The settings that matter here, as the environment names them; of secrets only who is looked up."""
    targets = " ".join(target.shown for target in settings.report_targets)
    online = settings.online_store_url
    values = {
        "TABLES": settings.tables,
        "CONTROL_TABLES": settings.control_tables,
        "MLFLOW_TRACKING_URI": settings.tracking_uri_shown,
        "MLFLOW_EXPERIMENTS": settings.experiments_folder,
        "MODEL_SCHEMA": settings.model_schema,
        "ONLINE_STORE_URL": online.shown if online is not None else None,
        "REPORT_TARGETS": targets,
        "DATABRICKS_VOLUME": settings.databricks_volume,
        "DATABRICKS_COMPUTE": settings.databricks_compute.model_dump_json(
            exclude_none=True, exclude={"new_cluster"}
        ),
        "DATABRICKS_SECRETS": ", ".join(sorted(settings.databricks_secrets)),
    }
    cluster = settings.databricks_compute.new_cluster
    if cluster is not None:
        # What a cluster has in its environment and its Spark settings may be secret.
        known = {
            name: value for name, value in cluster.items() if name not in ("spark_env_vars", "spark_conf")
        }
        values["DATABRICKS_COMPUTE"] = str({"new_cluster": known})
    return {f"ML_PLATFORM_{name}": value or "not set" for name, value in values.items()}
