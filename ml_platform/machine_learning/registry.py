"""The registry of models: the versions of each product, and the alias of the champion.

Every trained model is one MLflow run and one version of the registered model that bears the product's
name, in Unity Catalog within a schema. A version is found again by its training fingerprint; numbers and
run ids are labels that MLflow gives. Fitting and comparing models do not belong here. Importing this module
does not import MLflow.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd

from ml_platform.contract.product import Product
from ml_platform.machine_learning import selection_runs
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.loaded_models import (
    LoadedModel,
    check_libraries,
    read_here,
    read_there,
    threshold_in,
)
from ml_platform.machine_learning.mlflow_store import local_file, mlflow_module, sqlite_file
from ml_platform.machine_learning.model_card import (
    DataUsed,
    dataset_of,
    days_and_rows,
    log_figures,
    log_model,
    params_of,
    requirements,
)
from ml_platform.machine_learning.model_files import (
    FINGERPRINT,
    LIBRARIES,
    MODEL_FILE,
    NO_THRESHOLD,
    THRESHOLD,
    RegistryError,
)
from ml_platform.machine_learning.promotion import CHAMPION
from ml_platform.machine_learning.registry_database import RegistryDatabase
from ml_platform.machine_learning.tracking import CHILD_TAG, GONE, PARENT_TAG, Tracking
from ml_platform.machine_learning.training import TrainedModel
from ml_platform.settings import Settings

_log = logging.getLogger(__name__)

#: The file of a model's run that says from what it was made; its record, which is read, says the same.
MANIFEST = "manifest.json"
#: The tag with what people should know of the rows that a model has learned from.
REMARK = "remark"
#: What was last written about a version, beside its description: one that a person has changed stays.
_DESCRIBED = "described"


@dataclass(frozen=True)
class RegisteredModel:
    """A model version, and the MLflow run that made it."""

    version: str
    run_id: str
    model_uri: str
    fingerprint: str
    threshold: float | None
    remark: str = ""


class Registry:
    """The models of all products in one registry of MLflow, and the tracking store of their runs."""

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
        self.tracking = Tracking(
            tracking_uri,
            registry_uri or tracking_uri,
            experiments=experiments,
            credentials=credentials,
        )
        self._schema = schema

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

    def remove_model(self, product: Product) -> bool:
        """Delete the registered model with all its versions; False if there is none."""
        from mlflow.exceptions import MlflowException

        client, name = self.tracking.client(), self.name(product)
        try:
            client.get_registered_model(name)
            for version in client.search_model_versions(f"name = '{name}'"):
                client.delete_model_version(name, version.version)
            client.delete_registered_model(name)
        except MlflowException as error:
            if error.error_code not in GONE:
                raise
            return False
        return True

    def find(self, product: Product, fingerprint: str) -> RegisteredModel | None:
        """The newest version with this training fingerprint, which its run must have as well.

        The tags of a version can be changed in MLflow's UI by a slip; what its run was is written once.
        """
        client = self.tracking.client()
        if self._schema:
            found = self._find_in_catalog(client, product, fingerprint)
        else:
            tagged = client.search_model_versions(
                f"name = '{self.name(product)}' and tags.{FINGERPRINT} = '{fingerprint}'"
            )
            found = [
                version
                for version in tagged
                if self.tracking.tag_of(version.run_id, FINGERPRINT) == fingerprint
            ]
        return max(map(_registered, found), key=lambda model: int(model.version), default=None)

    def _find_in_catalog(self, client: Any, product: Product, fingerprint: str) -> list[Any]:
        """The versions with a fingerprint, by their runs: Unity Catalog can't search versions by tag."""
        runs = client.search_runs(
            [self.tracking.experiment(product.name)], f"tags.{FINGERPRINT} = '{fingerprint}'"
        )
        named = [
            client.get_model_version(version.name, version.version)
            for run in runs
            for version in client.search_model_versions(f"run_id = '{run.info.run_id}'")
            if version.name == self.name(product)
        ]
        return [version for version in named if version.tags.get(FINGERPRINT) == fingerprint]

    def absent(self, product: Product, versions: Mapping[str, str]) -> dict[str, str]:
        """Those of some versions that a SQLite registry lacks, or that can't be loaded, with what is wrong.

        It takes milliseconds, without MLflow; of another registry all is taken for granted.

        Args:
            versions: the training fingerprint of each version.

        Raises:
            RegistryError: the database is damaged.
        """
        database = self._database()
        return {} if database is None else database.absent(self.name(product), versions)

    def without_library(self, product: Product, versions: Iterable[str]) -> dict[str, str]:
        """Those of some versions of a SQLite registry that need a library which isn't installed, and which.

        Raises:
            RegistryError: the database is damaged.
        """
        database = self._database()
        return {} if database is None else database.without_library(self.name(product), versions)

    def _database(self) -> RegistryDatabase | None:
        """The file of the registry, if it is one."""
        file = None if self._schema else sqlite_file(self.tracking.registry_uri)
        return None if file is None else RegistryDatabase(file)

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
        client, contract = self.tracking.client(), product
        product = product.with_estimator(trained.estimator)
        remark = kind_of(product).remark(trained.pipeline)
        mlflow = mlflow_module()
        facts = {
            "product": product.name,
            "partition": f"{as_of:%Y-%m}",
            "as_of": str(as_of),
            "trained_through": str(trained.last_day),
            **({REMARK: remark} if remark else {}),
            LIBRARIES: " ".join(requirements(product)),
            FINGERPRINT: fingerprint,
            THRESHOLD: NO_THRESHOLD if trained.threshold is None else repr(trained.threshold),
            **tags,
        }
        with self.tracking.run(product.name, f"{product.name} as of {as_of}", facts, parent_run_id) as run:
            mlflow.log_params(params_of(product, trained, data))
            mlflow.log_input(
                dataset_of(product, data, fingerprint), context="training", tags=days_and_rows(data)
            )
            kind = kind_of(product)
            model = log_model(kind, trained, facts)
            log_figures(kind, trained, model.model_id, holdout)
            if trained.selection is not None:
                origin = {name: facts[name] for name in ("product", "partition", "as_of")}
                if PARENT_TAG in facts:
                    origin[CHILD_TAG] = facts[PARENT_TAG]
                selection_runs.log(
                    client, run.info.experiment_id, run.info.run_id, contract, trained.selection, origin
                )
            if manifest is not None:
                mlflow.log_text(manifest, MANIFEST)
            version = self._register(client, product, model, run.info.run_id, facts)
        return _registered(version)

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
            found = self.tracking.client().get_model_version(name, version)
        except MlflowException as error:
            if error.error_code not in GONE:
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
        check_libraries(self.name(product), version, found.tags)
        client, name = self.tracking.client(), self.name(product)
        # Only by its name does Unity Catalog give out the credentials of a version's storage.
        place = (
            f"models:/{name}/{version}"
            if self._schema
            else client.get_model_version_download_uri(name, version)
        )
        return LoadedModel(
            pipeline=read_there(
                self.tracking.uri, self.tracking.registry_uri, f"{place}/{MODEL_FILE}", fingerprint
            ),
            threshold=threshold_in(found.tags),
            fingerprint=fingerprint,
        )

    def _load_here(self, product: Product, version: str, fingerprint: str) -> LoadedModel | None:
        """A version whose file lies in a local folder, by the registry's own file; None if that can't be."""
        database = self._database()
        if database is None or not database.file.exists():
            return None
        found = (database.versions(self.name(product)) or {}).get(version)
        if found is None or found.tags.get(FINGERPRINT) != fingerprint or THRESHOLD not in found.tags:
            return None
        file = local_file(found.place)
        if file is None:
            return None
        check_libraries(self.name(product), version, found.tags)
        return LoadedModel(read_here(str(file), fingerprint), threshold_in(found.tags), fingerprint)

    def set_champion(self, product: Product, version: str | None) -> None:
        """Point the alias ``champion`` at a version, or take it away."""
        from mlflow.exceptions import MlflowException

        client, name = self.tracking.client(), self.name(product)
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

        client, name = self.tracking.client(), self.name(product)
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


def _registered(version: Any) -> RegisteredModel:
    return RegisteredModel(
        version=str(version.version),
        run_id=version.run_id,
        model_uri=f"models:/{version.name}/{version.version}",
        fingerprint=version.tags[FINGERPRINT],
        threshold=threshold_in(version.tags),
        remark=version.tags.get(REMARK, ""),
    )
