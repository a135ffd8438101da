"""Calibration: what the values of a model look like on samples, in one streamed pass and flat memory.

``calibrate`` learns the range of each value, ``second_moments`` what the channels of a value have to do with each
other. Read ``calibrate.py`` first: it is the road.
"""

from onnxopt.calibrate.calibrate import calibrate
from onnxopt.calibrate.estimators import METHODS
from onnxopt.calibrate.moments import Moment, Moments, second_moments
from onnxopt.calibrate.ranges import Ranges

__all__ = ["METHODS", "Moment", "Moments", "Ranges", "calibrate", "second_moments"]
