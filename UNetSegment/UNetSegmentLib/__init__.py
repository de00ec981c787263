"""UNetSegment without Slicer: run, inspect and exchange U-Nets for 3D medical images.

The rooms, from the inside out: :mod:`volume` and :mod:`labels` (arrays with geometry and meaning), :mod:`package`
(what a model is), :mod:`predict` (volumes + package -> labels), then :mod:`cli`, and for 3D Slicer :mod:`scene` and
:mod:`panel`. Importing this package imports the standard library only.
"""

__version__ = "0.1.0"
