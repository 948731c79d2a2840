"""Tables in a window of 80 columns, and the same as JSON: nothing is cut off, nothing is missing."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from ml_platform.cli import layout
from ml_platform.cli.layout import Row
from ml_platform.contract.assets import daily
from ml_platform.machine_learning import performance
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord
from ml_platform.machine_learning.promotion import Comparison
from ml_platform.online_store.store import OnlineStore
from ml_platform.settings import PACKAGE, Settings
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables
from ml_platform_tests.cli.test_cli import run
from ml_platform_tests.online_store.rows import MONDAY, publish, row
from ml_platform_tests.small_platform import SHOP, D, days, shop

FIRST, LAST = "2024-01-01", "2024-04-30"
LONG_REASON = (
    "missing required value in pages: 1,289 rows of 2024-03-05T0600_visits_from_the_warehouse_in_the_north"
    ".csv; unparseable value in spend: 17 rows; too few rows: 12, expected at least 300"
)
RETRAINED = D("2024-03-14")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A product with four months of days, models and evaluations; what a long history has of oddities."""
    contracts = tmp_path / "contracts"
    contracts.mkdir()
    contract = SHOP | {"end": LAST}
    (contracts / "shop.yaml").write_text(yaml.safe_dump(contract, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ML_PLATFORM_HOME", "home")
    monkeypatch.setenv("ML_PLATFORM_PRODUCTS", str(contracts))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    (tmp_path / "dagster").mkdir()
    monkeypatch.setenv("COLUMNS", "80")
    settings, product = Settings(), shop(end=LAST)
    tables = Tables.of(settings)
    counts = {"delivered": 1_234_567, "rows": 1_200_000}
    records = [
        recorded(asset, day, "written", counts, models={f"f-{served_by(day)}": 1_200_000})
        if day >= PROMOTED[0] or asset != "predictions"
        else recorded(asset, day, "no_model", {})
        for day in days(FIRST, LAST)
        for asset in daily()
    ]
    for asset in daily():
        outcome = "refused" if asset == "ards" else "held_back"
        records.append(recorded(asset, D("2024-03-05"), outcome, {}, LONG_REASON))
    records += [recorded("ards", D(day), "missing", {}, "no files were delivered") for day in MISSING]
    # The whole of April was scored by the first model, before the others were there.
    records += [
        recorded("predictions", day, "written", {"rows": 1_200_000}, models={"f-2024-02-01": 1_200_000})
        for day in days("2024-04-01", LAST)
    ]
    failed = {"name": "no_drift", "passed": False, "severity": "warning", "description": "spend has drifted"}
    records.append(recorded("drift_report", D("2024-02-01"), "written", {}, checks=[failed]))
    Ledger(tables, "shop").record(records)

    history = ModelHistory(tables, product)
    for number, as_of in enumerate((D("2024-02-01"), D("2024-03-01"), RETRAINED, D("2024-04-01")), 1):
        history.add(
            ModelRecord(
                as_of=as_of,
                month=as_of.replace(day=1),
                kind="retrain" if as_of == RETRAINED else "monthly",
                fingerprint=f"f-{as_of}",
                version=str(number),
                mlflow_run_id="r",
                threshold=0.5,
                rows=5_000_000 if number > 2 else 123_456,
                rows_available=72_000_000 if number > 2 else 123_456,
                first_day=D(FIRST),
                last_day=as_of - timedelta(days=2),
                run_id="run",
            )
        )
    history.decide(lambda *models: "/".join(map(str, models)), compared)
    rows = []
    for day in days("2024-02-10", LAST):
        values: dict[str, Any] = dict.fromkeys(performance._SCHEMA.names)
        values |= {"event_day": day, "metric": "f1", "value": 0.7, "verdict": "passed", "fingerprint": "f"}
        rows.append(values | {"champion_value": 0.5123, "champion_rows": 45_678})
    performance.replace(tables, product, [values["event_day"] for values in rows], rows)
    return tmp_path


def served_by(day: date) -> date:
    """The model that serves a day, as the decisions below have it."""
    return max((as_of for as_of in PROMOTED if as_of <= day), default=PROMOTED[0])


PROMOTED = (D("2024-02-01"), D("2024-03-01"), D("2024-04-01"))
MISSING = ("2024-01-20", "2024-01-21")


def compared(challenger: ModelRecord, champion: ModelRecord | None, day: date) -> Comparison:
    better = challenger.as_of != RETRAINED
    reason = (
        "f1 0.783 against 0.766: better by 0.017 [0.003, 0.030]"
        if better
        else "f1 0.741 against 0.766: not shown to be better: -0.025 [-0.041, 0.003]"
    )
    against = None if champion is None else 0.766
    nothing: dict[str, float | None] = {}
    return Comparison(
        "f1", 0.783 if better else 0.741, against, "champion", 0.003, 0.03, 9, 5, 7, nothing, better, reason
    )


def recorded(
    asset: str,
    day: date,
    outcome: str,
    counts: dict[str, int],
    reason: str = "",
    *,
    models: dict[str, int] | None = None,
    checks: list[dict[str, Any]] | None = None,
) -> DayRecord:
    details = {"metadata": {}, "checks": checks or []} | ({"models": models} if models else {})
    return DayRecord(
        asset=asset,
        day=day,
        outcome=outcome,  # type: ignore[arg-type]
        reason=reason,
        inputs="i",
        contract="c",
        code_version="1",
        counts=counts,
        details=details,
    )


def words(text: str) -> list[str]:
    return re.sub(r"\\\n", " ", text).split()


def fits(output: str, width: int = 80) -> bool:
    """Whether no line is too long but those of a single word, which nothing can break."""
    return all(len(line) <= width or len(line.split()) == 1 for line in output.splitlines())


def shows(output: str, text: str) -> bool:
    """Whether a text is there with all its words in order, whatever lines it is broken into."""
    return " ".join(text.split()) in " ".join(words(output))


def json_of(*command: str) -> Any:
    code, output = run(*command, "--json")
    assert code == 0, output
    return json.loads(output)


def test_the_summary_fits_and_the_json_has_what_it_shows(home: Path) -> None:
    code, output = run("summary", "shop")
    assert code == 0
    assert fits(output), output
    assert "…" not in output
    found = json_of("summary", "shop")
    assert [month["month"] for month in found["months"]] == ["2024-01", "2024-02", "2024-03", "2024-04"]
    for month in found["months"]:
        figures = [f"{month[key]:,}" for key in ("delivered", "rows", "quarantined", "bad_days")]
        metric = "-" if month["metric"] is None else f"{month['metric']:.4f}"
        assert shows(output, " ".join([month["month"], *figures, metric]))
        for model in month["models"]:
            head = f"model {model['version']} as of {model['as_of']}, {model['verdict']}"
            assert shows(output, f"{head}: {model['reason']}")
    # 31 days of 1,234,567 records, of which one was refused and brought none.
    march = found["months"][2]
    assert (march["delivered"], march["rows"], march["bad_days"]) == (30 * 1_234_567, 30 * 1_200_000, 1)
    assert [model["verdict"] for model in march["models"]] == ["promoted", "not promoted"]
    assert found["months"][0]["bad_days"] == len(MISSING)
    assert shows(output, "no model yet")
    [other] = found["scored_by_other_models"]
    assert (other["first"], other["last"], other["days"]) == ("2024-04-01", LAST, 30)
    assert shows(output, "ml-platform backfill shop --from 2024-04-01 --to 2024-04-30 --rescore")


def test_the_history_fits_and_the_json_has_what_it_shows(home: Path) -> None:
    code, output = run("history", "shop")
    assert code == 0
    assert fits(output), output
    assert "…" not in output
    found = json_of("history", "shop")["models"]
    assert [(model["version"], model["kind"]) for model in found] == [
        ("1", "monthly"),
        ("2", "monthly"),
        ("3", "retrain"),
        ("4", "monthly"),
    ]
    for model in found:
        assert shows(output, f"trained: {model['cause']}")
        assert shows(output, f"{model['verdict']}: {model['reason']}")
        assert shows(output, f"{model['as_of']} {model['kind']} {model['version']} {model['rows']:,}")
        serves = f"{model['serves_from']} to {model['serves_to'] or 'now'}" if model["serves_from"] else "-"
        assert shows(output, serves)
    assert "f1 0.5123 of the champion's 45,678 rows on 2024-03-13" in found[2]["cause"]
    assert shows(output, "5,000,000 of 72,000,000")
    assert found[0]["days_scored"] == 29 + 30, "February, and April once more"


def test_alerts_fit_with_each_cause_and_commands_that_can_be_copied(home: Path) -> None:
    code, output = run("alerts", "show", "shop")
    assert code == 0
    assert fits(output), output
    found = json_of("alerts", "show", "shop")["findings"]
    assert len(found) == 1 + len(MISSING) + 1
    assert output.startswith("shop: 3 errors and 1 warning")
    for finding in found:
        assert shows(output, f"{finding['severity']}: {finding['title']}")
        assert all(shows(output, cause) for cause in finding["causes"])
        for remedy in finding["remedies"]:
            assert shows(output, f"{remedy['words']}:")
            # What a shell makes of the lines as they are printed.
            assert shlex.split(remedy["command"]) in [shlex.split(part) for part in commands(output)]
    refused = next(finding for finding in found if finding["subject"] == "refused")
    assert refused["found"] == LONG_REASON
    assert shows(output, LONG_REASON)
    assert shows(output, "holds back: mrds, online_features, predictions of the day")
    drift = next(finding for finding in found if finding["asset"] == "drift_report")
    assert drift["title"] == "2024-02, drift_report drift", "its partition is a month"


def commands(output: str) -> list[str]:
    """The commands of an output, joined as a shell joins lines that end with a backslash."""
    joined = re.sub(r"\\\n\s*", "", output)
    return [line.strip() for line in joined.splitlines() if line.strip().startswith("ml-platform")]


def test_today_as_json_is_what_its_page_shows_and_writes_none(home: Path) -> None:
    found = json_of("today", "shop")
    assert found["contract_errors"] == {}
    [shop_today] = found["products"]
    assert (shop_today["status"], shop_today["newest_day"]) == ("error", LAST)
    assert shop_today["days"]["2024-03-05"] == "refused"
    assert shop_today["champion"]["version"] == "4"
    assert not (home / "home" / "reports").exists()
    assert run("today", "shop")[0] == 0
    page = (home / "home" / "reports" / "shop" / "_today" / "index.html").read_text()
    for fact in shop_today["facts"]:
        assert fact["title"] in page
    assert {one["product"] for one in json_of("today")["products"]} == {"customers", "flights", "shop"}


def test_entities_of_the_store_fit_with_all_their_features(home: Path) -> None:
    publish(OnlineStore(Settings().online_url), shop(), [row(f"customer {n}", MONDAY, n) for n in range(3)])
    keys = ["customer 0", "customer 2"]
    code, output = run("online", "get", "shop", *keys)
    assert code == 0
    assert fits(output), output
    code, lines = run("online", "get", "shop", *keys, "--json")
    for line in lines.splitlines():
        for name, value in json.loads(line).items():
            assert shows(output, name)
            assert value is None or shows(output, str(value))


@pytest.mark.parametrize(
    "command",
    [
        ("check", "contracts/shop.yaml"),
        ("doctor", "shop"),
        ("rollback", "shop", "--reason", "no", "--dry-run"),
    ],
)
def test_other_lines_for_people_fit_as_well(home: Path, command: tuple[str, ...]) -> None:
    output = run(*command)[1]
    assert len(output.splitlines()) > 1
    assert fits(output), output
    assert "…" not in output


def test_a_new_product_has_empty_json(home: Path) -> None:
    assert json_of("summary", "flights")["months"] == []
    assert json_of("history", "flights")["models"] == []
    assert json_of("alerts", "show", "flights")["findings"] == []


def test_each_key_of_the_json_is_in_the_documents(home: Path) -> None:
    text = (PACKAGE.parent / "docs" / "operating.md").read_text()
    section = text.split("## For scripts")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    #: Whose keys are names of days, columns or outcomes.
    free = {"days", "counts", "scores", "links", "would_have_blocked", "contract_errors"}

    def keys(content: Any) -> set[str]:
        if isinstance(content, list):
            return set().union(*map(keys, content))
        if not isinstance(content, dict):
            return set()
        below = [keys(value) for key, value in content.items() if key not in free or isinstance(value, list)]
        return set(content).union(*below)

    for command in (("summary",), ("history",), ("alerts", "show"), ("today",)):
        assert keys(json_of(*command, "shop")) <= named, command
    output = run("doctor", "shop", "--json")[1]
    assert keys(json.loads(output)) <= named


PIECES = st.lists(st.text("abcdefgh-:/ü界", min_size=1, max_size=30), min_size=1, max_size=40)


@hypothesis(max_examples=60, deadline=None, derandomize=True)
@given(PIECES, st.integers(20, 120), st.integers(0, 8))
def test_whatever_is_said_keeps_its_words_and_fits(pieces: list[str], width: int, indent: int) -> None:
    printed = captured(width, lambda: layout.say(" ".join(pieces), indent=indent, hanging=indent + 2))
    assert printed.split() == " ".join(pieces).split()
    for line in printed.splitlines():
        assert layout.cell_len(line) <= width or len(line.split()) == 1


ARGUMENTS = st.lists(st.text("abc-= '\"$&", min_size=1, max_size=25), min_size=1, max_size=15)


@hypothesis(max_examples=60, deadline=None, derandomize=True)
@given(ARGUMENTS, st.integers(30, 120))
def test_a_command_that_is_copied_is_the_command(arguments: list[str], width: int) -> None:
    command = shlex.join(["ml-platform", *arguments])
    printed = captured(width, lambda: layout.say_command(command))
    assert shlex.split(re.sub(r"\\\n", "", printed)) == ["ml-platform", *arguments]


CELLS = st.lists(st.lists(st.text("abc1界", max_size=30), min_size=4, max_size=4), min_size=1, max_size=5)


@hypothesis(max_examples=60, deadline=None, derandomize=True)
@given(CELLS, st.integers(20, 140))
def test_a_table_that_does_not_fit_names_the_rest_below_each_row(cells: list[list[str]], width: int) -> None:
    rows = [Row(line, ["a note of some words"]) for line in cells]
    printed = captured(width, lambda: layout.print_table("", ["one", "two", "three", "four"], rows))
    for line in cells:
        assert all(cell in printed for cell in line)
    assert printed.count("note") == len(rows)
    for line in printed.splitlines():
        assert layout.cell_len(line) <= width or len(line.split()) <= 2


def captured(width: int, print_it: Callable[[], None]) -> str:
    console = layout.console
    before = console.width
    console.width = width
    try:
        with console.capture() as captured:
            print_it()
        return captured.get()
    finally:
        console._width = None
        assert before
