"""Plans: the trials of a search space, their order and their cost."""
