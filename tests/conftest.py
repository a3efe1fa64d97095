"""Shared by all tests: shape annotations are checked at run time, and nothing asks a hub."""

import os

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
install_import_hook([f"toksuite_nb.{name}" for name in arrays], "beartype.beartype")

# the same examples on every run, so that a red test is red for everybody; time limits would only measure the machine
settings.register_profile("project", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("project")
