"""The runs of models in MLflow, and the experiment of each product that holds them.

What has become a version of a registered model is :mod:`.registry`'s. Importing this module does not import
MLflow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ml_platform.contract.product import Product
from ml_platform.machine_learning import selection_runs
from ml_platform.machine_learning.mlflow_store import mlflow_module, prepared_client, sqlite_file
from ml_platform.machine_learning.selection import Selection
from ml_platform.settings import LOCAL_MLFLOW, MLFLOW_OF_MODELS

# dagster-mlflow resumes the run of the experiment that carries this tag, so only its own run may.
PARENT_TAG = "dagster_run_id"
CHILD_TAG = "dagster.run_id"

#: MLflow's pages show an experiment with it as one of models, not of language models' traces.
_KIND = ("mlflow.experimentKind", "custom_model_development")

#: What MLflow's stores, and Databricks', say of what isn't there.
GONE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


class Tracking:
    """The experiments and runs of all products in one MLflow tracking store."""

    def __init__(
        self,
        uri: str,
        registry_uri: str,
        *,
        experiments: str | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        """Take the addresses as they are; nothing is opened.

        Args:
            registry_uri: where versions are registered; MLflow's client knows both.
            experiments: the folder of the experiments, which Databricks' tracking asks for.
            credentials: user and password of a tracking server, which its address doesn't hold.
        """
        self.uri = uri
        self.registry_uri = registry_uri
        self._experiments = experiments
        self._credentials = credentials

    def experiment_name(self, product: str) -> str:
        """What the product's experiment is called."""
        return f"{self._experiments.rstrip('/')}/{product}" if self._experiments else product

    def prepare(self, product: str | None = None) -> None:
        """Create or upgrade a local store, and create the product's experiment. Cheap when done before."""
        self.client()
        if product is not None:
            self.experiment(product)

    def end_orphans(self, product: str, is_over: Callable[[str], bool]) -> None:
        """End the product's MLflow runs that are still open although their Dagster run is over.

        A killed process can't end its MLflow runs; they would show as running for ever.
        """
        client = self.client()
        experiment = self.experiment(product)
        for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
            dagster_run_id = run.data.tags.get(PARENT_TAG) or run.data.tags.get(CHILD_TAG)
            if dagster_run_id and is_over(dagster_run_id):
                client.set_terminated(run.info.run_id, "KILLED")

    def remove_experiment(self, product: Product) -> bool:
        """Delete the experiment, which MLflow keeps as a deleted one for a while; False if there is none."""
        client = self.client()
        found = client.get_experiment_by_name(self.experiment_name(product.name))
        if found is None or found.lifecycle_stage == "deleted":
            return False
        client.delete_experiment(found.experiment_id)
        return True

    @contextmanager
    def run(
        self, product: str, name: str, tags: Mapping[str, str], parent_run_id: str | None
    ) -> Iterator[Any]:
        """Hold a run of a product's experiment open, nested under its parent.

        It ends FINISHED, or FAILED if anything raises.
        """
        mlflow = mlflow_module()
        # Logging a model works with the process's tracking store only; dagster-mlflow sets it as well.
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.registry_uri)
        with mlflow.start_run(
            experiment_id=self.experiment(product),
            run_name=name,
            nested=True,
            parent_run_id=parent_run_id,
            tags={CHILD_TAG if tag == PARENT_TAG else tag: value for tag, value in tags.items()},
        ) as run:
            yield run

    def selection(self, run_id: str) -> Selection | None:
        """What was chosen before the model of a run was trained; None if there was no choice."""
        return selection_runs.read(self.client(), run_id)

    def metrics_of(self, run_id: str) -> dict[str, float]:
        """The metrics that the run of a model has in MLflow; none if the run is gone."""
        from mlflow.exceptions import MlflowException

        try:
            return dict(self.client().get_run(run_id).data.metrics)
        except MlflowException as error:
            if error.error_code not in GONE:
                raise
            return {}

    def tag_of(self, run_id: str, name: str) -> str | None:
        """A tag of a run; None if the run or the tag is gone."""
        from mlflow.exceptions import MlflowException

        try:
            found: str | None = self.client().get_run(run_id).data.tags.get(name)
        except MlflowException as error:
            if error.error_code not in GONE:
                raise
            return None
        return found

    def run_url(self, ui_url: str | None, run_id: str) -> str:
        """Where MLflow's UI shows a run.

        Args:
            ui_url: where the UI is; by default the workspace's, or the one that ``ml-platform ui`` opens.
        """
        place = f"experiments/{self.client().get_run(run_id).info.experiment_id}/runs/{run_id}"
        if ui_url is None and self.uri.startswith("databricks"):
            from mlflow.utils.databricks_utils import get_databricks_host_creds

            return f"{get_databricks_host_creds(self.uri).host.rstrip('/')}/ml/{place}"
        return f"{(ui_url or LOCAL_MLFLOW).rstrip('/')}/#/{place}?{MLFLOW_OF_MODELS}"

    def client(self) -> Any:
        """MLflow's client of the store, which exists then and has this MLflow's tables."""
        if self._credentials:
            os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = self._credentials
        return prepared_client(self.uri, self.registry_uri)

    def experiment(self, name: str) -> str:
        """The id of a product's experiment, which is created if need be."""
        from mlflow.exceptions import MlflowException

        client = self.client()
        called = self.experiment_name(name)
        kind, models = _KIND
        found = client.get_experiment_by_name(called)
        if found is None:
            database = sqlite_file(self.uri)
            artifacts = database and (database.parent / "artifacts" / name).as_uri()
            try:
                return str(client.create_experiment(called, artifact_location=artifacts, tags={kind: models}))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was first
                    raise
                found = client.get_experiment_by_name(called)
        if kind not in found.tags:  # somebody else has made it, or MLflow has inferred nothing yet
            client.set_experiment_tag(found.experiment_id, kind, models)
        return str(found.experiment_id)
