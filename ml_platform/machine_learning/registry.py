"""Where models are kept: MLflow runs, model versions, and the alias of the champion.

Every trained model is one MLflow run and one version of the registered model that bears the product's
name, in Unity Catalog within a schema. A version is found again by its training fingerprint; numbers and
run ids are labels that MLflow gives. Fitting and comparing models do not belong here. Importing this module
does not import MLflow.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from ml_platform.contract.product import Product
from ml_platform.machine_learning import model_plots, selection_runs
from ml_platform.machine_learning.arrays import Floats
from ml_platform.machine_learning.kind import Kind, Predictions
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.mlflow_store import (
    damaged,
    has_file,
    local_file,
    mlflow_module,
    prepared_client,
    sqlite_file,
)
from ml_platform.machine_learning.model_card import (
    DataUsed,
    dataset_of,
    days_and_rows,
    holdout_metrics,
    log_model,
    params_of,
    requirements,
)
from ml_platform.machine_learning.model_files import (
    FINGERPRINT,
    MODEL_FILE,
    THRESHOLD,
    MissingLibraryError,
    RegistryError,
    UnloadableError,
    incompatible,
    missing,
    read_pipeline,
)
from ml_platform.machine_learning.pipeline import feature_frame
from ml_platform.machine_learning.promotion import CHAMPION
from ml_platform.machine_learning.selection import Selection
from ml_platform.machine_learning.training import TrainedModel
from ml_platform.settings import LOCAL_MLFLOW, MLFLOW_OF_MODELS, Settings

_log = logging.getLogger(__name__)

# dagster-mlflow resumes the run of the experiment that carries this tag, so only its own run may.
_PARENT_TAG = "dagster_run_id"


_CHILD_TAG = "dagster.run_id"

#: What the tag says of a model whose kind of label has no decisions.
_NO_THRESHOLD = "none"
#: The tag with the packages that a version was made with.
LIBRARIES = "libraries"
#: The file of a model's run that says from what it was made; its record, which is read, says the same.
MANIFEST = "manifest.json"
#: The tag with what people should know of the rows that a model has learned from.
REMARK = "remark"


#: MLflow's pages show an experiment with it as one of models, not of language models' traces.
_KIND = ("mlflow.experimentKind", "custom_model_development")

#: What was last written about a version, beside its description: one that a person has changed stays.
_DESCRIBED = "described"

#: The stage of a version that was deleted: its row stays in MLflow's database.
_DELETED = "Deleted_Internal"

#: What MLflow's stores, and Databricks', say of what isn't there.
_GONE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


@dataclass(frozen=True)
class RegisteredModel:
    """A model version, and the MLflow run that made it."""

    version: str
    run_id: str
    model_uri: str
    fingerprint: str
    threshold: float | None
    remark: str = ""


@dataclass(frozen=True)
class _Stored:
    """A model version as the registry's database has it: the folder of its file, and its tags."""

    place: str
    tags: dict[str, str]


@dataclass(frozen=True)
class LoadedModel:
    """A model version, ready to score."""

    pipeline: Any
    threshold: float | None
    fingerprint: str


class Registry:
    """The models of all products in one MLflow tracking store and registry."""

    def __init__(
        self,
        tracking_uri: str,
        registry_uri: str | None = None,
        *,
        schema: str | None = None,
        experiments: str | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        """Take the addresses as they are; nothing is opened.

        Args:
            schema: ``catalog.schema`` of the models, if the registry is Unity Catalog's.
            experiments: the folder of the experiments, which Databricks' tracking asks for.
            credentials: user and password of a tracking server, which its address doesn't hold.
        """
        self._credentials = credentials
        self._tracking_uri = tracking_uri
        self._registry_uri = registry_uri or tracking_uri
        self._schema = schema
        self._experiments = experiments

    @classmethod
    def of(cls, settings: Settings) -> Registry:
        """The registry that the settings name."""
        return cls(
            settings.tracking_uri,
            settings.registry_uri,
            schema=settings.registry_schema,
            experiments=settings.experiments_folder,
            credentials=settings.mlflow_credentials,
        )

    def name(self, product: Product) -> str:
        """What the product's registered model is called."""
        return f"{self._schema}.{product.name}" if self._schema else product.name

    def experiment_name(self, product: str) -> str:
        """What the product's experiment is called."""
        return f"{self._experiments.rstrip('/')}/{product}" if self._experiments else product

    def prepare(self, product: str | None = None) -> None:
        """Create or upgrade a local store, and create the product's experiment. Cheap when done before."""
        client = self._client()
        if product is not None:
            self._experiment(client, product)

    def end_orphans(self, product: str, is_over: Callable[[str], bool]) -> None:
        """End the product's MLflow runs that are still open although their Dagster run is over.

        A killed process can't end its MLflow runs; they would show as running for ever.
        """
        client = self._client()
        experiment = self._experiment(client, product)
        for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
            dagster_run_id = run.data.tags.get(_PARENT_TAG) or run.data.tags.get(_CHILD_TAG)
            if dagster_run_id and is_over(dagster_run_id):
                client.set_terminated(run.info.run_id, "KILLED")

    def remove_model(self, product: Product) -> bool:
        """Delete the registered model with all its versions; False if there is none."""
        from mlflow.exceptions import MlflowException

        client, name = self._client(), self.name(product)
        try:
            client.get_registered_model(name)
            for version in client.search_model_versions(f"name = '{name}'"):
                client.delete_model_version(name, version.version)
            client.delete_registered_model(name)
        except MlflowException as error:
            if error.error_code not in _GONE:
                raise
            return False
        return True

    def remove_experiment(self, product: Product) -> bool:
        """Delete the experiment, which MLflow keeps as a deleted one for a while; False if there is none."""
        client = self._client()
        found = client.get_experiment_by_name(self.experiment_name(product.name))
        if found is None or found.lifecycle_stage == "deleted":
            return False
        client.delete_experiment(found.experiment_id)
        return True

    def find(self, product: Product, fingerprint: str) -> RegisteredModel | None:
        """The newest version with this training fingerprint, which its run must have as well.

        The tags of a version can be changed in MLflow's UI by a slip; what its run was is written once.
        """
        client = self._client()
        if self._schema:
            found = self._find_in_catalog(client, product, fingerprint)
        else:
            tagged = client.search_model_versions(
                f"name = '{self.name(product)}' and tags.{FINGERPRINT} = '{fingerprint}'"
            )
            found = [version for version in tagged if _run_tag(client, version, FINGERPRINT) == fingerprint]
        return max(map(_registered, found), key=lambda model: int(model.version), default=None)

    def absent(self, product: Product, versions: Mapping[str, str]) -> dict[str, str]:
        """Those of some versions that a SQLite registry lacks, or that can't be loaded, with what is wrong.

        That a file is there and the libraries are those it was made with is seen; the file isn't read.

        It takes milliseconds, without MLflow; of another registry all is taken for granted.

        Args:
            versions: the training fingerprint of each version; a version of another model counts as absent,
                since a registry that was made anew counts from 1 again.

        Raises:
            RegistryError: the database is damaged.
        """
        database = self._database()
        if database is None:
            return {}
        if not database.exists():
            return dict.fromkeys(versions, f"{database} is gone")
        stored = self._stored(product, database)
        if stored is None:
            return dict.fromkeys(versions, f"{database} has no models")
        lost = {}
        for version, fingerprint in versions.items():
            found = stored.get(version)
            if found is None or found.tags.get(FINGERPRINT) != fingerprint:
                lost[version] = f"{database} lacks version {version} of {self.name(product)}, or has another"
            elif not has_file(found.place):
                lost[version] = f"{found.place}/{MODEL_FILE} is gone"
            elif why := incompatible(found.tags.get(LIBRARIES, "").split()):
                lost[version] = f"version {version} of {self.name(product)} can't be loaded: {why}"
        return lost

    def without_library(self, product: Product, versions: Iterable[str]) -> dict[str, str]:
        """Those of some versions of a SQLite registry that need a library which isn't installed, and which.

        Raises:
            RegistryError: the database is damaged.
        """
        database = self._database()
        stored = self._stored(product, database) if database is not None and database.exists() else None
        wanted = {version: (stored or {}).get(version) for version in versions}
        return {
            version: f"version {version} of {self.name(product)} can't be loaded: {why}"
            for version, found in wanted.items()
            if found is not None and (why := missing(found.tags.get(LIBRARIES, "").split()))
        }

    def _database(self) -> Path | None:
        """The file of the registry, if it is one."""
        return None if self._schema else sqlite_file(self._registry_uri)

    def _stored(self, product: Product, database: Path) -> dict[str, _Stored] | None:
        """What a SQLite registry has of a product's versions; None without its tables.

        MLflow's own client says the same after seconds of imports.

        Raises:
            RegistryError: the database is damaged.
        """
        query = (
            "SELECT v.version, v.storage_location, t.key, t.value "
            "FROM model_versions v "
            "LEFT JOIN model_version_tags t ON t.name = v.name AND t.version = v.version "
            "WHERE v.name = ? AND v.current_stage IS NOT ?"
        )
        try:
            with contextlib.closing(
                sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=60)
            ) as connection:
                rows = connection.execute(query, [self.name(product), _DELETED]).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise  # it is locked, or the disk is at fault: that passes
        except sqlite3.DatabaseError as error:
            raise RegistryError(damaged(database, error)) from error
        stored: dict[str, _Stored] = {}
        for version, place, key, value in rows:
            stored.setdefault(str(version), _Stored(place or "", {})).tags[key] = value
        return stored

    def _load_here(self, product: Product, version: str, fingerprint: str) -> LoadedModel | None:
        """A version whose file lies in a local folder, by the registry's own file; None if that can't be."""
        database = self._database()
        if database is None or not database.exists():
            return None
        found = (self._stored(product, database) or {}).get(version)
        if found is None or found.tags.get(FINGERPRINT) != fingerprint or THRESHOLD not in found.tags:
            return None
        file = local_file(found.place)
        if file is None:
            return None
        self._check_libraries(product, version, found.tags)
        return LoadedModel(_read_file(str(file), fingerprint), _threshold_in(found.tags), fingerprint)

    def _find_in_catalog(self, client: Any, product: Product, fingerprint: str) -> list[Any]:
        """The versions with a fingerprint, by their runs: Unity Catalog can't search versions by tag."""
        runs = client.search_runs(
            [self._experiment(client, product.name)], f"tags.{FINGERPRINT} = '{fingerprint}'"
        )
        named = [
            client.get_model_version(version.name, version.version)
            for run in runs
            for version in client.search_model_versions(f"run_id = '{run.info.run_id}'")
            if version.name == self.name(product)
        ]
        return [version for version in named if version.tags.get(FINGERPRINT) == fingerprint]

    def log(
        self,
        product: Product,
        trained: TrainedModel,
        *,
        as_of: date,
        fingerprint: str,
        holdout: pd.DataFrame | None,
        data: DataUsed,
        tags: Mapping[str, str],
        manifest: str | None = None,
        parent_run_id: str | None = None,
    ) -> RegisteredModel:
        """Log a model in a run of its own, nested under the parent, and register it.

        The version is made last: what is registered is complete. The run ends FINISHED, or FAILED if
        anything raises.

        Args:
            holdout: labelled rows of held-out entities, for metrics and plots.
            tags: ``partition``, ``dagster_run_id``, ``code_version`` and whatever else names the origin.
            manifest: what the model was made from beside its rows, as JSON, for people.
        """
        client, contract = self._client(), product
        product = product.with_estimator(trained.estimator)
        remark = kind_of(product).remark(trained.pipeline)
        mlflow = mlflow_module()
        # Logging a model works with the process's tracking store only; dagster-mlflow sets it as well.
        mlflow.set_tracking_uri(self._tracking_uri)
        mlflow.set_registry_uri(self._registry_uri)
        facts = {
            "product": product.name,
            "partition": f"{as_of:%Y-%m}",
            "as_of": str(as_of),
            "trained_through": str(trained.last_day),
            **({REMARK: remark} if remark else {}),
            LIBRARIES: " ".join(requirements(product)),
            FINGERPRINT: fingerprint,
            THRESHOLD: _NO_THRESHOLD if trained.threshold is None else repr(trained.threshold),
            **tags,
        }
        with mlflow.start_run(
            experiment_id=self._experiment(client, product.name),
            run_name=f"{product.name} as of {as_of}",
            nested=True,
            parent_run_id=parent_run_id,
            tags={_CHILD_TAG if name == _PARENT_TAG else name: value for name, value in facts.items()},
        ) as run:
            mlflow.log_params(params_of(product, trained, data))
            mlflow.log_input(
                dataset_of(product, data, fingerprint), context="training", tags=days_and_rows(data)
            )
            kind = kind_of(product)
            model = log_model(kind, trained, facts)
            figures: dict[str, float] = {"training_rows": trained.rows}
            if product.task.has_positives:
                figures["training_positives"] = trained.positives
            unseen = None
            if holdout is not None:
                label = kind.labels(holdout[product.label])
                outputs = kind.in_days(kind.predict(trained.pipeline, holdout), holdout)
                predictions = kind.decided(outputs, trained.threshold)
                figures |= holdout_metrics(kind, label, predictions)
                unseen = (holdout, label, predictions)
            _log_plots(kind, trained, unseen)
            mlflow.log_metrics(figures, model_id=model.model_id)
            if trained.selection is not None:
                origin = {name: facts[name] for name in ("product", "partition", "as_of")}
                if _PARENT_TAG in facts:
                    origin[_CHILD_TAG] = facts[_PARENT_TAG]
                selection_runs.log(
                    client, run.info.experiment_id, run.info.run_id, contract, trained.selection, origin
                )
            if manifest is not None:
                mlflow.log_text(manifest, MANIFEST)
            version = self._register(client, product, model, run.info.run_id, facts)
        return _registered(version)

    def selection(self, run_id: str) -> Selection | None:
        """What was chosen before the model of a run was trained; None if there was no choice."""
        return selection_runs.read(self._client(), run_id)

    def metrics_of(self, run_id: str) -> dict[str, float]:
        """The metrics that the run of a model has in MLflow; none if the run is gone."""
        from mlflow.exceptions import MlflowException

        try:
            return dict(self._client().get_run(run_id).data.metrics)
        except MlflowException as error:
            if error.error_code not in _GONE:
                raise
            return {}

    def require(self, product: Product, version: str, fingerprint: str) -> Any:
        """A version, as MLflow describes it, which must be of the model with this training fingerprint.

        Numbers are labels that a registry gives: one that was made anew counts from 1 again, and people can
        delete versions and change their tags. It takes one request.

        Raises:
            RegistryError: there is no such version, it is of another model, or it wasn't registered by
                :meth:`log`.
        """
        from mlflow.exceptions import MlflowException

        name = self.name(product)
        help_ = (
            f"ml-platform doctor {product.name} --repair finds the right version, or trains the model again"
        )
        try:
            found = self._client().get_model_version(name, version)
        except MlflowException as error:
            if error.error_code not in _GONE:
                raise
            raise RegistryError(
                f"the registry has no version {version} of {name}, which was to be the model with the "
                f"training fingerprint {fingerprint}: {help_}"
            ) from error
        if not {FINGERPRINT, THRESHOLD} <= found.tags.keys():
            raise RegistryError(
                f"version {version} of {name} wasn't registered by this platform: it has no tags "
                f"{FINGERPRINT} and {THRESHOLD}, and was to be the model with the training fingerprint "
                f"{fingerprint}: {help_}"
            )
        if found.tags[FINGERPRINT] != fingerprint:
            raise RegistryError(
                f"version {version} of {name} is another model: expected is the one with the training "
                f"fingerprint {fingerprint}, and the registry has {found.tags[FINGERPRINT]} there: {help_}"
            )
        return found

    def load(self, product: Product, version: str, fingerprint: str) -> LoadedModel:
        """The pipeline and threshold of a version that must be this model; kept in memory once loaded.

        Raises:
            UnloadableError: its file holds more than scikit-learn's and numpy's own types, or classes that
                are gone, or it was made with another major version of a library.
            MissingLibraryError: a library that it was made with isn't installed.
            RegistryError: the version isn't there or isn't this model, as :meth:`require` finds.
        """
        if here := self._load_here(product, version, fingerprint):
            return here
        found = self.require(product, version, fingerprint)
        self._check_libraries(product, version, found.tags)
        client, name = self._client(), self.name(product)
        # Only by its name does Unity Catalog give out the credentials of a version's storage.
        place = (
            f"models:/{name}/{version}"
            if self._schema
            else client.get_model_version_download_uri(name, version)
        )
        return LoadedModel(
            pipeline=_read_pipeline(
                self._tracking_uri, self._registry_uri, f"{place}/{MODEL_FILE}", fingerprint
            ),
            threshold=_threshold_in(found.tags),
            fingerprint=fingerprint,
        )

    def _check_libraries(self, product: Product, version: str, tags: Mapping[str, str]) -> None:
        """See that a version was made with libraries like those that are installed; older ones don't say.

        Raises:
            MissingLibraryError: one isn't installed.
            UnloadableError: one is installed in another major version.
        """
        made_with = tags.get(LIBRARIES, "").split()
        if why := missing(made_with):
            raise MissingLibraryError(f"version {version} of {self.name(product)} can't be loaded: {why}")
        if why := incompatible(made_with):
            raise UnloadableError(f"version {version} of {self.name(product)} can't be loaded: {why}")

    def set_champion(self, product: Product, version: str | None) -> None:
        """Point the alias ``champion`` at a version, or take it away."""
        from mlflow.exceptions import MlflowException

        client, name = self._client(), self.name(product)
        if version is not None:
            client.set_registered_model_alias(name, CHAMPION, version)
            return
        try:
            client.delete_registered_model_alias(name, CHAMPION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def describe(self, product: Product, descriptions: Mapping[str, str]) -> None:
        """Say of versions, on MLflow's pages, what was decided about them.

        A description that a person has written stays. Nothing depends on it, so that a registry that refuses
        is a warning.

        Args:
            descriptions: by version; a version that isn't there is passed over.
        """
        from mlflow.exceptions import MlflowException

        client, name = self._client(), self.name(product)
        try:
            for version in client.search_model_versions(f"name = '{name}'"):
                text = descriptions.get(str(version.version))
                if text is None:
                    continue
                if self._schema:  # Unity Catalog's search leaves tags out
                    version = client.get_model_version(name, version.version)
                there, written = version.description or "", version.tags.get(_DESCRIBED, "")
                if there not in (text, written):
                    continue  # a person's
                if there != text:
                    client.update_model_version(name, version.version, text)
                if written != text:
                    client.set_model_version_tag(name, version.version, _DESCRIBED, text)
        except MlflowException:
            _log.warning("the versions of %s could not be described", name, exc_info=True)

    def run_url(self, ui_url: str | None, run_id: str) -> str:
        """Where MLflow's UI shows a run.

        Args:
            ui_url: where the UI is; by default the workspace's, or the one that ``ml-platform ui`` opens.
        """
        place = f"experiments/{self._client().get_run(run_id).info.experiment_id}/runs/{run_id}"
        if ui_url is None and self._tracking_uri.startswith("databricks"):
            from mlflow.utils.databricks_utils import get_databricks_host_creds

            return f"{get_databricks_host_creds(self._tracking_uri).host.rstrip('/')}/ml/{place}"
        return f"{(ui_url or LOCAL_MLFLOW).rstrip('/')}/#/{place}?{MLFLOW_OF_MODELS}"

    def _client(self) -> Any:
        if self._credentials:
            os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = self._credentials
        return prepared_client(self._tracking_uri, self._registry_uri)

    def _experiment(self, client: Any, name: str) -> str:
        """The id of a product's experiment, which is created if need be."""
        from mlflow.exceptions import MlflowException

        called = self.experiment_name(name)
        kind, models = _KIND
        found = client.get_experiment_by_name(called)
        if found is None:
            database = sqlite_file(self._tracking_uri)
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

    def _register(
        self, client: Any, product: Product, model: Any, run_id: str, tags: Mapping[str, str]
    ) -> Any:
        # mlflow.register_model does the same, but prints two lines for every model.
        from mlflow.exceptions import MlflowException
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

        try:
            client.create_registered_model(self.name(product), description=product.description)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
                raise
        version = client.create_model_version(
            self.name(product), model.model_uri, run_id=run_id, tags=dict(tags), model_id=model.model_id
        )
        link = json.dumps([{"name": version.name, "version": version.version}])
        client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: link})
        return version


def _log_plots(
    kind: Kind, trained: TrainedModel, unseen: tuple[pd.DataFrame, Floats, Predictions] | None
) -> None:
    """Log what can be drawn of a model to the present run; nothing depends on it.

    Args:
        unseen: held-out rows, their labels, and what the model predicts for them.
    """
    mlflow, product = mlflow_module(), kind.product
    try:
        plots = model_plots.of_weights(trained.pipeline, product.sensitive)
        if unseen is not None:
            holdout, label, predictions = unseen
            plots |= kind.plots(label, predictions, trained.threshold)
            if "coefficients" not in plots:
                features = feature_frame(product, holdout)
                plots |= model_plots.of_shuffling(trained.pipeline, features, kind.as_learned(label))
        for name, figure in plots.items():
            mlflow.log_figure(figure, f"plots/{name}.png")
    except (ValueError, ArithmeticError, TypeError, KeyError, IndexError):
        _log.warning("a model of %s could not be drawn", product.name, exc_info=True)


def _registered(version: Any) -> RegisteredModel:
    return RegisteredModel(
        version=str(version.version),
        run_id=version.run_id,
        model_uri=f"models:/{version.name}/{version.version}",
        fingerprint=version.tags[FINGERPRINT],
        threshold=_threshold_in(version.tags),
        remark=version.tags.get(REMARK, ""),
    )


def _threshold_in(tags: Mapping[str, str]) -> float | None:
    said = tags[THRESHOLD]
    return None if said == _NO_THRESHOLD else float(said)


def _run_tag(client: Any, version: Any, name: str) -> str | None:
    """A tag of the run that made a version; None if the run or the tag is gone."""
    from mlflow.exceptions import MlflowException

    try:
        found: str | None = client.get_run(version.run_id).data.tags.get(name)
    except MlflowException as error:
        if error.error_code not in _GONE:
            raise
        return None
    return found


# -- the pipeline's file ---------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _read_pipeline(tracking_uri: str, registry_uri: str, file_uri: str, fingerprint: str) -> Any:
    """The pipeline in a file; ``fingerprint`` tells it from a model that had the same address before."""
    mlflow = mlflow_module()
    with TemporaryDirectory(prefix="ml-platform-") as folder:
        file = mlflow.artifacts.download_artifacts(
            artifact_uri=file_uri, dst_path=folder, tracking_uri=tracking_uri, registry_uri=registry_uri
        )
        return read_pipeline(file, file_uri)


@lru_cache(maxsize=32)
def _read_file(file: str, fingerprint: str) -> Any:
    """The pipeline in a local file; ``fingerprint`` tells it from a model that was there before."""
    return read_pipeline(file, file)
