"""The code of each family of bodies; `orca_core.bodies.family` names it."""
