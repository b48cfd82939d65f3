"""Data files: what is expected of them, how they are read safely, decoded once, and digested."""
