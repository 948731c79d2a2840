"""The code location of production, made anew from the environment whenever it is loaded."""

from ml_platform.build import build_definitions
from ml_platform.settings import Settings

defs = build_definitions(Settings())
