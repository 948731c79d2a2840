"""The commands as a newcomer would use them; what they compute is tested where it lives."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ml_platform.cli.backfill import Backfill
from ml_platform.cli.contracts import in_words
from ml_platform.cli.main import app
from ml_platform.contract.assets import CATALOGUE
from ml_platform.engine.run_partitions import Done
from ml_platform.settings import Settings
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import SHOP, days, shop

COMMANDS = (
    "init",
    "check",
    "land",
    "sample",
    "backfill",
    "train",
    "summary",
    "history",
    "suggest",
    "rollback",
    "ui",
    "online forget",
    "online unforget",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    contracts = tmp_path / "contracts"
    contracts.mkdir()
    (contracts / "shop.yaml").write_text(yaml.safe_dump(SHOP, sort_keys=False))
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ML_PLATFORM_PRODUCTS", str(contracts))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "dagster").mkdir()
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_each_command_with_an_example(command: str) -> None:
    code, output = run(*command.split(), "--help")
    assert code == 0
    assert f"ml-platform {command}" in output.split("Example")[1]


def test_check_says_in_words_what_graph_a_contract_gives(home: Path) -> None:
    code, output = run("check", str(home / "contracts" / "shop.yaml"))
    assert code == 0
    assert "is valid" in output
    assert "shop/mrds, daily: one row per customer and day: sum of spend" in output
    assert "monthly from 2024-02" in output


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (1, ["on 2024-02-01, when the labels of 30 days (2024-01-01 to 2024-01-30)", "that of 2024-02-02."]),
        (30, ["on 2024-03-01, when the labels of 30 days (2024-01-01 to 2024-01-30)", "that of 2024-03-31."]),
        (90, ["on 2024-05-01, when the labels of 31 days (2024-01-01 to 2024-01-31)", "that of 2024-07-30."]),
    ],
)
def test_check_says_from_which_day_on_there_is_a_model_and_an_evaluation(
    home: Path, delay: int, expected: list[str]
) -> None:
    path = home / "contracts" / "shop.yaml"
    contract = yaml.safe_load(path.read_text())
    contract["source"]["label_delay_days"] = delay
    del contract["model"]["first_month"]
    path.write_text(yaml.safe_dump(contract))
    code, output = run("check", str(path))
    assert code == 0, output
    for part in expected:
        assert part in " ".join(output.split())


def test_check_says_that_a_history_ends_before_an_evaluation(home: Path) -> None:
    path = home / "contracts" / "shop.yaml"
    contract = yaml.safe_load(path.read_text()) | {"end": "2024-03-20"}
    contract["source"]["label_delay_days"] = 30
    del contract["model"]["first_month"]
    path.write_text(yaml.safe_dump(contract))
    code, output = run("check", str(path))
    assert code == 0, output
    assert "The history ends before a day that it scores can be evaluated" in " ".join(output.split())


def test_check_refuses_a_broken_contract_with_its_key(home: Path) -> None:
    path = home / "contracts" / "shop.yaml"
    path.write_text(path.read_text().replace("order_by", "sort_by"))
    code, output = run("check", str(path))
    assert code == 1
    assert "mrds.sort_by: unknown key; accepted are entity, order_by, aggregate" in output.replace("\n", " ")


def test_land_splits_a_history_into_deliveries(home: Path) -> None:
    history = home / "history.csv"
    history.write_text(
        "visit,day,customer,spend,pages,channel,bought\n"
        "1,2024-01-01,ann,1.5,3,web,1\n"
        "2,2024-01-02,bob,2.5,4,app,\n"
    )
    code, output = run("land", "shop", str(history))
    assert code == 0, output
    landing = home / "home" / "landing" / "shop"
    assert sorted(str(path.relative_to(landing)) for path in landing.rglob("*.csv")) == [
        "2024-01-01/2024-01-02T0600_history.csv",
        "2024-01-01/2024-01-03T0600_labels.csv",
        "2024-01-02/2024-01-03T0600_history.csv",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("history", "shoe"), "unknown product 'shoe'; there are customers, flights, shop"),
        (
            ("sample", "shop", "--from", "2024-01-01", "--to", "2024-01-02"),
            "the sample's files have the columns order, day, customer, channel, price, quantity",
        ),
        (("backfill", "shop", "--from", "2024-01-02", "--to", "2024-01-01"), "lies before the first day"),
        (("backfill", "shop", "--from", "2023-01-02", "--to", "2024-01-01"), "goes beyond the days of shop"),
        (
            ("backfill", "shop", "--from", "2024-01-01", "--to", "2024-01-01", "--select", "model,scores"),
            "unknown asset scores; accepted are ards, mrds",
        ),
        (
            (
                "backfill",
                "shop",
                "--from",
                "2024-01-01",
                "--to",
                "2024-01-01",
                "--select",
                "mrds",
                "--rescore",
            ),
            "--rescore is for predictions: add them to --select",
        ),
        (("train", "shop"), "shop has no day to learn from; land and backfill some first"),
        (("rollback", "shop", "--reason", "no"), "no promotion that could be rolled back"),
    ],
)
def test_a_wrong_request_says_what_is_accepted(home: Path, arguments: tuple[str, ...], expected: str) -> None:
    code, output = run(*arguments)
    assert code == 1
    assert expected in output.replace("\n", " ")


def test_a_backfill_of_a_missing_day_fails_with_what_to_do(home: Path) -> None:
    code, output = run("backfill", "shop", "--from", "2024-01-01", "--to", "2024-01-01")
    assert code == 1
    assert "2024-01-01 is missing" in output
    assert "deliver the day" in output


def test_history_and_summary_of_a_new_product_are_empty_tables(home: Path) -> None:
    for command in ("history", "summary"):
        code, output = run(command, "shop")
        assert code == 0
        assert "shop" in output


def test_check_history_and_summary_say_how_long_retrains_wait_that_have_lost(home: Path) -> None:
    ledger = Ledger(Tables.of(Settings()), "shop")
    ledger.record(
        [
            DayRecord("model", as_of, "written", inputs="i", contract="c", code_version="1")
            for as_of in (date(2024, 3, 5), date(2024, 3, 12), date(2024, 3, 19))
        ]
    )
    for command in ("history", "summary"):
        said = " ".join(run(command, "shop")[1].split())
        assert "3 retrains in a row have lost, the last as of 2024-03-19" in said
        assert "trains again as of 2024-04-02 at the earliest. Can f1 reach evaluation.threshold 0.6?" in said
    said = " ".join(run("check", str(home / "contracts" / "shop.yaml"))[1].split())
    assert (
        "at most every 7 days; after 3 retrains that lost in a row each further one waits twice as long"
        in said
    )


def recorded(day: str, asset: str, outcome: str) -> DayRecord:
    return DayRecord(
        asset=asset,
        day=date.fromisoformat(day),
        outcome=outcome,  # type: ignore[arg-type]
        inputs="i",
        contract="c",
        code_version="1",
    )


def test_a_backfill_ends_with_a_line_that_adds_up_and_with_1_if_a_day_cannot_be_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backfill, "run", lambda *_: [])
    Ledger(Tables(str(Settings().tables_root)), "shop").record(
        [
            *[recorded(f"2024-01-0{n}", asset, "written") for n in (1, 2) for asset in ("ards", "mrds")],
            recorded("2024-01-03", "ards", "blocked"),
            recorded("2024-01-03", "mrds", "held_back"),
            *[recorded("2024-01-04", asset, "missing") for asset in ("ards", "mrds")],
            *[recorded("2024-01-05", asset, "not_due") for asset in ("ards", "mrds")],
        ]
    )
    command = ("backfill", "shop", "--from", "2024-01-01", "--select", "ards,mrds", "--to")
    code, output = run(*command, "2024-01-02")
    assert code == 0
    assert output.strip().endswith(
        "shop over 2024-01-01 to 2024-01-02: ards, mrds: 2 written; up to date, nothing to do"
    )
    code, output = run(*command, "2024-01-05")
    assert code == 1
    assert (
        "ards: 2 written, 1 blocked (2024-01-03), 1 missing (2024-01-04), 1 not due; "
        "mrds: 2 written, 1 held back (2024-01-03), 1 missing (2024-01-04), 1 not due; "
        "2 days can't be used, nothing has changed: ml-platform alerts show shop"
    ) in output
    assert run(*command, "2024-01-05", "--allow-bad-days")[0] == 0


def test_a_backfill_counts_the_months_of_a_monthly_asset(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backfill, "run", lambda *_: [])
    Ledger(Tables(str(Settings().tables_root)), "shop").record(
        [
            recorded("2024-01-01", "drift_report", "written"),
            recorded("2024-02-01", "drift_report", "refused"),
            recorded("2024-03-01", "drift_report", "refused"),
            *[recorded(str(day), "ards", "written") for day in days("2024-01-01", "2024-03-31")],
            recorded("2024-03-01", "ards", "blocked"),
        ]
    )
    asked = ("--from", "2024-01-01", "--to", "2024-03-31", "--select", "ards,drift_report")
    code, output = run("backfill", "shop", *asked)
    assert code == 1
    assert "drift_report: 2 refused (2024-02, 2024-03), 1 written" in output
    assert "1 day and 2 months can't be used" in output


def test_the_progress_of_drift_counts_months() -> None:
    step = CATALOGUE["drift_report"].step_class(None)
    assert step.progress(3, 12, date(2024, 3, 1)) == "drift_report: 3 of 12 months, up to 2024-03"
    assert step.summary([date(2024, 1, 1)], Done(frozenset(), {})) == {
        "months_done": 0,
        "months_up_to_date": 1,
    }
    assert CATALOGUE["ards"].step_class(None).progress(1, 1, date(2024, 3, 1)) == (
        "ards: 1 of 1 day, up to 2024-03-01"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "Its history begins on 2024-01-01; a day begins and ends at midnight in UTC."),
        ({"end": "2024-06-30"}, "Its history runs from 2024-01-01 to 2024-06-30; a day begins"),
        ({"source__label_delay_days": 0}, "the label bought arrives with the rows."),
        ({"source__label_delay_days": 1}, "the label bought arrives 1 day after the rows."),
        ({"source__label_delay_days": 3}, "the label bought arrives 3 days after the rows."),
    ],
)
def test_a_contract_is_described_in_plain_english(changes: dict[str, Any], expected: str) -> None:
    assert expected in " ".join(in_words(shop(**changes)))
