"""From the file to the device: the handover folder, the program in it, NPU estimates."""
