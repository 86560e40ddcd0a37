"""The device's end of the link that ``docs/link.md`` describes.

The host's end, and all numbers, are in :mod:`flightrtl.protocol`.
"""

from .deframer import Deframer, token_layout
from .framer import Framer
from .layout import Layout
from .link import Link
from .loader import Loader
from .responder import Responder, State

__all__ = ["Deframer", "Framer", "Layout", "Link", "Loader", "Responder", "State", "token_layout"]
