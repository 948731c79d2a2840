"""The code location: the graphs of all products."""

from ml_platform.build import build_definitions
from ml_platform.settings import Settings

defs = build_definitions(Settings())
