"""Data set: read pictures and masks, audit them, assign splits, write and memory-map the arrays."""
