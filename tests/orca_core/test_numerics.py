"""What computes the bits: it is said of this process, of artifacts and of reuse, and portable bits are refused where they are not given."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from orca_core import numerics
from orca_core.errors import ConfigError
from orca_core.identity import trial_id
from orca_core.numerics import PORTABLE, check_pinned, is_mixed, is_pinned, made_by, numerical_kind, square_root
from orca_core.pipeline import run_trial
from orca_core.rows import StageRow
from orca_core.stages import stages_of

KNOBS = {"body.weights": "random", "proxy": "noise", "train_samples": 40, "align.class_samples": 8, "align.proxy_samples": 40}
ALIGNED = {**KNOBS, "align.epochs": 1}


def stage_rows(config, store) -> list[StageRow]:
    rows: list[object] = []
    run_trial(config, store, rows.append)
    return [row for row in rows if isinstance(row, StageRow)]


@pytest.fixture
def pinned(monkeypatch):
    """This process passes for one that was started with the environment of portable bits; what it computes is as before."""
    monkeypatch.setattr(numerics, "_environment_at_start", lambda: dict(PORTABLE))


def test_the_kind_of_this_process_is_said_in_full():
    kind = numerical_kind()
    assert kind.torch_version == torch.__version__
    assert kind.numpy_version == np.__version__
    assert kind.cpu_capability == torch.backends.cpu.get_cpu_capability()
    assert kind.cells().keys() | {"cuda_version"} == {column.name for column in fields(kind)}
    assert kind.blas.count("OpenBLAS") >= 1


def test_artifacts_say_what_made_them_and_reuse_by_the_same_kind_is_not_mixed(quick, store):
    config = quick("openml/187", ALIGNED)
    first, again = stage_rows(config, store), stage_rows(config, store)
    for stage in stages_of(config):
        assert store.get(stage.address).data["made_by"] == [numerical_kind().cells()]
    assert [row.mixed_numerics for row in first + again] == [False] * 6


def relabel(store, config, made: dict[str, object]) -> None:
    """Let artifacts of a trial say that something else made them."""
    for stage in stages_of(config):
        artifact = store.get(stage.address)
        data = {name: value for name, value in artifact.data.items() if name != "made_by"}
        store.put(stage.address, artifact.tensors, data | made)


@pytest.mark.parametrize(
    ("made", "mixed"),
    [
        (made_by(replace(numerical_kind(), cpu_capability="DEFAULT")), True),
        (made_by(replace(numerical_kind(), peft_version="0")), True),
        ({}, None),
    ],
    ids=["another instruction set", "another version", "version 0.1"],
)
def test_reuse_of_what_another_kind_made_is_said_also_after_going_on_from_it(quick, store, made, mixed):
    short, longer = (quick("openml/187", {**KNOBS, "freezing": "surgical:1", "finetune.epochs": epochs}) for epochs in (1, 2))
    stage_rows(short, store)
    relabel(store, short, made)
    assert [row.mixed_numerics for row in stage_rows(short, store)] == [mixed]
    assert [row.mixed_numerics for row in stage_rows(longer, store)] == [mixed]
    assert is_mixed(numerical_kind(), store.get(stages_of(longer)[-1].address).data) is mixed


def test_models_of_one_vendor_count_as_one_kind_in_a_pinned_process_alone(monkeypatch):
    rome, milan, xeon = (
        replace(numerical_kind(), device_name=name) for name in ("AMD EPYC 7742", "AMD EPYC 7763", "Intel(R) Xeon(R) 8375C")
    )
    assert not rome.computes_like(milan)
    monkeypatch.setattr(numerics, "_environment_at_start", lambda: dict(PORTABLE))
    assert rome.computes_like(milan)
    assert not rome.computes_like(xeon)
    assert not rome.computes_like(replace(milan, torch_version="0"))
    gpu = replace(rome, device_name="NVIDIA H100", cuda_version="13.0")
    assert not gpu.computes_like(replace(gpu, device_name="NVIDIA A100"))


def test_portable_bits_are_refused_in_a_process_that_is_not_pinned(quick, store):
    with pytest.raises(ConfigError, match=r"bits: must be native in a process .*'portable'.*ATEN_CPU_CAPABILITY=avx2"):
        run_trial(quick("digits", {"bits": "portable"}), store, print)
    assert store.entries() == []


def test_variables_that_are_set_too_late_do_not_pin(monkeypatch):
    for name, value in PORTABLE.items():
        monkeypatch.setenv(name, value)
    assert not is_pinned()


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "AVX2", reason="this processor has AVX2 at most")
def test_a_library_that_does_not_heed_the_environment_is_named(pinned):
    numerics._dispatched_otherwise.cache_clear()
    with pytest.raises(ConfigError, match=f"torch uses {torch.backends.cpu.get_cpu_capability()}"):
        check_pinned()


def test_portable_bits_are_refused_on_a_gpu_and_with_a_compiler(quick):
    with pytest.raises(ConfigError, match="must be native on a GPU"):
        check_pinned("cuda")
    with pytest.raises(ConfigError, match=r"finetune\.compile: must be none with bits: portable"):
        quick("digits", {"bits": "portable", "finetune.compile": "default"})


def test_portable_bits_are_in_id_and_keys_and_native_ones_in_neither(quick):
    native, portable = (quick("digits", {"bits": bits}) for bits in ("native", "portable"))
    assert trial_id(native) == trial_id(quick("digits")) != trial_id(portable)
    assert [stage.key for stage in stages_of(native)] == [stage.key for stage in stages_of(quick("digits"))]
    assert not {stage.key for stage in stages_of(native)} & {stage.key for stage in stages_of(portable)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_square_roots_are_rounded_correctly_in_a_pinned_process(pinned, dtype):
    x = torch.arange(1, 4000, dtype=dtype) / 7
    expected = torch.tensor([math.sqrt(value) for value in x.tolist()], dtype=torch.float64).to(dtype)  # once or, exactly enough, twice
    assert torch.equal(square_root(x), expected)
