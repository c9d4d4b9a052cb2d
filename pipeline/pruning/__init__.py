"""Magnitude pruning (zeros) and channel pruning with its dependency graph."""
