import doctest
import random
import re
import zlib

import numpy as np
import pytest

from flightrtl import modelfile, protocol
from flightrtl.formats import ActivationFormat
from flightrtl.protocol import (
    ESCAPE,
    FLAG,
    Counters,
    Decoder,
    Frame,
    Identity,
    LinkError,
    Reply,
    Request,
    Status,
    Type,
    checksum,
    encode,
    framing,
    load_body,
    messages,
    request,
    shape_hash,
)
from tests.models import random_model


@pytest.mark.parametrize("module", [protocol, framing, messages])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_checksum_is_crc32_jamcrc():
    assert int.from_bytes(checksum(b"123456789"), "little") == 0x340BC6D9
    inverted = zlib.crc32(b"abc").to_bytes(4, "little")
    assert checksum(b"abc") == bytes(byte ^ 0xFF for byte in inverted)


def test_frames_go_through_a_line_in_pieces():
    rng = random.Random(1)
    contents = [bytes([rng.choice([FLAG, ESCAPE, 0, 255, rng.randrange(256)])
                       for _ in range(rng.randrange(2, 60))]) for _ in range(200)]
    line = b"".join(bytes([FLAG]) * rng.randrange(3) + encode(content) for content in contents)
    # Nothing but the ends of frames looks like one.
    assert encode(bytes([FLAG, ESCAPE, FLAG])).count(FLAG) == 2
    decoder, found, at = Decoder(), [], 0
    while at < len(line):
        size = rng.randrange(1, 50)
        found += decoder.feed(line[at:at + size])
        at += size
    assert found == contents
    assert decoder.damaged == 0
    shared = b"".join(encode(content)[:-1] for content in contents) + bytes([FLAG])
    assert Decoder().feed(shared) == contents     # one flag between two frames is enough


def damaged(rng, wire):
    """A frame with one of the things that happen on a line."""
    wire = bytearray(wire)
    at = rng.randrange(len(wire))
    kind = rng.randrange(6)
    if kind == 0:
        wire[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del wire[at]
    elif kind == 2:
        wire.insert(at, wire[at])
    elif kind == 3:
        del wire[at:]
    elif kind == 4:
        wire[at:at + 9] = rng.randbytes(rng.randrange(20))
    else:
        wire.insert(at, rng.choice([FLAG, ESCAPE, rng.randrange(256)]))
    return bytes(wire)


def test_damage_never_makes_another_frame():
    rng = random.Random(2)
    for _ in range(2000):
        content = rng.randbytes(rng.randrange(2, 40))
        decoder = Decoder()
        found = decoder.feed(damaged(rng, encode(content)))
        assert found in ([], [content])
        # Whatever it was, two flags later a frame is found again.
        assert decoder.feed(bytes([FLAG]) + encode(b"\2\0"))[-1] == b"\2\0"


def test_decoder_counts_what_is_damaged():
    decoder = Decoder(limit=10)
    assert decoder.feed(bytes([FLAG]) * 5) == []
    assert decoder.damaged == 0
    for damage in (bytes([1, FLAG]), bytes([ESCAPE, FLAG]), encode(b"\2\0")[1:-2] + bytes([FLAG]),
                   encode(b"\2\0")[1:-1] + bytes([ESCAPE, FLAG]), checksum(b"") + bytes([FLAG]),
                   (b"a" + checksum(b"a")) + bytes([FLAG]), encode(bytes(11))[1:]):
        before = decoder.damaged
        assert decoder.feed(damage) == []
        assert decoder.damaged == before + 1
    assert decoder.feed(encode(bytes(10))) == [bytes(10)]
    decoder.feed(bytes(1000))
    assert len(decoder._inside) < 20
    with pytest.raises(ValueError, match="limit must be 2 to"):
        Decoder(limit=1)


def test_requests_and_replies():
    content, = Decoder().feed(request(Type.LOAD, 200, load_body(3, 0x1234, b"xy")))
    assert content == bytes([5, 200, 3, 0x34, 0x12]) + b"xy"
    assert Request.parse(content) == Request(Type.LOAD, 200, content[2:])
    assert Request.parse(bytes([0x55, 1])) == Request(0x55, 1)
    reply = Reply(Type.STATUS, 9, body=Counters(1, 2, 65536 + 3, 4).body)
    content, = Decoder().feed(reply.encode())
    assert content[:3] == bytes([0x83, 9, 0])
    assert Reply.parse(content) == reply
    assert Counters.parse(reply) == Counters(1, 2, 3, 4)


def test_what_is_no_reply():
    for content in (b"", b"\x81", b"\x81\0", b"\x01\0\0", bytes([0x81, 0, Status.BUSY, 0])):
        with pytest.raises(LinkError):
            Reply.parse(content)
    with pytest.raises(LinkError, match="2 bytes or more, not 1"):
        Request.parse(b"a")
    with pytest.raises(LinkError, match="answers NOT_LOADABLE"):
        Reply.parse(bytes([0x85, 0, Status.NOT_LOADABLE])).check(0)
    with pytest.raises(LinkError, match="answers 0x77"):
        Reply.parse(bytes([0x85, 0, 0x77])).check(0)
    with pytest.raises(LinkError, match="has 7 bytes; it must have 8"):
        Counters.parse(Reply(Type.STATUS, 0, body=bytes(7)))
    for wrong in (-1, 256):
        with pytest.raises(ValueError, match="sequence must be 0 to 255"):
            request(Type.STATUS, wrong)


def test_identity_of_a_model():
    model = modelfile.load("digits")
    digest = modelfile.sha256("digits")
    identity = Identity.of(model, digest, design="0123456789abcdef")
    assert identity.loadable
    assert identity.shape.hex() == "0123456789abcdef"
    fixed = Identity.of(model, digest)
    assert (fixed.loadable, fixed.shape) == (False, shape_hash(model))
    for each in (identity, fixed):
        assert each.may_be(model)
        assert not each.may_be(modelfile.load("mnist"))
    assert len(identity.body) == 22
    assert (identity.image_bytes, identity.classes) == (64, 10)
    assert identity.model.hex() == digest[:16]
    reply = Reply(Type.IDENTIFY, 0, body=identity.body)
    assert Identity.parse(reply) == identity
    with pytest.raises(LinkError, match="speaks version 07"):
        Identity.parse(Reply(Type.IDENTIFY, 0, body=b"\7" + identity.body[1:]))
    with pytest.raises(LinkError, match="answers BUSY"):
        Identity.parse(Reply(Type.IDENTIFY, 0, Status.BUSY))


def test_shape_hash_is_of_the_shape():
    def model(seed, **kwargs):
        return random_model(np.random.default_rng(seed), kinds=["dense"], **kwargs)
    one = model(1, classes=4)
    weights = one.layers[0].terms
    assert shape_hash(one) == shape_hash(model(1, classes=4))
    assert shape_hash(one) != shape_hash(model(1, classes=5))
    weights[...] = 0
    assert shape_hash(one) == shape_hash(model(1, classes=4))


@pytest.mark.parametrize("form", [ActivationFormat(8), ActivationFormat(8, True),
                                  ActivationFormat(4, True), ActivationFormat(13, True),
                                  ActivationFormat(16)])
def test_images_and_answers_are_read_back(form):
    frame = Frame(form, 4, form, 3)
    values = [form.min, 1, form.max, 0]
    content, = Decoder().feed(frame.request(5, values))
    assert content[:2] == bytes([Type.CLASSIFY, 5])
    assert frame.image(content[2:]) == values
    assert len(content) == 2 + frame.image_bytes
    body = frame.answer_body(values[:3], 2)
    assert len(body) == frame.answer_bytes
    assert frame.parse(Reply(Type.CLASSIFY, 5, body=body)) == (2, values[:3])
    with pytest.raises(LinkError, match="answers class 1, and its logits say 2"):
        frame.parse(Reply(Type.CLASSIFY, 5, body=frame.answer_body(values[:3], 1)))


def test_sizes_on_the_line():
    frame = Frame(ActivationFormat(8), 4, ActivationFormat(12, True), 300)
    assert frame.winner_bits == 9
    assert frame.request_size == len(frame.request(0, [1, 2, 3, 4]))
    body = frame.answer_body([2] + [0] * 299, 0)
    assert frame.answer_size == len(Reply(Type.CLASSIFY, 0, body=body).encode())
    assert frame.image(bytes([1, 2, 3, 255])) == [1, 2, 3, 255]
    # Bits beyond the format are ignored.
    assert Frame(ActivationFormat(4), 1, ActivationFormat(8), 2).image(b"\xF3") == [3]


def test_frame_refuses_what_is_wrong():
    frame = Frame(ActivationFormat(8), 4, ActivationFormat(8, True), 2)
    for image, message in (([1, 2, 3], "has 3 values; it must have 4"),
                           ([1, 2, 3, 256], "outside 0 to 255"),
                           ([1, 2, 3, 0.5], "that are no integers")):
        with pytest.raises(ValueError, match=message):
            frame.request(0, image)
    with pytest.raises(ValueError, match="has 4 bytes, not 3"):
        frame.image(b"abc")
    with pytest.raises(ValueError, match="an image has 65,536 bytes"):
        Frame(ActivationFormat(8), 65_536, ActivationFormat(8), 2)
    with pytest.raises(ValueError, match="there are 65,536 classes"):
        Frame(ActivationFormat(8), 1, ActivationFormat(8), 65_536)


def test_numbers_are_those_of_the_page():
    """What stands on the line can never change without a new version."""
    assert (FLAG, ESCAPE, protocol.FLIP, protocol.REPLY, protocol.VERSION) == (
        0x7E, 0x7D, 0x20, 0x80, 2)
    assert [kind.value for kind in Type] == [1, 2, 3, 4, 5, 6]
    assert [status.value for status in Status] == [0, 1, 2, 3, 4, 5]
    assert re.fullmatch("7e0103(.{8})7e", request(Type.CLASSIFY, 3).hex())
