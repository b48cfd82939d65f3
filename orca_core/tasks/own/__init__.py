"""Tasks from a user's own files: arrays, tables, images."""
