"""Checks made before anything starts: data, adapters, stores, disk space."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orca_core.adapters.inserted import check_adapter
from orca_core.addresses import WHOLE, Address
from orca_core.config.device_faults import check_device
from orca_core.config.knobs import TrialConfig
from orca_core.datafiles.decoding import is_decoded
from orca_core.datafiles.reading import reason
from orca_core.errors import ConfigError, DataError, Fault, StoreError
from orca_core.proxies import find_proxy
from orca_core.store import Store
from orca_core.tasks.overlap import describe_overlap
from orca_core.tasks.spec import check_train_samples
from sweeper.faults import Faults
from sweeper.results.workspace import Workspace


def check_data(configs: Iterable[TrialConfig], file: str = "", decode: bool = True) -> None:
    """Check that data can be read and that it has enough samples for `train_samples`.

    Args:
        configs: The trials.
        file: The search-space file, for error messages.
        decode: Decode published data, which is cached for the workers; otherwise only the headers of its files are checked, unless it is
            in the cache already.

    Warns of training samples that are in validation or test, too.

    Raises:
        ConfigError: With a fault for every task or proxy that cannot be used.
    """
    faults, configs = Faults(), tuple(configs)
    for name in sorted({config.proxy for config in configs if config.reads_proxy}):
        with faults.collecting("proxy"), _fitting_memory(name):
            proxy = find_proxy(name)
            proxy.check_files()
            if decode and proxy.loader and (":" in name or proxy.expects):
                proxy.load()  # only reading data shows whether it is valid; what ships with packages is known to be
    wanted = {
        (config.task, config.split_seed, config.reference_data, config.train_samples, config.held_out): config.task_spec
        for config in configs
    }
    compared: set[tuple[str, bool]] = set()
    for (task, split_seed, reference, train_samples, validation), spec in wanted.items():
        if ":" not in task and train_samples is None and validation.is_default and not spec.expects:
            continue  # data that ships with packages is known to be valid
        with faults.collecting("task"), _fitting_memory(task):
            is_first = (task, reference) not in compared
            if spec.expects and not decode:
                spec.check_files()
                if not is_first or not is_decoded(spec):
                    continue
            data = spec.load(split_seed, reference, validation)
            compared.add((task, reference))
            if is_first and (text := describe_overlap(data)):
                warnings.warn(f"{task}: {text}", RuntimeWarning, stacklevel=2)
            if train_samples is not None:
                check_train_samples(data, train_samples, task)
    faults.raise_if_any(file)


@contextmanager
def _fitting_memory(name: str) -> Iterator[None]:
    """Within: data that takes more memory than there is becomes an error that names it."""
    try:
        yield
    except (MemoryError, RecursionError) as error:
        raise DataError(f"{name}: cannot be read: {reason(error)}.") from error


def check_devices(configs: Iterable[TrialConfig], device: str, file: str = "") -> None:
    """Check that the device of the trials can do what they ask for.

    Raises:
        ConfigError: With a fault for every knob with a value that does not go with it.
    """
    faults = Faults()
    for config in {(config.finetune.compile, config.finetune.fused): config for config in configs}.values():
        with faults.collecting():
            check_device(config, device)
    faults.raise_if_any(file)


def check_adapters(configs: Iterable[TrialConfig], file: str = "") -> None:
    """Try every adapter on its body. This loads torch and peft, so `run` does it but `plan` does not.

    Raises:
        ConfigError: With a fault for every option that its body does not allow.
    """
    faults = Faults()
    for config in {(config.adapter, config.body.name): config for config in configs}.values():
        with faults.collecting():
            check_adapter(config.adapter, config.body_spec)
    faults.raise_if_any(file)


def check_embedders(configs: Iterable[TrialConfig], file: str = "") -> None:
    """Compare every file of `embedder.weights` with the embedder that it is for. This loads torch, so `run` does it but `plan` does not.

    Raises:
        ConfigError: With a fault for every tensor that is missing, of another shape or not the embedder's.
    """
    faults = Faults()
    given = [config for config in configs if config.embedder.weights is not None]
    for config in {
        (config.embedder, config.task, config.reference_data, config.body.name, config.body.double): config for config in given
    }.values():
        from orca_core.bodies.loading import random_body
        from orca_core.model.cross_modal import build_embedder
        from orca_core.settings import Settings

        with faults.collecting("embedder.weights"):
            data = config.task_spec.load(config.split_seed, config.reference_data)
            build_embedder(Settings.of(config, "finetune"), random_body(config.body_spec, seed=0), data.input_shape)
    faults.raise_if_any(file)


def check_mixing(configs: Iterable[TrialConfig], file: str = "") -> None:
    """See that the samples of every task have tokens enough for `mix.share`. This loads torch, so `run` does it but `plan` does not.

    Raises:
        ConfigError: With a fault for every task of whose samples no token would be replaced.
    """
    faults = Faults()
    given = [config for config in configs if config.mix.share and not config.body_spec.is_bodiless]
    for config in {
        (config.mix.share, config.embedder, config.task, config.reference_data, config.body.name, config.body.double): config
        for config in given
    }.values():
        import torch

        from orca_core.bodies.loading import random_body
        from orca_core.finetuning.terms.mixing import tokens_of_proxy
        from orca_core.model.cross_modal import build_embedder
        from orca_core.settings import Settings

        with faults.collecting(), torch.no_grad():
            data = config.task_spec.load(config.split_seed, config.reference_data)
            embedder = build_embedder(Settings.of(config, "finetune"), random_body(config.body_spec, seed=0), data.input_shape)
            length = embedder(torch.zeros(1, *data.input_shape)).shape[1]
            if not tokens_of_proxy(1, length, config.mix.share, 0.0, 1.0):
                tokens = f"{length} token{'s' if length > 1 else ''}"
                rule = f"must replace at least one token of a sample, of which {config.task} with {config.body.name} has {tokens}"
                raise ConfigError([Fault("mix.share", rule, config.mix.share, "Leave this task out, or set mix.share to 0 for it.")])
    faults.raise_if_any(file)


def check_stores(workspace: Workspace, share: bool = True) -> None:
    """Check that the stage store can be written, and without sharing the private stores, too.

    Raises:
        ConfigError: If not.
    """
    faults, probe = Faults(), Address("probe", "probe", WHOLE)
    for uri in [workspace.artifacts_uri] if share else [workspace.artifacts_uri, workspace.private_uri()]:
        try:
            store = Store(uri)
            store.put(probe, {}, {})
            store.drop_folder(probe.kind)
        except (StoreError, OSError) as error:
            faults.add("--store", f"must be writable ({error})")
    faults.raise_if_any()


def check_room(uris: Iterable[str], min_gib: float, file: str = "") -> None:
    """Check that the disks of local folders have enough free space; object stores are skipped.

    Raises:
        ConfigError: If not.
    """
    faults, checked = Faults(), set()
    for uri in uris:
        folder = Path(uri).expanduser().resolve()
        if "://" in uri or min_gib == 0:
            continue
        while not folder.exists():
            folder = folder.parent
        if (disk := folder.stat().st_dev) in checked:
            continue
        checked.add(disk)
        free = shutil.disk_usage(folder).free / 2**30
        if free < min_gib:
            remedy = f"Only {free:.2f} GiB are free there. Free some space (`sweeper clean`), or lower the limit."
            faults.add("budget.free_gib", f"must be free on the disk of {uri}", min_gib, remedy)
    faults.raise_if_any(file)
