"""LAVA banks beside vector indices."""
