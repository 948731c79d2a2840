"""Every environment variable the platform reads, once.

Paths that are not given lie under ``home``. Nothing here opens, creates or connects to anything.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ml_platform.contract import estimators
from ml_platform.contract.compute import Compute, EngineName
from ml_platform.contract.places import place_of_deliveries
from ml_platform.contract.secrets import Secret, SecretAddress, holds_credentials
from ml_platform.contract.volumes import NO_TABLES, is_in_volume

PACKAGE = Path(__file__).parent

#: Where `ml-platform ui` has Dagster, the reports and MLflow, unless it is given other ports.
LOCAL_DAGSTER = "http://127.0.0.1:3000"
LOCAL_REPORTS = "http://127.0.0.1:3001"
LOCAL_MLFLOW = "http://127.0.0.1:5000"
#: What says to MLflow's pages that they are to be of models, and not of language models' traces.
MLFLOW_OF_MODELS = "workflowType=machine_learning"


#: Names of Spark's settings that hold a secret, beyond those that Spark itself redacts.
SECRET_NAMES = re.compile(r"(?i)secret|passw|token|credential|access[.]?key|account[.]?key|[.]key\b|[.]sas\b")


def _default_home() -> Path:
    """``var`` in the checkout that holds this package, or in the working directory when installed."""
    checkout = PACKAGE.parent
    return (checkout if (checkout / "workspace.yaml").exists() else Path.cwd()) / "var"


class AlertChannel(BaseModel):
    """Where alerts go, an address of ``apprise``, and which: without a filter, all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    url: Secret
    products: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    severity: Literal["error", "warning"] = "warning"


class Settings(BaseSettings):
    """Settings of one deployment, from the environment (prefix ``ML_PLATFORM_``)."""

    model_config = SettingsConfigDict(
        env_prefix="ML_PLATFORM_", frozen=True, populate_by_name=True, hide_input_in_errors=True
    )

    home: Path = Field(default_factory=_default_home)
    products: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="folders with contracts besides the package's own, separated like PATH"
    )
    estimator_modules: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="modules besides scikit-learn whose estimators contracts may name, separated by spaces",
    )
    own_products: bool = Field(default=True, description="whether the package's sample products are loaded")
    landing: str | Path | None = Field(
        default=None,
        description="where deliveries lie: a folder, abfss://container@account…, s3://bucket/…, gs://bucket/…",
    )
    tables: str | None = Field(
        default=None,
        description="root of the Delta tables: a folder, abfss://container@account…, or uc:catalog.schema",
    )
    control_tables: str | None = Field(
        default=None,
        description="root of the small tables that steer the platform; with uc: a path is needed",
    )
    storage_options: dict[str, Secret] = Field(
        default={},
        description="options of deltalake beyond the AZURE_* environment, as JSON; or named secrets",
    )
    mlflow_tracking_uri: SecretAddress | None = None
    mlflow_registry_uri: SecretAddress | None = Field(
        default=None, description="where models are registered, if not in the tracking store: databricks-uc"
    )
    mlflow_experiments: str | None = Field(
        default=None, description="folder of the experiments, which Databricks asks for: /Shared/ml_platform"
    )
    model_schema: str | None = Field(
        default=None,
        description="catalog.schema of registered models in Unity Catalog; that of uc: tables without",
    )
    mlflow_ui_url: str | None = Field(
        default=None,
        description="where MLflow's UI is; the workspace's, or port 5000 of this machine, without",
    )
    online_store_url: SecretAddress | None = Field(
        default=None, description="an address of SQLAlchemy, or keyvault://<vault>/<secret>"
    )
    online_token: Secret | None = Field(
        default=None, description="what callers of `ml-platform online serve` must send as a bearer token"
    )
    dagster_ui_url: str = LOCAL_DAGSTER
    alert_urls: Secret | None = Field(
        default=None, description="where alerts go: addresses of apprise, separated by spaces"
    )
    alert_channels: tuple[AlertChannel, ...] = Field(
        default=(), description="channels with a name and filters, as JSON"
    )
    report_targets: Annotated[tuple[SecretAddress, ...], NoDecode] = Field(
        default=(), description="where reports go, separated by spaces; a folder of the home without any"
    )
    reports_url: str | None = Field(
        default=None,
        description="where people read the reports of the first target, if not at its own address",
    )
    blob_account_url: str | None = Field(
        default=None, description="the storage account of azblob:// targets, https://….blob.core.windows.net"
    )
    blob_credential: Secret | None = Field(
        default=None, description="an account key or a SAS token; without it, Azure's default credential"
    )
    spark_master: str = Field(
        default="local[*]", validation_alias=AliasChoices("ML_PLATFORM_SPARK_MASTER", "SPARK_MASTER")
    )
    spark_driver_memory: str = "3g"
    spark_conf: dict[str, Secret] = Field(default={}, description="further Spark settings, as JSON")
    validation_rows_in_memory: int = Field(
        default=500_000, ge=1, description="rows of a day that are validated in memory; more, by Spark"
    )
    table_retention_days: int = Field(
        default=30,
        ge=7,
        description="how long maintenance keeps files of past versions, and superseded records of ledgers",
    )
    chunk_days: int = Field(default=128, ge=1, description="days a step commits at once")
    lock_timeout_seconds: float = Field(
        default=1800,
        gt=0,
        le=7 * 86_400,
        description="how long a process waits for a table that another one has locked",
    )
    delivery_links: Literal["inside", "anywhere"] = Field(
        default="inside", description="where links among the deliveries may lead: inside the landing folder"
    )
    delivery_line_characters: int = Field(
        default=8 << 20, ge=1, description="characters of a line; a file with a longer one is refused"
    )
    delivery_file_bytes: int = Field(
        default=64 << 30, ge=1, description="bytes of a file, unpacked; a larger one is refused"
    )
    delivery_unpacking: int = Field(
        default=250,
        ge=1,
        description="times its own size that a file of more than 64 MB may unpack to; beyond, it is refused",
    )

    watch_arrivals: bool = Field(
        default=True,
        description="whether the landing sensor and backfills keep when files were first seen",
    )

    engine: EngineName = Field(default="local", description="where steps run; a contract may choose")
    databricks_volume: str | None = Field(
        default=None,
        pattern=r"^/Volumes/[^/]+/[^/]+/[^/]+",
        description="folder of a volume for the wheel and the messages, /Volumes/catalog/schema/volume",
    )
    databricks_compute: Compute = Field(
        default=Compute(), description="what remote steps run on, as JSON; serverless compute without it"
    )
    databricks_secrets: dict[str, str] = Field(
        default={},
        description="secrets that remote steps look up: environment variable to scope/key, as JSON",
    )
    databricks_timeout_seconds: int = Field(
        default=6 * 3600, ge=1, description="after which the workspace ends a step"
    )
    databricks_retry_seconds: int = Field(
        default=300, ge=1, description="how long a failing request to the workspace is tried again"
    )
    databricks_poll_seconds: float = Field(
        default=5, gt=0, description="between two looks at a remote step and its messages"
    )

    @field_validator("databricks_volume")
    @classmethod
    def _without_slash(cls, path: str | None) -> str | None:
        return None if path is None else path.rstrip("/")

    @field_validator("databricks_secrets")
    @classmethod
    def _scope_and_key(cls, references: dict[str, str]) -> dict[str, str]:
        for name, reference in references.items():
            scope, _, key = reference.partition("/")
            if not name.isidentifier() or not scope or not key or "/" in key:
                raise ValueError(
                    f"{name!r}: {reference!r} names no secret; accepted is an environment variable's name "
                    "with scope/key, never a secret itself"
                )
        return references

    @field_validator(
        "tables", "control_tables", "blob_account_url", "reports_url", "dagster_ui_url", "mlflow_ui_url"
    )
    @classmethod
    def _without_credentials(cls, address: str | None) -> str | None:
        if address is not None and holds_credentials(address):
            raise ValueError(
                "a password or a signature can't stand here, where it would be shown; keep it in "
                "ML_PLATFORM_STORAGE_OPTIONS, ML_PLATFORM_BLOB_CREDENTIAL or the environment's own variables"
            )
        return address

    @field_validator("tables", "control_tables")
    @classmethod
    def _outside_volumes(cls, root: str | None) -> str | None:
        if root is not None and is_in_volume(root):
            raise ValueError(f"no tables can be kept at {root}: {NO_TABLES}")
        return root

    @field_validator("home")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @field_validator("landing")
    @classmethod
    def _folder_or_address(cls, given: str | Path | None) -> str | Path | None:
        if given is None:
            return None
        place = place_of_deliveries(given)
        return place.expanduser().absolute() if isinstance(place, Path) else place

    @field_validator("products", mode="before")
    @classmethod
    def _path_list(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value

    def model_post_init(self, context: Any, /) -> None:
        estimators.allow(self.estimator_modules)

    @field_validator("estimator_modules")
    @classmethod
    def _modules(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is not the name of a module, like our_package.classifiers")
        return names

    @field_validator("report_targets", "estimator_modules", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        return tuple(value.split()) if isinstance(value, str) else value

    @property
    def product_folders(self) -> list[Path]:
        return [*([PACKAGE / "products"] if self.own_products else []), *self.products]

    @property
    def landing_path(self) -> Path:
        """The folder of the deliveries, if they lie in one."""
        assert not isinstance(self.landing, str), "deliveries in an object store have no folder"
        return self.landing or self.home / "landing"

    @property
    def tables_root(self) -> str:
        return self.tables or str(self.home / "tables")

    @property
    def table_options(self) -> dict[str, str]:
        """The options of ``deltalake``; named secrets are looked up now.

        Raises:
            SecretError: a vault doesn't give its secret.
        """
        return {name: value.value for name, value in self.storage_options.items()}

    @property
    def spark_options(self) -> dict[str, str]:
        """Further settings of Spark; named secrets are looked up now.

        Raises:
            SecretError: a vault doesn't give its secret.
        """
        return {name: value.value for name, value in self.spark_conf.items()}

    @property
    def tracking_uri(self) -> str:
        """Where MLflow tracks; an address of HTTP without its credentials (:attr:`mlflow_credentials`)."""
        given = self.mlflow_tracking_uri
        return given.without_credentials if given else f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def tracking_uri_shown(self) -> str:
        """What of the tracking address people may see."""
        return self.mlflow_tracking_uri.shown if self.mlflow_tracking_uri else self.tracking_uri

    @property
    def mlflow_credentials(self) -> tuple[str, str] | None:
        """User and password of an address of HTTP, which MLflow takes apart from the address.

        In the address they would be in MLflow's errors, and so in Dagster's database.
        """
        addresses = (self.mlflow_tracking_uri, self.mlflow_registry_uri)
        return next((found for given in addresses if given and (found := given.credentials)), None)

    @property
    def registry_uri(self) -> str:
        """Where models are registered: in Unity Catalog, if Databricks tracks them and has a schema."""
        if self.mlflow_registry_uri:
            return self.mlflow_registry_uri.without_credentials
        return "databricks-uc" if self.tracking_uri == "databricks" and self._schema else self.tracking_uri

    @property
    def registry_schema(self) -> str | None:
        """The ``catalog.schema`` that models are registered in; None outside Unity Catalog."""
        if not self.registry_uri.startswith("databricks-uc"):
            return None
        if self._schema is None:
            raise ValueError(
                "models in Unity Catalog need a schema: set ML_PLATFORM_MODEL_SCHEMA to catalog.schema"
            )
        return self._schema

    @property
    def _schema(self) -> str | None:
        if self.model_schema:
            return self.model_schema
        kind, _, schema = (self.tables or "").partition(":")
        return schema if kind == "uc" else None

    @property
    def experiments_folder(self) -> str | None:
        """The folder of the experiments; Databricks knows no other names than paths."""
        if self.mlflow_experiments is None and self.tracking_uri == "databricks":
            return "/Shared/ml_platform"
        return self.mlflow_experiments

    @property
    def online_url(self) -> str:
        """The address of the online store, with its credentials; a named secret is looked up now.

        Raises:
            SecretError: the vault doesn't give the secret.
        """
        if self.online_store_url is None:
            return f"sqlite:///{self.home / 'online' / 'features.db'}"
        return self.online_store_url.value

    @property
    def secrets(self) -> frozenset[str]:
        """Every text in these settings that nobody may see."""
        held = [
            *(value for value in vars(self).values() if isinstance(value, Secret)),
            *self.storage_options.values(),
            *self.spark_conf.values(),
            *self.report_targets,
            *(channel.url for channel in self.alert_channels),
        ]
        # Most of Spark's settings are no secret, and a report must be able to say "true".
        known = {name for name, value in self.spark_conf.items() if not SECRET_NAMES.search(name)}
        plain = {id(self.spark_conf[name]) for name in known}
        return frozenset(text for value in held if id(value) not in plain for text in value.secrets())

    @property
    def reports_path(self) -> Path:
        return self.home / "reports"

    @property
    def ivy_cache(self) -> Path:
        return self.home / "ivy"
