"""Photos of one's own, segmented with a finished model."""

from pipeline.prediction.segmenter import Segmenter

__all__ = ["Segmenter"]
