"""The code of each family of bodies."""
