"""Data formats, one per module; each returns a `Collection`, and `registry` picks the module."""
