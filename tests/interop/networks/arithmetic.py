"""Plain functions of TensorFlow between the layers: +, *, concat, relu."""

from pipeline.base.lazy import keras, layers, tf


def build(size, classes):
    image = layers.Input((*size, 3))
    x = tf.nn.relu(layers.Conv2D(32, 3, padding="same")(image * 2.0 - 1.0))
    y = tf.nn.relu6(layers.Conv2D(32, 3, padding="same")(x)) + x
    z = y * tf.sigmoid(layers.Conv2D(32, 1)(tf.reduce_mean(y, [1, 2], keepdims=True)))
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(tf.concat([y, z], -1))
    return keras.Model(image, tf.nn.softmax(layers.Conv2D(classes, 1)(x)))
