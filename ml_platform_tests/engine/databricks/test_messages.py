"""Messages of remote steps: whole files, nothing lost, and what a result is made of."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ml_platform.contract.loading import load_products
from ml_platform.engine.databricks import messages
from ml_platform.engine.databricks.messages import (
    MissingResultError,
    RemoteMessages,
    StepFailed,
    Task,
    VolumeChannel,
    VolumeMessageWriter,
    decode,
    encode,
    messages_of,
)
from ml_platform.engine.step import Check, DayResult, StepRequest, StepResult
from ml_platform.settings import Settings
from ml_platform_tests.contract.test_kinds import NUMBER
from ml_platform_tests.machine_learning.test_multiclass import CLASS
from ml_platform_tests.small_platform import shop

D = date(2024, 3, 1)
LOGISTIC = "sklearn.linear_model.LogisticRegression"
REQUEST = StepRequest(step="mrds", product="shop", days=(D, date(2024, 3, 2)), run_id="r", as_of=D)
RESULT = StepResult(
    days=[
        DayResult(
            day=day,
            outcome="written",
            fingerprint="f",
            metadata={"rows": 3, "share": float("nan"), "table": [{"column": "ä\n", "value": None}]},
            checks=[Check(name="data_quality", passed=False, severity="WARN", metadata={"n": 1.5})],
        )
        for day in REQUEST.days
    ],
    metadata={"days_done": 2},
)


def message(text: str) -> Any:
    return {"__dagster_pipes_version": "0.1", "method": "log", "params": {"message": text}}


def written(folder: Path) -> list[str]:
    """The texts of all messages in a folder, file after file."""
    texts = []
    for number in range(1, len(list(folder.iterdir())) + 1):
        found = decode((folder / f"{number}.json").read_text())
        assert found is not None
        texts += [one["params"]["message"] for one in found if one["params"]]
    return texts


def test_an_attempts_files_follow_those_of_the_one_before_but_for_one_that_was_cut(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with VolumeChannel(tmp_path, 0).writing():
            pass
        channel = VolumeChannel(tmp_path, 0)
        with channel.writing():
            channel.write_message(message(text))
    (tmp_path / "2.json").write_text('{"method": "log", "par')
    (tmp_path / "notes.json").write_text("of somebody else")
    channel = VolumeChannel(tmp_path, 0)
    with channel.writing():
        channel.write_message(message("third"))
    (tmp_path / "notes.json").unlink()
    assert written(tmp_path) == ["first", "third"]


def failed(error: str) -> Any:
    return StepFailed(permanent=True, error=error, traceback="").model_dump(mode="json")


def test_what_the_last_attempt_has_said_counts() -> None:
    sent = list(messages_of(RESULT))
    for earlier in ([failed("x")], sent[:1], [*sent[:1], failed("x")], [failed("x"), failed("y"), *sent[:2]]):
        found = RemoteMessages([*earlier, *sent])
        assert found.failure is None
        assert repr(found.result(REQUEST)) == repr(RESULT)
    last = RemoteMessages([failed("x"), *sent[:1], failed("y")])
    assert last.failure is not None
    assert last.failure.error == "y"
    with pytest.raises(MissingResultError):
        last.result(REQUEST)


def test_a_result_arrives_as_it_was_sent() -> None:
    travelled = json.loads(json.dumps(list(messages_of(RESULT))))
    assert repr(RemoteMessages(travelled).result(REQUEST)) == repr(RESULT)
    assert len(travelled) == 3, "each day is a message of its own"


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_result_that_lacks_a_message_is_none(left_out: int) -> None:
    travelled = list(messages_of(RESULT))
    del travelled[left_out]
    with pytest.raises(MissingResultError):
        RemoteMessages(travelled).result(REQUEST)


def test_a_task_arrives_as_it_was_sent() -> None:
    products, _ = load_products(Settings().product_folders)
    for product in products.values():
        task = Task(request=REQUEST, product=product, settings={"chunk_days": 3}, secrets={"A": "s/k"})
        arrived = Task.model_validate(json.loads(json.dumps(task.as_extras()["task"])))
        assert arrived == task
        assert arrived.product.hash_of("source", "mrds", "model") == product.hash_of(
            "source", "mrds", "model"
        )


@pytest.mark.parametrize(
    "changes",
    [
        NUMBER,
        CLASS,
        {"model__estimator": {"class": LOGISTIC, "params": {"class_weight": {0: 1, 1: 9}, "C": 1e-7}}},
        {
            "model__estimator": {
                "class": LOGISTIC,
                "params": {"max_iter": 90},
                "search": {
                    "params": {"solver": {"choices": ["lbfgs", "saga"]}, "C": {"low": 0.1, "high": 9.0}}
                },
            }
        },
        {"source__null_values": ["no", "NULL", "1e3", "2024-01-01", "~", ""]},
    ],
    ids=["a number", "classes", "keys that are numbers", "a search", "words that mean something in YAML"],
)
def test_a_contract_of_any_kind_arrives_as_it_was_sent(changes: dict[str, Any]) -> None:
    product = shop(**changes)
    task = Task(request=REQUEST, product=product, settings={})
    arrived = Task.model_validate(json.loads(json.dumps(task.as_extras()["task"]))).product
    assert arrived == product
    assert arrived.model_fields_set == product.model_fields_set
    assert arrived.model.estimator == product.model.estimator
    assert arrived.hash_of("source", "mrds", "model") == product.hash_of("source", "mrds", "model")


def test_only_a_whole_file_is_read() -> None:
    whole = encode([json.dumps(message("one")), json.dumps(message("two"))])
    assert [one["params"]["message"] for one in decode(whole) or []] == ["one", "two"]
    for size in range(len(whole) - 1):
        assert decode(whole[:size]) is None, f"cut after {size} of {len(whole)} characters"


def test_messages_are_written_in_order_and_in_files_of_a_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_FILE_SIZE", 500)
    texts = [f"{number} {'x' * 100}" for number in range(40)]
    with VolumeMessageWriter().open({"path": str(tmp_path), "interval": 60}) as channel:
        for text in texts:
            channel.write_message(message(text))
    assert written(tmp_path) == texts
    assert all(file.stat().st_size < 600 for file in tmp_path.iterdir())


def test_a_write_that_fails_for_a_while_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "not yet there"
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            folder.mkdir()

    channel = VolumeChannel(folder, 0.0, sleep=sleep)
    with channel.writing():
        channel.write_message(message("one"))
        channel.write_message(message("two"))
    assert written(folder) == ["one", "two"]
    assert slept == sorted(slept)


def test_messages_that_can_never_be_written_fail_the_task(tmp_path: Path) -> None:
    channel = VolumeChannel(tmp_path / "nowhere", 0.0, sleep=lambda _: None)
    with pytest.raises(FileNotFoundError), channel.writing():
        channel.write_message(message("one"))
