"""The user's own data on the way to the nodes of a cluster.

`csv:mine.csv` names a file of the machine on which a sweep is started. What is small travels: it is packed into the store, which every node
sees, under the digest of its content, and each worker unpacks it once into its cache root. What is larger must be on every node
already. Either way the content is what counts: a worker whose data is other than that of the plan runs nothing.

    <store>-own-data/<digest>.zip           <cache root>/own-data/<digest>/<name of the file or folder>
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from orca_core.config.knobs import TrialConfig
from orca_core.datafiles.file_lists import find_below
from orca_core.datafiles.spec import DataSpec
from orca_core.errors import OrcaError, StoreError
from orca_core.filesystem import Files, extend_uri, shown_uri
from orca_core.patience import Patience
from orca_core.proxies import find_proxy
from orca_core.tasks import find_task
from orca_core.workbench import Workbench


@dataclass(frozen=True)
class OwnData:
    """A file or folder of the user's own.

    Args:
        path: As it is written in the name of a task or proxy, or in `embedder.weights`.
        files: The files whose content is the data.
    """

    path: str
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)

    def members(self) -> dict[str, Path]:
        """Files by their path in the archive, which begins with the name of the file or folder."""
        at = Path(self.path).expanduser().absolute()
        return {f"{at.name}/{file.absolute().relative_to(at)}" if at.is_dir() else at.name: file for file in sorted(self.files)}

    def pack(self) -> tuple[str, bytes]:
        """The digest of the content, and the archive."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            contents = {}
            for name, file in self.members().items():
                content = file.read_bytes()
                contents[name] = hashlib.sha256(content).hexdigest()
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        return _digest_of(contents), packed.getvalue()


def find_own_data(configs: Iterable[TrialConfig]) -> list[OwnData]:
    """The user's own data that trials read, each once."""
    found: dict[str, OwnData] = {}
    for config in configs:
        specs: list[DataSpec] = [config.task_spec, *(find_proxy(config.proxy).sources() if config.reads_proxy else ())]
        for spec in specs:
            if spec.own_path and spec.own_path not in found:
                found[spec.own_path] = OwnData(spec.own_path, spec.files())
        weights = config.embedder.weights
        if weights is not None and weights not in found:
            found[weights] = OwnData(weights, (Path(weights).expanduser(),))
    return list(found.values())


def send_own_data(
    data: Iterable[OwnData], artifacts_uri: str, max_mib: float, patience: Patience | None = None
) -> tuple[dict[str, str], list[str]]:
    """Put what is small enough into the store.

    Args:
        data: What trials read.
        artifacts_uri: Folder or URI of the stage store.
        max_mib: Largest size of a file or folder that is sent.
        patience: How long the store is waited for while it is out of reach; None = not at all.

    Returns:
        Path as written -> digest, by which workers find the archive; and the paths that are too large, which must be on every node.

    Raises:
        StoreError: If the store cannot be written.
    """
    sent, too_large = dict[str, str](), []
    files = Files(own_data_uri(artifacts_uri), patience)
    for one in data:
        if one.size > max_mib * 2**20:
            too_large.append(one.path)
            continue
        digest, archive = one.pack()
        if files.info(_archive(digest)).type == fs.FileType.NotFound:
            files.write(_archive(digest), archive)
        sent[one.path] = digest
    return sent, too_large


def own_data_uri(artifacts_uri: str) -> str:
    """Where archives lie: next to the stage store, as they are no stages."""
    return extend_uri(artifacts_uri, "-own-data")


def _archive(digest: str) -> str:
    return f"{digest}.zip"


def fetch_own_data(sent: Mapping[str, str], artifacts_uri: str, workbench: Workbench, patience: Patience | None = None) -> None:
    """Make a workbench read the copies that were sent. Each is unpacked once on a machine.

    Args:
        sent: Path as written -> digest.
        artifacts_uri: Folder or URI of the stage store.
        workbench: Of this process.
        patience: How long the store is waited for while it is out of reach; None = not at all.

    Raises:
        StoreError: If an archive cannot be read, or is damaged.
    """
    workbench.copies = {path: _fetch(digest, artifacts_uri, workbench.cache_root / "own-data", patience) for path, digest in sent.items()}


def _fetch(digest: str, artifacts_uri: str, root: Path, patience: Patience | None) -> Path:
    folder, uri = root / digest, own_data_uri(artifacts_uri)
    if not folder.is_dir():
        archive = Files(uri, patience).read(_archive(digest))
        if archive is None:
            raise StoreError(f"{shown_uri(uri)}: the data that was sent to this node is no longer there. Run the same command again.")
        root.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{digest}.", dir=root))
        try:
            _unpack(archive, draft, digest)
            os.replace(draft, folder)
        except (OSError, OrcaError, zipfile.BadZipFile) as error:
            shutil.rmtree(draft, ignore_errors=True)
            if not folder.is_dir():  # another process of this machine may have been first
                raise StoreError(f"{shown_uri(uri)}: the data that was sent to this node cannot be read ({error}).") from None
    (only,) = folder.iterdir()
    return only


def _unpack(archive: bytes, folder: Path, digest: str) -> None:
    contents = {}
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        for name in packed.namelist():
            target = find_below(folder, name, Path(name))
            content = packed.read(name)
            contents[name] = hashlib.sha256(content).hexdigest()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    if _digest_of(contents) != digest:
        raise StoreError("its content is not what its name says")


def _digest_of(contents: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(contents.items())).encode()).hexdigest()[:32]


# --------------------------------------------------------------------------------------------------------- what must agree


def contents_of(config: TrialConfig) -> dict[str, str]:
    """Digests of the data that a trial reads, by `task NAME` and `proxy NAME`.

    Raises:
        DataError: If files are missing.
    """
    found = {f"task {config.task}": config.task_spec.digest()}
    if config.reads_proxy:
        found[f"proxy {config.proxy}"] = find_proxy(config.proxy).digest()
    return found


def other_contents(wanted: Mapping[str, str]) -> Iterator[str]:
    """What of some data is missing or other here, a phrase for each.

    Args:
        wanted: What `contents_of` found where the sweep was started.
    """
    for label, digest in wanted.items():
        kind, _, name = label.partition(" ")
        try:
            here = (find_task(name) if kind == "task" else find_proxy(name)).digest()
        except OrcaError as error:
            yield f"{label} cannot be read here: {str(error).splitlines()[0]}"
            continue
        if here != digest:
            yield f"{label} has other content here"
