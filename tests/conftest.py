"""Shared by all tests: shape annotations are checked at run time, except where speed is measured, and nothing asks a hub."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# only where arrays pass: elsewhere the checker would answer a wrong kind before the function's own message can
arrays = (
    "alignment",
    "charts",
    "coslow",
    "efficiency",
    "gradients",
    "lm",
    "robustness",
    "score",
    "suite",
    "supervocab",
)


def pytest_configure(config: pytest.Config) -> None:
    """Install the checks before any test file is imported; benchmarks run the package as its users do."""
    if not all("bench" in Path(arg).parts for arg in config.args):
        install_import_hook([f"toksuite_nb.{name}" for name in arrays], "beartype.beartype")


# the same examples on every run, so that a red test is red for everybody; time limits would only measure the machine
settings.register_profile("project", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("project")
