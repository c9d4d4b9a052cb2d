"""A network of one convolution and its training, for the tests of the loop."""

from pipeline.base.lazy import keras, layers
from pipeline.training import checkpoints, loop
from pipeline.training.losses import segmentation_loss
from pipeline.training.optimizers import make_optimizer


def tiny(*more):
    """A network of one convolution and then the layers in `more`, with its optimizer."""
    keras.utils.set_random_seed(0)
    convolution = layers.Conv2D(3, 3, padding="same")
    model = keras.Sequential([layers.Input((32, 32, 3)), convolution, *more])
    optimizer = make_optimizer(100, 1e-2, 5)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def plain_loss(images, masks, logits):
    return segmentation_loss(masks, logits)


def fit(stage, model, optimizer, epochs=1, resume=False, **more):
    """36 training images in batches of 8: four steps an epoch."""
    vars(stage.arguments).update(batch_size=8, seed=7, resume=resume)
    how = {"epochs": epochs, "loss": plain_loss} | more
    return loop.fit(model, optimizer, stage, "tiny", **how)


def state_file(stage):
    """Where the state of this training lies."""
    return checkpoints.state_path(stage.models_dir, "tiny")
