"""Adapters: a few new weights inside a frozen body."""
