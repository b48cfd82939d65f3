"""Portable bits from the command line: the process starts again with its environment, whatever was asked of it; rows say what it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orca_core.errors import ConfigError
from orca_core.numerics import PORTABLE, numerical_kind
from sweeper.analysis.machines import describe_differences
from sweeper.planning.planner import make_plan
from sweeper.results import ResultStore
from sweeper.space.reading import parse_space

KNOBS = {
    "task": "openml/187",
    "proxy": "noise",
    "body.weights": "random",
    "align.epochs": 1,
    "align.objective": "otdd-gaussian",
    "align.class_samples": 32,
    "finetune.epochs": 1,
    "finetune.warmup_epochs": 0,
    "finetune.decay_epochs": "null",
}
"""A trial of a second."""

OTHER_DISPATCH = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "AUTO",
    "OPENBLAS_CORETYPE": "Prescott",
    "NPY_DISABLE_CPU_FEATURES": PORTABLE["NPY_DISABLE_CPU_FEATURES"],
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL",
}
"""A processor with less, as far as libraries can be told so."""


def trial(results: Path, name: str, environment: Mapping[str, str] = {}, emulator: tuple[str, ...] = (), **knobs: str) -> list[Any]:
    """Rows of a trial that the command line runs, without times; it is recorded as the sweep `name`."""
    settings = [f"--set={knob}={value}" for knob, value in (KNOBS | knobs).items()]
    command = [*emulator, sys.executable, "-m", "sweeper.cli", "trial", *settings, "--format=json"]
    command += [f"--results={results}", f"--store={results / name}", f"--name={name}"]
    clean = {key: value for key, value in os.environ.items() if key not in PORTABLE}
    done = subprocess.run(command, env=clean | dict(environment), capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "memory_bytes", "stored_bytes", "key")} for row in rows]


def metrics(rows: list[Any]) -> list[Any]:
    return [row for row in rows if row["table"] == "metrics"]


def test_portable_rows_are_those_of_a_process_that_was_asked_to_dispatch_otherwise(tmp_path):
    with ThreadPoolExecutor() as pool:
        asked, portable = pool.map(
            lambda of: trial(tmp_path / of[0], *of, bits="portable"), [("asked", OTHER_DISPATCH), ("portable", PORTABLE)]
        )
    assert asked == portable
    for name in ("asked", "portable"):
        (row,) = ResultStore(tmp_path / name).live_trials(name)
        said = [row[column] for column in ("bits", "cpu_capability", "mixed_numerics", "numpy_version", "peft_version")]
        assert said == ["portable", "AVX2", False, numerical_kind().numpy_version, numerical_kind().peft_version]


@pytest.mark.slow
def test_native_rows_are_others_where_libraries_dispatch_otherwise(tmp_path):
    one, other = trial(tmp_path, "one"), trial(tmp_path, "other", OTHER_DISPATCH)
    assert metrics(one) != metrics(other)
    said = {row["sweep"]: row["cpu_capability"] for row in ResultStore(tmp_path).live_trials()}
    assert said == {"one": numerical_kind().cpu_capability, "other": "DEFAULT"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-user")
def test_portable_rows_are_those_of_an_emulated_haswell(tmp_path):
    emulator = ("qemu-x86_64", "-cpu", "Haswell")
    assert trial(tmp_path, "emulated", PORTABLE, emulator, bits="portable") == trial(tmp_path, "here", bits="portable")


def space(**keys: Any) -> dict[str, Any]:
    return {"name": "p", "base": {"task": "digits"}} | keys


def test_bits_are_a_key_of_the_sweep_and_part_of_its_trials():
    native, portable = (make_plan(parse_space(space(bits=bits))).trials[0] for bits in ("native", "portable"))
    assert native.id == make_plan(parse_space(space())).trials[0].id != portable.id
    assert portable.config.bits == "portable"
    assert parse_space(space(), overrides={"sweep:bits": "portable"}).bits == "portable"


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"base": {"task": "digits", "bits": "portable"}}, "base.bits"),
        ({"space": {"bits": {"grid": ["native", "portable"]}}}, "space.bits"),
        ({"variants": {"a": {"bits": "portable"}}}, "variants.a.bits"),
    ],
)
def test_bits_among_the_knobs_are_refused_with_the_remedy(keys, path):
    with pytest.raises(ConfigError, match=rf"{path}: must not .* at the top of the file, or --set sweep:bits=portable"):
        parse_space(space(**keys))


def test_portable_bits_on_gpus_are_refused():
    with pytest.raises(ConfigError, match="bits: must be native on GPUs"):
        parse_space(space(bits="portable", resources={"gpu": 1}))


def rows_by(*kinds: Any, **cells: Any) -> list[dict[str, Any]]:
    same = {"status": "COMPLETE", "bits": "native", "mixed_numerics": False, "cuda_version": None} | cells
    return [kind.cells() | same for kind in kinds]


def test_machines_that_differ_are_named_by_what_differs():
    here = replace(numerical_kind(), device_name="AMD EPYC 9654", cpu_capability="AVX512")
    old = replace(here, device_name="AMD EPYC 7742", cpu_capability="AVX2")
    note = describe_differences(rows_by(here, here, old))
    assert "2 by device_name AMD EPYC 9654, cpu_capability AVX512; 1 by device_name AMD EPYC 7742, cpu_capability AVX2." in note
    assert "bits: portable" in note
    assert describe_differences(rows_by(here, here)) == ""
    version_01 = dict.fromkeys(here.cells()) | {"status": "COMPLETE", "bits": "native", "mixed_numerics": None, "cuda_version": None}
    assert describe_differences([*rows_by(here), version_01]) == ""


def test_portable_trials_of_one_vendor_are_alike_and_reuse_is_counted():
    one, other, xeon = (replace(numerical_kind(), device_name=name) for name in ("AMD EPYC 9654", "AMD EPYC 7742", "Intel(R) Xeon(R)"))
    assert describe_differences(rows_by(one, other, bits="portable")) == ""
    assert "1 by device_name AMD; 1 by device_name Intel" in describe_differences(rows_by(one, xeon, bits="portable"))
    assert describe_differences(rows_by(one, mixed_numerics=True)).startswith(
        "1 trials reused stages from such a machine (mixed_numerics)."
    )
