"""What was lost or damaged is found, named with the command that makes it again, and made again."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ml_platform.cli.backfill import Backfill
from ml_platform.cli.console import instance_of
from ml_platform.cli.main import app
from ml_platform.contract.days import DayRange
from ml_platform.contract.loading import parse_product
from ml_platform.graph.resources import LocalStepRunner
from ml_platform.settings import Settings
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests import tasks_here
from ml_platform_tests.e2e.test_no_secret_shown import mlflow_server
from ml_platform_tests.small_platform import (
    SHOP,
    D,
    Platform,
    deliver_visits,
    forget_registry,
    shop_contract,
)

pytestmark = pytest.mark.slow

SPAN = DayRange(D("2024-01-16"), D("2024-02-03"))
ASSETS = ("ards", "mrds", "online_features", "validation_report", "model", "predictions", "model_performance")
Fingerprints = Mapping[tuple[str, date], str | None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a product that is all done."""
    with all_done(tmp_path_factory.mktemp("doctor")) as home:
        yield home


@contextmanager
def all_done(folder: Path, contract: Mapping[str, Any] = SHOP, **environment: str) -> Iterator[Path]:
    (folder / "contracts").mkdir(parents=True)
    (folder / "contracts" / "shop.yaml").write_text(yaml.safe_dump(dict(contract), sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        tasks_here.without_verdicts(patch)
        patch.setattr(LocalStepRunner, "session", lambda *_, **__: tasks_here.TasksHere())
        patch.delenv("DAGSTER_HOME", raising=False)
        patch.setenv("ML_PLATFORM_HOME", str(folder / "home"))
        patch.setenv("ML_PLATFORM_PRODUCTS", str(folder / "contracts"))
        patch.setenv("DAGSTER_HOME", str(folder / "home" / "dagster"))
        for name, value in environment.items():
            patch.setenv(name, value)
        (folder / "home" / "dagster").mkdir(parents=True)
        platform = Platform(Settings(), tasks_here.TasksHere())  # type: ignore[arg-type]
        deliver_visits(platform, SPAN)
        backfill(contract)
        yield folder / "home"


def backfill(contract: Mapping[str, Any] = SHOP) -> int:
    """How many runs it took to bring all up to date."""
    settings = Settings()
    with instance_of(settings) as instance:
        return len(Backfill(parse_product(contract, "shop.yaml"), settings, instance).run(SPAN))


def doctor(*options: str) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["doctor", "shop", *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def fingerprints(*more: str) -> Fingerprints:
    ledger = Ledger(Tables.of(Settings()), "shop")
    return {
        (asset, day): record.fingerprint
        for asset in (*ASSETS, *more)
        for day, record in ledger.latest(asset).items()
    }


def cut_off_newest_commit(table: Path) -> None:
    newest = max((table / "_delta_log").glob("*.json"))
    newest.write_bytes(newest.read_bytes()[:50])


def damage(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for name in (f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    path.write_bytes(b"no database " * 1000)


def test_a_product_that_is_whole_needs_nothing(home: Path) -> None:
    assert doctor() == (0, "shop: all is as the ledger says.\n")
    assert doctor("--json") == (0, "[]\n")


def test_what_is_lost_or_damaged_is_named_and_made_again(home: Path) -> None:
    before = fingerprints()
    tables = home / "tables" / "shop"
    for name in ("mrds", "predictions", "model_performance", "decisions"):
        shutil.rmtree(tables / name)
    shutil.rmtree(home / "reports" / "shop" / "validation_report" / "2024-01-20")
    shutil.rmtree(home / "mlflow" / "artifacts")
    for path in (home / "online").iterdir():
        path.unlink()
    code, output = doctor()
    assert code == 1
    assert max(len(line) for line in output.splitlines() if len(line.split()) > 2) <= 80
    words = " ".join(output.replace(" \\\n", " ").split())
    for said in (
        "mrds is missing",
        "online_features is missing: the online store doesn't have the day: 19 days from",
        "to fix it: ml-platform backfill shop --from 2024-01-16 --to 2024-02-03 --select mrds",
        "predictions is missing",
        "model_performance is missing",
        "validation_report is missing: the reports' target folder has no page of it: 2024-01-20",
        "model is missing: as of 2024-02-01",
    ):
        assert said in words, output
    found = json.loads(doctor("--json")[1])
    assert {finding["part"] for finding in found} >= {"mrds", "online_features", "predictions", "model"}
    assert all(finding["product"] == "shop" and finding["command"] for finding in found)

    code, output = doctor("--repair")
    assert code == 0, output
    assert fingerprints() == before
    assert doctor()[0] == 0
    assert backfill() == 0


def test_what_is_kept_for_windows_is_looked_at_and_made_again(tmp_path: Path) -> None:
    contract = shop_contract(mrds__features={"spent_3": {"sum": "spend", "days": 3}})
    with all_done(tmp_path, contract) as home:
        before = fingerprints("daily_aggregates")
        assert doctor()[0] == 0
        kept = home / "tables" / "shop" / "daily_aggregates"
        (file,) = (kept / "event_day=2024-01-20").glob("*.parquet")
        file.write_bytes(file.read_bytes()[:100])
        (finding,) = json.loads(doctor("--json")[1])
        assert (finding["part"], finding["state"]) == ("daily_aggregates", "missing")
        assert finding["place"] == str(kept)
        assert finding["detail"] == f"{kept} lacks rows: 2024-01-20"
        assert finding["command"] == (
            "ml-platform backfill shop --from 2024-01-20 --to 2024-01-20 --select mrds"
        )
        code, output = doctor("--repair")
        assert code == 0, output
        assert fingerprints("daily_aggregates") == before

        shutil.rmtree(kept)
        assert backfill(contract) == 1, "the next run over the days makes them again without the doctor"
        assert doctor()[0] == 0

        cut_off_newest_commit(kept)
        (finding,) = json.loads(doctor("--json")[1])
        assert (finding["part"], finding["state"]) == ("daily_aggregates", "damaged")
        code, output = doctor("--repair")
        assert code == 0, output
        assert fingerprints("daily_aggregates") == before
        assert backfill(contract) == 0


def test_damaged_databases_and_a_commit_that_is_cut_off_are_moved_aside_and_made_again(home: Path) -> None:
    before = fingerprints()
    forget_registry()
    damage(home / "mlflow" / "mlflow.db")
    damage(home / "online" / "features.db")
    damage(home / "dagster" / "history" / "runs.db")
    cut_off_newest_commit(home / "tables" / "shop" / "days")
    code, output = doctor()
    assert code == 1
    for part in ("mlflow", "online_features", "dagster", "days"):
        assert f"{part} is damaged" in output
    code, output = doctor("--repair")
    assert code == 0, output
    assert fingerprints() == before
    assert len(list((home / "mlflow").glob("mlflow.db.damaged-1"))) == 1
    assert backfill() == 0


def test_the_ledger_itself_and_deliveries_come_from_a_backup(home: Path, tmp_path: Path) -> None:
    days, landing = home / "tables" / "shop" / "days", home / "landing" / "shop"
    shutil.move(days, tmp_path / "days")
    code, output = doctor("--repair")
    assert code == 1
    assert "the ledger is gone" in output
    assert "restore it from a backup" in " ".join(output.split())
    assert not days.exists()
    shutil.move(tmp_path / "days", days)

    shutil.move(landing / "2024-01-20", tmp_path / "delivery")
    code, output = doctor("--repair")
    assert code == 1
    assert "landing is gone from the deliveries: the deliveries of 2024-01-20 were used" in " ".join(
        output.split()
    )
    shutil.move(tmp_path / "delivery", landing / "2024-01-20")
    assert doctor()[0] == 0


def test_a_restored_backup_goes_on_where_it_was(home: Path, tmp_path: Path) -> None:
    """The steps of docs/operating.md, in their order."""
    backup = tmp_path / "backup"
    for table in (
        "days",
        "models",
        "comparisons",
        "decisions",
        "model_performance",
        "ards",
        "mrds",
        "predictions",
    ):
        shutil.copytree(home / "tables" / "shop" / table, backup / "tables" / "shop" / table)
    databases = [home / "mlflow" / "mlflow.db", home / "online" / "features.db"]
    databases += [*(home / "dagster").glob("history/**/*.db"), *(home / "dagster").glob("schedules/*.db")]
    for path in databases:
        copy = backup / path.relative_to(home)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    shutil.copy2(home / "dagster" / "dagster.yaml", backup / "dagster")
    for folder in ("mlflow/artifacts", "reports", "landing"):
        shutil.copytree(home / folder, backup / folder)
    platform = Platform(Settings(), tasks_here.TasksHere())  # type: ignore[arg-type]
    correction = "visit,day,customer,spend,pages,channel\n1,2024-02-03,c0001,9.5,3,web\n"
    platform.deliver("2024-02-03", "2024-02-05T0600_visits.csv", correction)
    assert backfill() > 0
    after = fingerprints()
    newer = home / "landing" / "shop" / "2024-02-03"

    home.rename(tmp_path / "lost")
    shutil.copytree(backup, home)
    forget_registry()
    code, output = doctor("--repair")
    assert code == 0, output
    shutil.copytree(tmp_path / "lost" / newer.relative_to(home), newer, dirs_exist_ok=True)
    assert backfill() > 0
    assert fingerprints() == after
    assert doctor()[0] == 0


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (sqlite3.SQLITE_CANTOPEN, "unable to open database file"),
        (sqlite3.SQLITE_IOERR, "disk I/O error"),
        (sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
    ],
)
def test_a_database_that_cannot_be_read_is_not_taken_for_damaged(
    home: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    path = home / "mlflow" / "mlflow.db"
    beside, content, connect = sorted(path.parent.iterdir()), path.read_bytes(), sqlite3.connect

    def refuse(database: object, *options: Any, **named: Any) -> sqlite3.Connection:
        if "mlflow.db" in str(database):
            error = sqlite3.OperationalError(message)
            error.sqlite_errorcode = code
            raise error
        return connect(database, *options, **named)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", refuse)
    found = json.loads(doctor("--json")[1])
    assert [(one["part"], one["state"], one["repairable"]) for one in found] == [
        ("mlflow", "unreadable", False)
    ]
    code_, output = doctor("--repair")
    assert code_ == 1
    assert f"mlflow is unreadable: {message}" in " ".join(output.split())
    assert sorted(path.parent.iterdir()) == beside
    assert path.read_bytes() == content


def test_another_model_under_a_versions_number_on_a_server_is_named_and_trained_again(tmp_path: Path) -> None:
    import mlflow

    with mlflow_server(tmp_path / "server") as port:
        address = f"http://127.0.0.1:{port}"
        with all_done(tmp_path / "shop", ML_PLATFORM_MLFLOW_TRACKING_URI=address):
            assert doctor()[0] == 0
            before = fingerprints()
            client = mlflow.MlflowClient(address, address)
            client.set_model_version_tag("shop", "1", "fingerprint", "f" * 32)
            code, output = doctor()
            assert code == 1
            words = " ".join(output.split())
            assert "model is missing: as of 2024-02-01: version 1 of shop is another model" in words
            assert "to fix it: ml-platform doctor shop --repair" in words
            assert doctor("--repair")[0] == 0
            assert doctor()[0] == 0
            assert fingerprints() == before
            assert client.get_model_version_by_alias("shop", "champion").version == "2"


def test_a_store_that_is_away_is_no_loss_and_keeps_nothing_from_being_repaired(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_ONLINE_STORE_URL", "postgresql+psycopg://nobody:nothing@127.0.0.1:1/none")
    shutil.rmtree(home / "tables" / "shop" / "predictions")
    code, output = doctor("--repair")
    assert code == 1
    assert "online_features is unreadable" in output
    assert "shop: 1 part not as the ledger says" in output
    assert "nothing@" not in output
    assert (home / "tables" / "shop" / "predictions").exists()
    monkeypatch.delenv("ML_PLATFORM_ONLINE_STORE_URL")
    assert doctor()[0] == 0


def test_the_present_version_of_the_contract_is_put_back(home: Path) -> None:
    table = home / "tables" / "shop" / "contracts"
    shutil.rmtree(table)
    code, output = doctor()
    assert code == 1
    assert (
        "contracts is missing: it lacks the present version of the contract, which made 19 days"
        in " ".join(output.split())
    )
    assert doctor("--repair")[0] == 0
    assert table.exists()
    (table / "_delta_log" / "00000000000000000000.json").write_text("{")
    assert "contracts is damaged" in doctor()[1]
    assert doctor("--repair")[0] == 0


def test_of_a_product_without_history_the_doctor_says_one_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path / "new"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "new" / "dagster"))
    assert doctor() == (0, "shop: nothing has been made yet, so nothing can be missing.\n")
    assert doctor("--repair") == (0, "shop: nothing has been made yet, so nothing can be missing.\n")
    assert not (tmp_path / "new").exists()


def test_what_is_made_on_another_machine_is_named_as_not_looked_at(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_platform.contract.compute.EngineChoice.of", lambda *_: "databricks")
    code, output = doctor()
    assert code == 0
    assert " ".join(output.split()) == (
        "shop: all that was looked at is as the ledger says. "
        "not looked at: the deliveries, ards, mrds, online_features, validation_report, predictions, "
        "drift_report: made on databricks; run ml-platform doctor shop there"
    )
    assert doctor("--json") == (0, "[]\n")
