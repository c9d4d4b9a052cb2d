"""Open and run model files: Keras .h5, .tflite with its contract; pixel counts, IoU, timing."""
