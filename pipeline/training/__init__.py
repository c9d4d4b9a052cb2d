"""Networks, loss, optimizer, augmentation and the training loop with its checkpoints."""
