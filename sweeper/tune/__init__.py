"""Runs the trials of a sweep with Ray Tune. Everything that depends on Ray is in this package."""
