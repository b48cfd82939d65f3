"""Results: columns (`records`), Parquet files (`store`), SQL (`query`), and result tables with the stage store (`workspace`)."""

from sweeper.results.query import Answer, QueryError, Results
from sweeper.results.store import ResultStore
from sweeper.results.workspace import Workspace

__all__ = ["Answer", "QueryError", "ResultStore", "Results", "Workspace"]
