"""Peak memory of opening a PDEBench file, compared with reading all of it.

    python benchmarks/loading.py

A file in the format of `pdebench/advection` is written to a temporary folder, compressed, since most of its content is never read. Each way
of opening it runs in its own process, whose peak resident memory is measured; the baseline is a process that only imports what both need.
The reference reads the entire array, then selects times and points (`data_loaders.py:1162`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PEAK = "import json, resource; print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, sizes]))"
IMPORTS = """
import sys
import h5py, numpy as np, orca_core.trial_stages
from orca_core.config.resolve import resolve_config
from orca_core.settings import Settings
from orca_core.tasks import find_task
from orca_core.workbench import Workbench
"""
SETTINGS = "Settings.of(resolve_config({'task': 'pdebench/advection', 'train_samples': 64, 'align.epochs': 0}), 'finetune')"
WAYS = {
    "imports alone": "sizes = []",
    "opened here, decoded anew": f"data = orca_core.trial_stages.load_data({SETTINGS}); sizes = [len(data.train), len(data.test)]",
    "opened here again": f"data = orca_core.trial_stages.load_data({SETTINGS}); sizes = [len(data.train), len(data.test)]",
    "read in full": "path = find_task('pdebench/advection').expects[0].find(); "
    "x = np.array(h5py.File(path)['tensor'], dtype=np.float32)[:, ::5, ::4]; sizes = [len(x)]",
}


def write(path: Path, samples: int, times: int, points: int) -> None:
    """Write a `tensor` of shape (samples, times, points); each state is one number that encodes sample and time."""
    import h5py
    import numpy as np

    with h5py.File(path, "w") as file:
        layout = {"chunks": (1, times, points), "compression": "gzip", "compression_opts": 1}
        tensor = file.create_dataset("tensor", (samples, times, points), "f4", **layout)
        for sample in range(samples):
            tensor[sample] = (sample + np.arange(times, dtype="f4") / times)[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1D_Advection_Sols_beta0.4.hdf5"
        write(path, arguments.samples, 201, 1024)
        array, used = arguments.samples * 201 * 1024 * 4 / 2**20, arguments.samples * 2 * 256 * 4 / 2**20
        print(f"array {array:.0f} MiB ({path.stat().st_size / 2**20:.0f} MiB on disk), times and points that are used {used:.0f} MiB")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        base = 0.0
        for way, code in WAYS.items():
            command = [
                sys.executable,
                "-c",
                f"{IMPORTS}\nwith Workbench(sys.argv[1], sys.argv[1] + '/cache').use(): {code}\n{PEAK}",
                folder,
            ]
            peak, sizes = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
            base = base or peak
            print(f"{way:<28} peak {peak:7.0f} MiB, {peak - base:7.0f} above imports {sizes or ''}")


if __name__ == "__main__":
    main()
