"""Train U-Nets from images and labels, measure them, and pack them for UNetSegment.

The order of a model's life: :mod:`dataset` and :mod:`split`, :mod:`patches` and :mod:`augment`, :mod:`network` and
:mod:`fit`, :mod:`evaluate`, :mod:`pack`.
"""

__version__ = "0.1.0"
