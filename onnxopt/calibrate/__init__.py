"""Calibration: what the values of a model look like on samples, in one streamed pass and flat memory.

``calibrate`` learns the range of each value, ``channel_statistics`` those of its channels, ``second_moments`` what they
have to do with each other. Read ``calibrate.py`` first: it is the road.
"""

from onnxopt.calibrate.calibrate import calibrate
from onnxopt.calibrate.channels import Channels, channel_statistics
from onnxopt.calibrate.estimators import METHODS
from onnxopt.calibrate.moments import Moment, Moments, second_moments
from onnxopt.calibrate.ranges import Ranges
from onnxopt.calibrate.shapes import observed_shapes
from onnxopt.calibrate.store import key as content_key

__all__ = [
    "METHODS",
    "Channels",
    "Moment",
    "Moments",
    "Ranges",
    "calibrate",
    "channel_statistics",
    "content_key",
    "observed_shapes",
    "second_moments",
]
