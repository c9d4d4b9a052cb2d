"""From file to device: the handover folder, the program in it, NPU estimates."""
