"""Gateware: the components of a network, each of use alone in another Amaranth design.

From the inside out: a :class:`ShiftPE` sums shifted activations (a :class:`MultiplyPE` products
with fixed-point weights, an :class:`XnorPE` signs); a :class:`PEArray` is many of them with
accumulators; :class:`SlidingWindow` and :class:`WeightBuffer` feed it;
:class:`FilterScheduler` joins what it computed into filters and :class:`Requantizer` brings them
back to activations. A :class:`ConvolutionEngine` or :class:`DenseEngine` is one of each, and a
:class:`Network` is a graph of engines, pools, additions and concatenations.

A :class:`FrameEngine` reads each weight once per image, from block RAM or from outside: a
:class:`FrameBuffer` holds the whole map, the array's sums wait in a :class:`DelayLine`.
A :class:`HardwiredLayer` computes a layer another way: a :class:`PixelWindow`, a
:class:`ShiftAddGraph` of its weights and a :class:`ParallelRequantizer`, a pixel per cycle.

For other designs, a network has AXI4-Stream names in an :class:`AxiStreamNetwork`, and registers
behind a bus in a :class:`WishboneNetwork` or :class:`CsrNetwork`.
"""

from .argmax import Argmax
from .array import PEArray
from .axistream import AxiStreamNetwork, AxiStreamSignature
from .buffer import StreamBuffer
from .concat import ChannelConcat
from .csr import CsrNarrow, CsrSignature
from .delayline import DelayLine
from .engine import ConvolutionEngine, DenseEngine, LayerEngine
from .flash import Flash, FlashReader, FlashSignature
from .folding import FoldedLayer, Folding
from .fork import StreamFork
from .framebuffer import FrameBuffer
from .framedrain import FrameDrain
from .frameengine import FrameEngine
from .framing import Framed, FramedLayer
from .hardwired import Hardwired, HardwiredConvolution, HardwiredDense, HardwiredLayer
from .imagequeue import ImageQueue
from .loadablestream import LoadableStream, WriteSignature
from .multiply import MultiplyPE
from .network import Network, require_supported, unsupported
from .parallelrequantize import ParallelRequantizer
from .parameters import ParameterStream
from .pe import ShiftPE, activation_shape
from .peripheral import CsrNetwork, WishboneNetwork
from .pixelwindow import PixelWindow
from .pool import MaxPooling, SumPooling
from .queue import StreamQueue
from .ram import DualPortRam
from .registers import NetworkRegisters, Register, StatusBit
from .regroup import ChannelGatherer, ChannelSerializer
from .reorder import MapReorder
from .repeatrom import RepeatingRom
from .requantize import Requantizer
from .residual import ResidualAdd
from .scheduler import FilterScheduler
from .shiftadd import ShiftAddGraph
from .shiftclamp import ShiftClamp
from .slotscheduler import SlotScheduler
from .weights import RomStream, WeightBuffer
from .window import SlidingWindow
from .wishbone import WishboneRegisters, WishboneSignature
from .xnor import XnorPE

__all__ = [
    "Argmax", "AxiStreamNetwork", "AxiStreamSignature", "ChannelConcat", "ChannelGatherer",
    "ChannelSerializer", "ConvolutionEngine", "CsrNarrow", "CsrNetwork", "CsrSignature",
    "DelayLine", "DenseEngine", "DualPortRam", "FilterScheduler", "Flash", "FlashReader",
    "FlashSignature", "FoldedLayer", "Folding",
    "FrameBuffer", "FrameDrain", "FrameEngine", "Framed", "FramedLayer", "Hardwired",
    "HardwiredConvolution", "HardwiredDense", "HardwiredLayer", "ImageQueue", "LayerEngine",
    "LoadableStream", "MapReorder", "MaxPooling", "MultiplyPE", "Network", "NetworkRegisters",
    "PEArray", "ParallelRequantizer", "ParameterStream", "PixelWindow", "Register", "RepeatingRom",
    "Requantizer", "ResidualAdd", "RomStream", "ShiftAddGraph", "ShiftClamp", "ShiftPE",
    "SlidingWindow", "SlotScheduler", "StatusBit", "StreamBuffer", "StreamFork", "StreamQueue",
    "SumPooling", "WeightBuffer", "WishboneNetwork", "WishboneRegisters", "WishboneSignature",
    "WriteSignature", "XnorPE", "activation_shape", "require_supported", "unsupported",
]
