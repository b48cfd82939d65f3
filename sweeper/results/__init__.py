"""Results: columns (`records`), rows to Parquet and back (`store`), SQL over them (`query`), both with the stages (`workspace`)."""

from sweeper.results.query import Answer, QueryError, Results
from sweeper.results.store import ResultStore
from sweeper.results.workspace import Workspace

__all__ = ["Answer", "QueryError", "ResultStore", "Results", "Workspace"]
