"""What was lost since it was recorded is noticed before anything is called up to date, and made again."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ml_platform.engine import local
from ml_platform.engine.step import PermanentError, StepRequest
from ml_platform.machine_learning.model_columns import ModelColumns
from ml_platform.machine_learning.model_files import RegistryError
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.online_store.store import OnlineStore
from ml_platform.storage.contract_versions import CONTRACTS, ContractVersions
from ml_platform.storage.table_location import DamagedTableError
from ml_platform_tests import tasks_here
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import SHOP, D, Platform, days, deliver_visits, forget_registry, shop

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_days")]

CHOSEN = days("2024-01-16", "2024-02-03")
DAY = D("2024-01-20")
BEFORE_MODELS = ("ards", "mrds", "online_features", "validation_report")
AFTER_MODELS = ("predictions", "model_performance")
ASSETS = (*BEFORE_MODELS, "model", *AFTER_MODELS, "drift_report")


def days_of(asset: str) -> list[date]:
    return {"model": [D("2024-02-01")], "drift_report": [D("2024-01-01")]}.get(asset, CHOSEN)


def run_all(platform: Platform) -> None:
    for asset in ASSETS:
        platform.run(asset, days_of(asset))


@pytest.fixture(scope="module")
def platform(small_days: None, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """A product that is all done; a test that damages it makes it whole again."""
    session: Any = tasks_here.TasksHere()
    made = Platform(settings_in(tmp_path_factory.mktemp("presence")), session)
    deliver_visits(made, CHOSEN)
    made.deliver(DAY, "2024-01-21T0700_visits.csv", "visit,day,customer,spend,pages,channel\nx\n")
    run_all(made)
    return made


def pending(platform: Platform, assets: Iterable[str]) -> set[str]:
    """Those of some assets that have something to do, asked as a backfill asks, without Spark."""

    def no_session() -> NoReturn:
        raise AssertionError("a look must not start Spark")

    found = set()
    for asset in assets:
        request = StepRequest(step=asset, product="shop", days=tuple(days_of(asset)), run_id="")  # type: ignore[arg-type]
        context = local.context_for(request, platform.product, platform.settings, no_session, lambda _: None)
        if local.is_pending(context):
            found.add(asset)
    return found


def folder_of(platform: Platform, table: str) -> Path:
    return Path(platform.tables.path("shop", table))


def remove_table(name: str) -> Callable[[Platform], None]:
    return lambda platform: shutil.rmtree(folder_of(platform, name))


def remove_reports(platform: Platform) -> None:
    shutil.rmtree(platform.settings.reports_path / "shop" / "validation_report" / str(DAY))


def empty_drift_report(platform: Platform) -> None:
    (platform.settings.reports_path / "shop" / "drift_report" / "2024-01-01" / "report.html").write_text("")


def remove_registry(platform: Platform) -> None:
    for path in (platform.settings.home / "mlflow").glob("mlflow.db*"):
        path.unlink()
    forget_registry()


def remove_artifacts(platform: Platform) -> None:
    shutil.rmtree(platform.settings.home / "mlflow" / "artifacts")


def remove_store(platform: Platform) -> None:
    for path in (platform.settings.home / "online").iterdir():
        path.unlink()


@dataclass(frozen=True)
class Loss:
    remove: Callable[[Platform], None]
    seen_by: tuple[str, ...]


LOSSES = {
    "ards": Loss(remove_table("ards"), ("ards",)),
    "quarantine": Loss(remove_table("quarantine"), ("ards",)),
    "mrds": Loss(remove_table("mrds"), ("mrds", "online_features")),
    "predictions": Loss(remove_table("predictions"), ("predictions",)),
    "evaluations": Loss(remove_table("model_performance"), ("model_performance",)),
    "models": Loss(remove_table("models"), ("model",)),
    "reports": Loss(remove_reports, ("validation_report",)),
    "a drift report that is cut off": Loss(empty_drift_report, ("drift_report",)),
    "mlflow.db": Loss(remove_registry, ("model",)),
    "MLflow's artifacts": Loss(remove_artifacts, ("model",)),
    "features.db": Loss(remove_store, ("online_features",)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_was_lost_is_not_up_to_date_and_is_made_again(platform: Platform, name: str) -> None:
    loss = LOSSES[name]
    before = platform.fingerprints(*loss.seen_by)
    loss.remove(platform)
    assert pending(platform, loss.seen_by) == set(loss.seen_by)
    for asset in loss.seen_by:
        platform.run(asset, days_of(asset))
    assert pending(platform, loss.seen_by) == set()
    assert platform.fingerprints(*loss.seen_by) == before


def test_what_is_all_there_is_up_to_date(platform: Platform) -> None:
    assert pending(platform, ASSETS) == set()


def test_a_file_of_one_day_that_is_cut_off_is_noticed(platform: Platform) -> None:
    (path,) = (folder_of(platform, "mrds") / f"event_day={DAY}").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-10])
    assert pending(platform, ["mrds"]) == {"mrds"}
    result = platform.run("mrds", CHOSEN)
    assert {day.day for day in result.days if not day.up_to_date} == {DAY}


def test_a_table_from_an_older_backup_is_noticed(platform: Platform, tmp_path: Path) -> None:
    folder = folder_of(platform, "predictions")
    shutil.copytree(folder, tmp_path / "backup")
    platform.run("predictions", [D("2024-02-02")], force=True, rescore=True)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    assert pending(platform, ["predictions"]) == {"predictions"}
    platform.run("predictions", CHOSEN)


def test_without_decisions_predictions_refuse_to_call_days_unserved(platform: Platform) -> None:
    before = platform.fingerprints("predictions")
    shutil.rmtree(folder_of(platform, "decisions"))
    with pytest.raises(
        PermanentError, match=r"lacks the model as of 2024-02-01.*backfill shop .*--select model"
    ):
        platform.run("predictions", CHOSEN)
    assert platform.fingerprints("predictions") == before
    platform.run("model", days_of("model"))  # decides again, from what is known of the models
    assert pending(platform, ["model", "predictions"]) == set()


def test_without_models_predictions_stay_as_they_are_until_these_are_put_back(platform: Platform) -> None:
    before = platform.fingerprints("predictions")
    shutil.rmtree(folder_of(platform, "models"))
    with pytest.raises(PermanentError, match=r"models lacks the model as of 2024-02-01.*--select model"):
        platform.run("predictions", CHOSEN)
    assert platform.fingerprints("predictions") == before
    platform.run("model", days_of("model"))
    assert pending(platform, ["model", "predictions"]) == set()
    (model,) = ModelHistory(platform.tables, platform.product).models()
    assert model.columns == ModelColumns.of(platform.product).plain
    assert model.holdout == "entities"


def test_days_are_not_scored_by_another_model_than_the_decision_names(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    uri = platform.settings.tracking_uri
    client, before = mlflow.MlflowClient(uri, uri), platform.fingerprints("predictions")
    (model,) = ModelHistory(platform.tables, platform.product).models()
    asked: list[str] = []
    get = mlflow.MlflowClient.get_model_version

    def counted(self: mlflow.MlflowClient, name: str, version: str) -> Any:
        asked.append(version)
        return get(self, name, version)

    monkeypatch.setattr(mlflow.MlflowClient, "get_model_version", counted)
    served = days("2024-02-01", "2024-02-03")
    client.set_model_version_tag("shop", model.version, "fingerprint", "f" * 32)
    settings = platform.settings.model_copy(update={"chunk_days": 1})
    other = Platform(settings, platform.spark)
    result = other.run("predictions", CHOSEN, force=True, rescore=True)
    outcomes = {day.day: (day.outcome, day.reason) for day in result.days}
    for day in served:
        outcome, reason = outcomes[day]
        assert outcome == "refused"
        assert f"version {model.version} of shop is another model" in reason
        assert model.fingerprint in reason
        assert "ml-platform doctor shop --repair" in reason
    assert {outcomes[day][0] for day in CHOSEN if day not in served} == {"no_model"}
    assert asked == [model.version]
    assert pending(platform, ["predictions"]) == {"predictions"}

    client.set_model_version_tag("shop", model.version, "fingerprint", model.fingerprint)
    platform.run("predictions", CHOSEN, rescore=True)
    assert platform.fingerprints("predictions") == before
    assert pending(platform, ["predictions"]) == set()


def test_rows_that_are_not_recorded_yet_are_no_loss(platform: Platform) -> None:
    record = platform.ledger.latest("predictions")[D("2024-02-02")]
    rows, version = record.counts["rows"], record.delta_version

    def losses(recorded: int) -> dict[date, str]:
        expected = {record.day: (recorded, version)}
        return platform.tables.losses("shop", "predictions", expected)

    assert losses(rows) == losses(rows - 1) == {}
    assert f"has {rows:,} whole rows of the day, not {rows + 1:,}" in losses(rows + 1)[record.day]


def test_the_contract_is_remembered_by_a_run_with_nothing_to_do(platform: Platform) -> None:
    shutil.rmtree(folder_of(platform, CONTRACTS))
    result = platform.run("mrds", CHOSEN)
    assert all(day.up_to_date for day in result.days)
    later = shop(source__columns=SHOP["source"]["columns"] | {"note": {"type": "string", "nullable": True}})
    known = ContractVersions(platform.tables, later)
    assert platform.product.hash_of("source", "mrds") in known.mrds_like_now(platform.product.features)


def test_a_store_takes_the_versions_of_a_table_that_was_made_anew(platform: Platform) -> None:
    platform.run("mrds", [DAY], force=True)
    platform.run("online_features", CHOSEN, force=True)
    store = OnlineStore(platform.settings.online_url)
    before = {row["customer"]: row["event_day"] for row in store.rows(platform.product)}
    shutil.rmtree(folder_of(platform, "mrds"))
    platform.run("mrds", CHOSEN)
    assert platform.tables.version("shop", "mrds") < max(store.published_versions(platform.product).values())
    platform.run("online_features", CHOSEN)
    assert set(store.published_versions(platform.product).values()) == {
        platform.tables.version("shop", "mrds")
    }
    assert {row["customer"]: row["event_day"] for row in store.rows(platform.product)} == before


@pytest.mark.parametrize("table", ["ards", "predictions", "days", "decisions"])
def test_a_log_that_is_cut_off_is_named_with_what_to_do(platform: Platform, table: str) -> None:
    log = folder_of(platform, table) / "_delta_log"
    newest = max(log.glob("*.json"))
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    try:
        with pytest.raises(DamagedTableError, match=f"shop/{table} is damaged.*doctor --repair"):
            pending(platform, ["ards", "predictions", "model"])
    finally:
        newest.write_bytes(content)


def test_a_damaged_registry_is_named_with_what_to_do(platform: Platform) -> None:
    path = platform.settings.home / "mlflow" / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    forget_registry()
    content = path.read_bytes()
    path.write_bytes(b"no database " * 1000)
    try:
        with pytest.raises(RegistryError, match=r"mlflow.db is damaged.*doctor --repair"):
            pending(platform, ["model"])
    finally:
        path.write_bytes(content)
    assert pending(platform, ["model"]) == set()
