"""What was tried before a model was trained, as MLflow shows it: runs nested under the model's own.

There is a run for each estimator of the contract, and one for each trial of its search below that. Nothing
depends on them but what people see; what a model's record needs is in :class:`.selection.Selection`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ml_platform.contract.learning import Estimator
from ml_platform.contract.product import Product
from ml_platform.machine_learning import model_plots
from ml_platform.machine_learning.search import Score
from ml_platform.machine_learning.selection import Selection

#: The file of a model's run that holds what was tried, and what of it was chosen.
FILE = "selection.json"
#: The tag of a model's run that says why its estimator was chosen, and that of each estimator how it fared.
SELECTION, RESULT = "selection", "result"

#: MLflow's own bound of a parameter's value, and of a tag's.
_LONGEST = 500
_PARENT = "mlflow.parentRunId"


def log(
    client: Any, experiment: str, run_id: str, product: Product, selection: Selection, tags: Mapping[str, str]
) -> None:
    """Log a run for each estimator that was tried, and for each trial.

    Args:
        product: with all estimators of the contract.
        run_id: the model's run.
        tags: what names the origin of each run.
    """
    writer = _Writer(client, experiment, product.evaluation.metric, tags)
    total = len(product.model.candidates)
    pairs = zip(product.model.candidates, selection.tried, strict=True)
    for place, (estimator, tried) in enumerate(pairs):
        name = f"estimator {place + 1} of {total}: {estimator.name}"
        params = _params(estimator) | {f"estimator.{key}": value for key, value in tried.values.items()}
        if estimator.search is not None:
            params |= {"searched": estimator.search.in_words, "trials": tried.trials}
        result = "chosen" if place == selection.chosen else "failed" if tried.score.failure else "not chosen"
        child = writer.run(run_id, name, params, tried.score, result)
        for number, trial in enumerate(tried.made, start=1):
            # Of a trial only what it has tried differs from its estimator's run.
            writer.run(child, f"trial {number} of {estimator.name}", trial.values, trial.score, "trial")
        figure = model_plots.of_trials(
            [trial.score.mean for trial in tried.made], product.metric_in_words, product.metric.sign
        )
        if figure is not None:
            for of_run, file in ((child, "trials"), (run_id, f"trials_of_estimator_{place + 1}")):
                client.log_figure(of_run, figure, f"plots/{file}.png")
    client.set_tag(run_id, SELECTION, selection.reason[:_LONGEST])
    client.log_text(run_id, selection.plain, FILE)


def read(client: Any, run_id: str) -> Selection | None:
    """What :func:`log` has kept of a model's run; None if there is nothing."""
    from mlflow.artifacts import load_text
    from mlflow.exceptions import MlflowException

    if SELECTION not in client.get_run(run_id).data.tags:
        return None
    try:
        place = client.get_run(run_id).info.artifact_uri
        return Selection.read(load_text(f"{place}/{FILE}"))
    except (MlflowException, OSError):
        return None


class _Writer:
    """Writes finished runs."""

    def __init__(self, client: Any, experiment: str, metric: str, tags: Mapping[str, str]) -> None:
        self._client = client
        self._experiment = experiment
        self._metric = metric
        self._tags = tags

    def run(self, parent: str, name: str, params: Mapping[str, Any], score: Score, result: str) -> str:
        """Write one run, which is over; returns its id."""
        from mlflow.entities import Metric, Param, RunTag

        tags = {**self._tags, _PARENT: parent, RESULT: result}
        if score.failure:
            tags["failure"] = score.failure[:_LONGEST]
        run = self._client.create_run(self._experiment, run_name=name)
        now = time.time_ns() // 1_000_000
        figures = {
            f"fold_{number}_{self._metric}": fold_score
            for number, fold_score in enumerate(score.folds, start=1)
        }
        if score.mean is not None:
            figures[f"folds_{self._metric}"] = score.mean
        run_id = str(run.info.run_id)
        self._client.log_batch(
            run_id,
            metrics=[Metric(key, value, now, 0) for key, value in figures.items()],
            params=[Param(key, _text(value)) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        self._client.set_terminated(run_id, "FAILED" if score.failure else "FINISHED")
        return run_id


def _params(estimator: Estimator) -> dict[str, Any]:
    given = {f"estimator.{name}": value for name, value in estimator.params.items()}
    return {"estimator": estimator.class_, "categorical": estimator.encoding, **given}


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, default=str))[:_LONGEST]
