"""What is measured: accuracy with intervals, latency, memory, the plan of activations."""
