"Run by `accelerate launch` in tests/test_training.py: trains small suites in a folder, on all processes."

import json
import sys
from pathlib import Path

from accelerate import Accelerator

from toksuite_nb.suite import read_config, train_suite

folder = Path(sys.argv[1])
print(f"one of {Accelerator().num_processes} processes", flush=True)
for job in json.loads((folder / "jobs.json").read_text()):
    train_suite(
        read_config(folder / f"{job['name']}.json"),
        folder / job["name"],
        show_progress=False,
        micro_rows=job.get("micro_rows"),
        sharded=job.get("sharded", False),
    )
