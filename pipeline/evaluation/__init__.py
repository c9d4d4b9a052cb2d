"""Measurements: accuracy with bootstrap intervals, latency, memory, memory plan of a device."""
