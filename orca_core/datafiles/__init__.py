"""Data files: what is expected of them, how they are read safely, digests, splits."""
