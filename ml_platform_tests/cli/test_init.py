"""``ml-platform init``: from a file to a contract, and the commands to go on."""

from __future__ import annotations

import re
import shlex
from datetime import date, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ml_platform.cli import init as command
from ml_platform.cli.main import app
from ml_platform.contract.loading import load_product
from ml_platform.data_engineering.landing import delivered_days


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ML_PLATFORM_PRODUCTS", raising=False)
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def history(path: Path, day: str = "day", **more: str) -> Path:
    lines = [",".join(["order", day, "customer", "amount", "again", *more])]
    for n in range(60):
        cells = [str(n), str(date(2024, 1, 1) + timedelta(days=n % 30)), f"c{n % 5}", f"{n}.5", str(n % 2)]
        lines.append(",".join([*cells, *(value.format(n=n % 2) for value in more.values())]))
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*arguments: str, answers: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), input=answers)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_it_ends_with_commands_that_work_as_they_stand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "my data").mkdir()
    file = history(folder / "my data" / "history of orders.csv")
    code, output = run("init", "orders", str(file))
    assert code == 0
    commands = output.partition("then:\n")[2]
    whole = re.sub(r" *\\\n +", " ", commands)  # a long path is broken into lines, as a shell reads them
    shown = [line.strip() for line in whole.splitlines() if line.startswith("  ")]
    setting, check, land, backfill = shown
    variable, _, value = shlex.split(setting)[1].partition("=")
    monkeypatch.setenv(variable, value)
    assert run(*shlex.split(check)[1:])[0] == 0
    assert run(*shlex.split(land)[1:])[0] == 0
    product = load_product(folder / "contracts" / "orders.yaml")
    assert len(delivered_days(product, folder / "home" / "landing")) == 30
    assert backfill == "ml-platform backfill orders --from 2024-01-01 --to 2024-01-30"


def test_what_cannot_be_measured_is_named_with_its_options_without_a_terminal(folder: Path) -> None:
    file = history(folder / "history.csv", day="ordered", shipped="2024-02-0{n}")
    file.write_text(file.read_text().replace("2024-02-00", "2024-02-02"))
    code, output = run("init", "orders", str(file))
    assert code == 1
    assert "--event-day is missing" in output
    assert "--event-day ordered" in output
    assert "--event-day shipped" in output
    assert not (folder / "contracts").exists()
    assert run("init", "orders", str(file), "--event-day", "ordered")[0] == 0


def test_in_a_terminal_it_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = history(folder / "history.csv", paid="{n}")
    monkeypatch.setattr(command, "_is_terminal", lambda: True)
    code, output = run("init", "orders", str(file), answers="7\nx\n2\n")
    assert code == 0
    assert "which column is to be predicted?" in output
    assert load_product(folder / "contracts" / "orders.yaml").source.label == "paid"


def test_a_contract_that_is_there_is_not_written_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = history(folder / "history.csv")
    assert run("init", "orders", str(file))[0] == 0
    contract = folder / "contracts" / "orders.yaml"
    contract.write_text("mine\n")
    code, output = run("init", "orders", str(file))
    assert code == 1
    assert "exists already; --force writes over it" in output
    assert contract.read_text() == "mine\n"
    assert run("init", "orders", str(file), "--force")[0] == 0
    assert load_product(contract).name == "orders"
    # A product of that name somewhere else stays, whatever is forced.
    monkeypatch.setenv("ML_PLATFORM_PRODUCTS", str(folder / "contracts"))
    code, output = run("init", "orders", str(file), "--to", str(folder / "other.yaml"), "--force")
    assert code == 1
    assert f"there is a product orders already, in {contract}" in output
    # One of the samples makes way.
    assert run("init", "flights", str(file))[0] == 0


def test_a_product_whose_estimator_cannot_learn_keeps_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is drawn, and another contract of the name would take both down."""
    file = history(folder / "history.csv")
    assert run("init", "orders", str(file), "--to", str(folder / "contracts" / "other.yaml"))[0] == 0
    contract = folder / "contracts" / "other.yaml"
    contract.write_text(re.sub(r"class: [\w.]+", "class: sklearn.linear_model.Nope", contract.read_text()))
    monkeypatch.setenv("ML_PLATFORM_PRODUCTS", str(folder / "contracts"))
    code, output = run("init", "orders", str(file))
    assert code == 1
    assert f"there is a product orders already, in {contract}" in output


def test_a_name_that_means_something_else_in_yaml_is_a_name(folder: Path) -> None:
    assert run("init", "null", str(history(folder / "history.csv")))[0] == 0
    assert load_product(folder / "contracts" / "null.yaml").name == "null"


def test_it_goes_into_the_first_folder_of_contracts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = folder / "mine"
    mine.mkdir()
    monkeypatch.setenv("ML_PLATFORM_PRODUCTS", str(mine))
    code, output = run("init", "orders", str(history(folder / "history.csv")))
    assert code == 0
    assert (mine / "orders.yaml").exists()
    assert "export" not in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("My Orders", "history.csv"), "'My Orders' can't name a product"),
        (("orders", "nothing.csv"), "nothing.csv: can't be read: No such file or directory"),
        (("orders", "."), "is no regular file"),
        (("orders", "history.csv", "--decimal", "x"), "--decimal x: accepted are ., ,"),
        (("orders", "history.csv", "--task", "ranking"), "--task ranking: accepted are binary"),
        (("orders", "history.csv", "--date-format", "%d"), "expected is COLUMN=FORMAT"),
        (("orders", "history.csv", "--to", "orders.txt"), "a contract is a file named *.yaml"),
        (("orders", "history.csv", "--timezone", "Paris"), "'Paris' is not a time zone"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    history(folder / "history.csv")
    code, output = run("init", *arguments)
    assert code == 1
    assert said in output
    assert not (folder / "contracts").exists()
    assert not (folder / "orders.txt").exists()
