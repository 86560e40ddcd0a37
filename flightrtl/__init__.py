"""flightrtl: multiplier-free neural networks on small open FPGAs, in Amaranth HDL."""

__version__ = "0.1.0"
