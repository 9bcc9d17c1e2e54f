"""Everything of mxserve that speaks to people and programs; never touches an array.

Importing this package is free: neither the web stack nor the model comes with it.
"""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed

try:
    __version__ = _installed("mxserve")
except PackageNotFoundError:  # run from a source tree
    __version__ = "0.1.0"
