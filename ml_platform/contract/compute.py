"""Where steps run, in words that settings and contracts share: the engine, and the compute of a remote one.

Nothing here talks to a workspace; that is :mod:`ml_platform.engine.databricks`.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ml_platform.contract.assets import StepName

EngineName = Literal["local", "databricks"]


class Compute(BaseModel):
    """What remote steps run on: serverless compute, unless one of the two kinds of cluster is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster_id: str | None = Field(default=None, min_length=1, description="an existing cluster")
    new_cluster: dict[str, Any] | None = Field(
        default=None, description="a cluster for each step, as the Jobs API describes one"
    )
    environment_version: str = Field(default="5", description="of serverless compute")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.cluster_id is not None and self.new_cluster is not None:
            raise ValueError(
                "cluster_id and new_cluster exclude each other; give one, or none for serverless"
            )
        if self.new_cluster is not None and "spark_version" not in self.new_cluster:
            raise ValueError("new_cluster: spark_version is required, like 17.3.x-scala2.13")
        return self


class EngineChoice(BaseModel):
    """A product's own choice; what it leaves out is the settings'. It changes no data, only who computes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: EngineName | None = None
    assets: dict[StepName, EngineName] = {}
    compute: Compute | None = None

    def of(self, asset: StepName, otherwise: EngineName) -> EngineName:
        """The engine that runs the step of an asset."""
        return self.assets.get(asset) or self.default or otherwise
