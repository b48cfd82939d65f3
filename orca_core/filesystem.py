"""Files under a folder or URI: whole or absent, waited for while the place is out of reach, with errors that say what is wrong.

*Absent* is only what the place itself says is not there. Everything else that can keep a file from being read is an error: a stage that
is there and cannot be read must not be computed again.
"""

from __future__ import annotations

import errno
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from orca_core.errors import DiskFullError, MissingBucketError, StoreAccessError, StoreError, StoreUnavailableError
from orca_core.patience import Patience

T = TypeVar("T")

_ANSWER = re.compile(r"AWS Error (?P<code>\w+)(?: \(HTTP status (?P<status>\d+)\))? during (?P<what>\w+) operation: (?P<text>.*)", re.S)

_DENIED = frozenset(
    {
        "ACCESS_DENIED",
        "ACCOUNT_PROBLEM",
        "EXPIRED_TOKEN",
        "INCOMPLETE_SIGNATURE",
        "INVALID_ACCESS_KEY_ID",
        "INVALID_CLIENT_TOKEN_ID",
        "INVALID_SIGNATURE",
        "INVALID_TOKEN",
        "MISSING_AUTHENTICATION_TOKEN",
        "NOT_INITIALIZED",
        "REQUEST_EXPIRED",
        "REQUEST_TIME_TOO_SKEWED",
        "SIGNATURE_DOES_NOT_MATCH",
        "UNRECOGNIZED_CLIENT",
    }
)
_PASSING = frozenset({"INTERNAL_FAILURE", "NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SERVICE_UNAVAILABLE", "SLOW_DOWN", "THROTTLING"})
"""Codes of the AWS SDK."""

_CREDENTIALS_IN_TEXT = re.compile(
    r"ExpiredToken|InvalidToken|TokenRefreshRequired|RequestTimeTooSkewed|PERMISSION_DENIED|UNAUTHENTICATED|credentials"
)
_PASSING_IN_TEXT = re.compile(r"curlCode: \d+|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|INTERNAL:")
"""What S3 says beside a code that the SDK does not know, and what Google's client says."""

_PASSING_ERRNO = frozenset(
    {
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EAGAIN,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOTCONN,
    }
)
"""What a network file system raises that is out of reach."""


_FOUND_BUCKETS: set[tuple[str, str, str]] = set()
"""Buckets that this process has seen."""


def join_uri(uri: str, *parts: str) -> str:
    """A place below a folder or URI. The query of a URI, which says how the place is reached, stays at its end.

    >>> join_uri("s3://bucket/results?scheme=http", "artifacts")
    's3://bucket/results/artifacts?scheme=http'
    """
    place, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return "/".join([place.rstrip("/"), *filter(None, parts)]) + mark + query


def extend_uri(uri: str, ending: str) -> str:
    """A folder or URI with an ending on its last name, `s3://bucket/stages-unshared`; the query stays at its end."""
    place, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{place.rstrip('/')}{ending}{mark}{query}"


def shown_uri(uri: str) -> str:
    """A URI as messages show it: without its query, and without the credentials that may stand before an `@`."""
    if "://" not in uri:
        return uri
    scheme, _, rest = uri.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def open_filesystem(uri: str | Path) -> tuple[fs.FileSystem, str]:
    """File system and path of a URI (`s3://bucket/folder`) or of a local path.

    Raises:
        StoreError: If the URI names no known file system; a subclass if an object store does not answer, or knows no such bucket.
    """
    text = str(uri)
    if "://" not in text:
        return fs.LocalFileSystem(), str(Path(text).expanduser().resolve())
    scheme, _, place = text.partition("://")
    bucket = place.partition("/")[0].partition("?")[0]
    if not bucket and scheme != "file":
        raise StoreError(f"{shown_uri(text)}: must name a bucket. Give a URI like {scheme}://bucket/folder.")
    wanted = text
    if text.startswith("s3://"):  # a file of less than 10 MB is then one request instead of three
        wanted = f"{text}{'&' if '?' in text else '?'}allow_delayed_open=true"
    try:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(wanted)
    except (ValueError, OSError) as error:
        if (trouble := explain(text, error)) is not None:
            raise trouble from None
        if re.search(r"Bucket '.*' not found", str(error)):
            raise _no_bucket(text, bucket) from None
        raise StoreError(
            f"{shown_uri(text)}: cannot be opened as a store ({error}). Give a folder, or a URI like s3://bucket/folder."
        ) from None
    return found


def explain(uri: str, error: BaseException) -> StoreError | None:
    """What an error of a file system means for the store as a whole; None if it says nothing about that, as with a damaged file.

    Args:
        uri: The store.
        error: Of pyarrow, or of something that wraps its text.
    """
    text, shown = " ".join(str(error).split()), shown_uri(uri)
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"{shown}: the disk is full. Free some space.")
    if isinstance(error, FileNotFoundError):
        return None
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreAccessError(f"{shown}: cannot be used ({text}). Check who owns it and how it is mounted.")
    code, status, cause = "", 0, text
    if answer := _ANSWER.search(text):
        code, status = answer["code"], int(answer["status"] or 0)
        said = re.sub(r" ?\(Request ID.*|^No response body\.$", "", answer["text"]).rstrip(". ")
        if unknown := re.match(r"Unable to parse ExceptionName: (\w+) Message: (.*)", said):
            said = ": ".join(unknown.groups())
        if details := re.search(r"curlCode: \d+, (.*?)(?:;|$)", said):
            said = details[1]
        cause = said if code == "UNKNOWN" or code == "NETWORK_CONNECTION" else ": ".join(filter(None, (code, said)))
        cause = cause or f"HTTP status {status}"
    if code == "NO_SUCH_BUCKET":
        return _no_bucket(uri, shown.partition("://")[2].partition("/")[0])
    if code in _DENIED or status in (400, 401, 403) or ((answer or "://" in uri) and _CREDENTIALS_IN_TEXT.search(text)):
        remedy = "Check the credentials (environment, profile or the machine's role) and that they may list, read and write there."
        return StoreAccessError(f"{shown}: access is denied ({cause}). {remedy}")
    if (
        code in _PASSING
        or status >= 500
        or status in (408, 429)
        or number in _PASSING_ERRNO
        or ("://" in uri and _PASSING_IN_TEXT.search(text))
    ):
        return StoreUnavailableError(f"{shown}: is out of reach ({cause}). Check the network and the endpoint.")
    return None


def _no_bucket(uri: str, bucket: str) -> MissingBucketError:
    return MissingBucketError(
        f"{shown_uri(uri)}: must be in a bucket that exists, but there is no bucket {bucket}. Make it, or correct the URI."
    )


class Files:
    """The files under one folder or URI. Paths are relative to it, with `/` between names.

    Args:
        uri: A folder or a URI that `pyarrow.fs` knows. It need not exist, but its bucket must.
        patience: How long the place is waited for while it is out of reach; None = not at all.

    Attributes:
        uri: As given.
        fs: pyarrow's file system, for what reads files by itself; `root` is the path of the folder in it.

    Raises:
        StoreError: From every method: if the place cannot be read or written. A subclass says why: `StoreUnavailableError` only after it
            was waited for, `StoreAccessError`, `MissingBucketError`, `DiskFullError`.
    """

    def __init__(self, uri: str | Path, patience: Patience | None = None) -> None:
        self.uri, self.patience = str(uri), patience or Patience()
        self.fs, self.root = self.patience.wait_for(shown_uri(self.uri), lambda: open_filesystem(uri))

    def at_once(self) -> Files:
        """The same files, never waited for."""
        found = copy(self)
        found.patience = Patience()
        return found

    @property
    def is_local(self) -> bool:
        """Whether the files are on a file system of this machine."""
        return isinstance(self.fs, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        """The full path of a file or folder in `fs`."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""

        def read() -> bytes | None:
            try:
                with self.fs.open_input_file(self.path(name)) as file:
                    size = file.size()
                    content: bytes = file.read(size)  # without a number, pyarrow asks an object store for 256 KiB at a time
            except FileNotFoundError:
                self._check_bucket()
                return None
            if len(content) < size and not self.is_local:
                raise StoreUnavailableError(f"{shown_uri(self.uri)}: is out of reach (half of {name} came). Check the network.")
            return content

        return self.attempt(read, f"{name} cannot be read")

    def write(self, name: str, content: bytes) -> None:
        """Write a file that readers see complete or not at all: object stores guarantee this, file systems by a rename."""
        path = self.path(name)

        def write() -> None:
            if not self.is_local:
                with self.fs.open_output_stream(path, compression=None) as stream:
                    stream.write(content)
                return
            draft = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
            self.fs.create_dir(path.rpartition("/")[0], recursive=True)
            try:
                with self.fs.open_output_stream(draft) as stream:
                    stream.write(content)
                self.fs.move(draft, path)
            except OSError:
                with suppress(OSError):  # half a file on a full disk is of use to nobody
                    self.fs.delete_file(draft)
                raise

        self.attempt(write, f"{name} cannot be written")

    def infos(self, folder: str = "", recursive: bool = False) -> list[fs.FileInfo]:
        """What is in a folder; empty if the folder does not exist."""

        def find() -> list[fs.FileInfo]:
            selector = fs.FileSelector(self.path(folder), allow_not_found=True, recursive=recursive)
            found: list[fs.FileInfo] = self.fs.get_file_info(selector)
            if not found:
                self._check_bucket()
            return found

        return self.attempt(find, f"{folder or 'it'} cannot be listed")

    def info(self, name: str) -> fs.FileInfo:
        """What is known about a file; of the type NotFound if there is none."""
        return self.attempt(lambda: self.fs.get_file_info(self.path(name)), f"{name} cannot be read")

    def delete_folder(self, folder: str = "") -> None:
        """Remove a folder and what is in it, if it is there."""

        def delete() -> None:
            with suppress(FileNotFoundError):
                self.fs.delete_dir(self.path(folder))

        self.attempt(delete, f"{folder or 'it'} cannot be deleted")

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

        def delete() -> None:
            with suppress(FileNotFoundError):
                self.fs.delete_file(self.path(name))

        self.attempt(delete, f"{name} cannot be deleted")

    def rename(self, name: str, to: str) -> None:
        """Rename a file."""
        self.attempt(lambda: self.fs.move(self.path(name), self.path(to)), f"{name} cannot be renamed")

    def attempt(self, do: Callable[[], T], failure: str) -> T:
        """Do something with `fs`, again while it is out of reach, and turn its errors into those of a store.

        Args:
            do: May be called several times.
            failure: What it means if that fails: `x cannot be read`.
        """

        def once() -> T:
            with self.explaining(failure):
                return do()

        return self.patience.wait_for(shown_uri(self.uri), once)

    @contextmanager
    def explaining(self, failure: str) -> Iterator[None]:
        """Within: pyarrow's errors become those of a store."""
        try:
            yield
        except OSError as error:
            trouble = explain(self.uri, error) or StoreError(f"{shown_uri(self.uri)}: {failure} ({error})")
            raise trouble from error

    def _check_bucket(self) -> None:
        """S3 says of a missing bucket what it says of a missing file. So the first time that something is not there, ask for the bucket."""
        if self.is_local or self.fs.type_name not in ("s3", "gcs"):
            return
        bucket = self.root.partition("/")[0]
        key = (bucket, self.uri.partition("://")[2].partition("/")[0], self.uri.partition("?")[2])
        if key in _FOUND_BUCKETS:
            return
        try:
            if self.fs.get_file_info(bucket).type == fs.FileType.NotFound:
                raise _no_bucket(self.uri, bucket)
        except OSError as error:
            if not isinstance(explain(self.uri, error), StoreAccessError):  # one may be allowed the files and not the bucket
                raise
        _FOUND_BUCKETS.add(key)
