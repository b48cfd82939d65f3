"""One page about a sweep: its question and verdict, and all that a reviewer may ask, made from its tables alone."""
