"""Analyses of the results of a sweep, from tables to tables. They need neither Ray nor torch."""
