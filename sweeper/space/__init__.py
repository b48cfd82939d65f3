"""Search spaces: a YAML file in, a validated `SearchSpace` out."""
