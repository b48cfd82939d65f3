"""A project's data on disk or in the cloud: the result tables, and the stage store with the artifacts of trials."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from orca_core.filesystem import Files, extend_uri, join_uri
from orca_core.patience import Patience
from orca_core.store import Store
from sweeper.results.query import Answer, Results
from sweeper.results.store import ResultStore


class Workspace:
    """Result tables and stage store: opened once, then passed on.

    Args:
        results: Folder or URI of the results. It need not exist.
        store: Folder or URI of the stage store; None = the folder `artifacts` in the results.

    Attributes:
        uri: Folder or URI of the results, as given.
        results: The result tables, and the notes about sweeps.
        artifacts_uri: Folder or URI of the stage store; a local path is absolute, since workers may start in another folder.
        patience: How long results and stages are waited for while they are out of reach: not at all, until a run says otherwise.

    Raises:
        StoreError: If the URI of the results names an unknown file system; from every method if they cannot be read or written.

    Example:
        >>> Workspace("results", store="s3://bucket/stages").artifacts_uri
        's3://bucket/stages'
    """

    def __init__(self, results: str | Path = "results", store: str | Path | None = None) -> None:
        self.uri = str(results)
        self.patience = Patience()
        self.results = ResultStore(results, self.patience)
        self.artifacts_uri = _absolute(join_uri(self.uri, "artifacts") if store is None else str(store))

    @classmethod
    def of(cls, workspace: Workspace | str | Path) -> Workspace:
        """The workspace itself, or one for the folder or URI of results."""
        return workspace if isinstance(workspace, Workspace) else cls(workspace)

    @cached_property
    def artifacts(self) -> Store:
        """The stage store."""
        return Store(self.artifacts_uri, self.patience)

    def sql(self, query: str) -> Answer:
        """Answer one SELECT over the result tables; see `Results.sql`."""
        return Results(self.results).sql(query)

    def private_uri(self, sweep: str = "", trial: str = "") -> str:
        """URI of the private stores of `--no-share`, next to the stage store: of all sweeps, of one sweep, or of one trial."""
        return join_uri(extend_uri(self.artifacts_uri, "-unshared"), sweep, trial)

    def drop_private(self, sweep: str, trial: str = "") -> None:
        """Remove the private store of a trial, or of all trials of a sweep, if it exists."""
        Files(self.private_uri(sweep, trial), self.patience).delete_folder()


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())
