"""Maintenance of results and stores: `clean`, `rm` and `doctor`."""
