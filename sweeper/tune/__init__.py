"""All of Ray: trials of a sweep scheduled by Ray Tune."""
