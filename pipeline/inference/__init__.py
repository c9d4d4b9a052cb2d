"""Model files opened and run: Keras .h5, .tflite and their contract; pixel counts and IoU."""
