"""The host's side of a board: finds its serial port, sends images, takes answers.

device     requests, answers, what to do when one is lost
ports      serial ports: finding, opening, and what can go wrong with them
spi        an SPI bus of Linux in place of a serial port
images     image files as what a network was trained on
weights    weights for a design that can load them
terminal   pictures and LEDs in a terminal
watch      a folder or a camera, image by image
bench      how fast, and whether every logit is right

The command line is ``python -m flightrtl.host``; ``docs/host.md`` is the guide. The same in Python:

>>> from flightrtl.host import connect                                         # doctest: +SKIP
>>> with connect() as device:                                                  # doctest: +SKIP
...     print(device.classify(image).winner)
"""

from .device import Answer, Device, DeviceError, NoAnswer, Statistics
from .images import prepare, read
from .ports import connect

__all__ = ["Answer", "Device", "DeviceError", "NoAnswer", "Statistics", "connect", "prepare",
           "read"]
