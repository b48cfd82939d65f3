"""A sweep under way, without Ray: what is missing, what runs, what is recorded."""
