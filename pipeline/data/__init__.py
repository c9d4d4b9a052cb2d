"""The data set: pictures and masks read, audited, split, written once and memory-mapped."""
