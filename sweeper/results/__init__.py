"""Results: what the tables hold (`records`), rows to Parquet and back (`store`), SQL over them (`query`)."""

from sweeper.results.query import Answer, QueryError, Results
from sweeper.results.store import ResultStore

__all__ = ["Answer", "QueryError", "ResultStore", "Results"]
