"""Freezing schedules: what trains in fine-tuning, and when."""
