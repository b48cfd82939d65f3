"""An object store in memory, as S3 is: a listing shows all that was written before, nothing is renamed, and it has a clock of its own."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow as pa
from pyarrow import fs


class ObjectStore(fs.FileSystemHandler):
    """Objects by path.

    Args:
        clock: The clock of the store, in seconds since the epoch; modification times are in whole seconds.
        turn: Called before each request; it may wait, or raise `OSError`.
    """

    def __init__(self, clock: Callable[[], float], turn: Callable[[], None] = lambda: None) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self._clock, self._turn = clock, turn

    def get_type_name(self) -> str:
        return "memory"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        self._turn()
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        self._turn()
        folder = f"{selector.base_dir}/"
        inside = [path.removeprefix(folder) for path in self.objects if path.startswith(folder)]
        names = inside if selector.recursive else {name.partition("/")[0] for name in inside}
        return [self._info(folder + name) for name in sorted(names)]

    def _info(self, path: str) -> fs.FileInfo:
        if path in self.objects:
            content, written_at = self.objects[path]
            return fs.FileInfo(path, fs.FileType.File, size=len(content), mtime=written_at)
        is_folder = any(other.startswith(f"{path}/") for other in self.objects)
        return fs.FileInfo(path, fs.FileType.Directory if is_folder else fs.FileType.NotFound)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        self._turn()
        if path not in self.objects:
            raise FileNotFoundError(path)
        return pa.BufferReader(self.objects[path][0])

    open_input_file = open_input_stream

    def open_output_stream(self, path: str, metadata: object) -> pa.NativeFile:
        return pa.PythonFile(_Upload(self, path), mode="w")

    def put(self, path: str, content: bytes) -> None:
        self._turn()
        self.objects[path] = (content, float(int(self._clock())))

    def delete_file(self, path: str) -> None:
        self._turn()
        if self.objects.pop(path, None) is None:
            raise FileNotFoundError(path)

    def delete_dir(self, path: str) -> None:
        for other in [other for other in self.objects if other.startswith(f"{path}/")]:
            del self.objects[other]

    def create_dir(self, path: str, recursive: bool) -> None:
        pass

    def _refuse(self, *_: object) -> None:
        raise NotImplementedError("object stores do not do this")

    delete_dir_contents = delete_root_dir_contents = move = copy_file = open_append_stream = _refuse


class _Upload(io.BytesIO):
    """What is written appears when it is closed."""

    def __init__(self, store: ObjectStore, path: str) -> None:
        super().__init__()
        self._store, self._path = store, path

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._store.put(self._path, content)
