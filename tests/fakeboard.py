"""A device in Python that speaks the protocol: the gateware's double, at the speed of NumPy."""

from dataclasses import replace
from fractions import Fraction

from flightrtl import golden, modelfile
from flightrtl.protocol import (
    HASH_BYTES,
    Counters,
    Decoder,
    Frame,
    Identity,
    LinkError,
    Reply,
    Request,
    Status,
    Type,
)


class FakeBoard:
    """Answers at once; `replies` may change what it sends for a request, as a list of bytes."""

    def __init__(self, model="digits", *, baud=1_000_000, design="", replies=None):
        self.model = modelfile.load(model)
        self.sha256 = modelfile.sha256(model)
        self.frame = Frame.of(self.model)
        self.identity = Identity.of(self.model, self.sha256, design=design)
        self.baud = self.host_baud = baud
        self.clock_hz = Fraction(10 * baud)     # a cycle is a hundredth of a byte
        self.seconds = 0.0
        self.requests = []
        self.loaded = []
        self.complete = True
        self.taken = 0
        self._decoder = Decoder()
        self._replies = replies or (lambda request, reply: [reply])
        self._out = bytearray()

    @property
    def cycles(self):
        return round(self.seconds * self.clock_hz)

    @property
    def asleep(self):
        return not self._out

    def host_rate(self, baud):
        self.host_baud = baud

    def send(self, data):
        self.seconds += 10 * len(data) / self.baud
        if self.host_baud != self.baud:
            data = bytes(byte ^ 0x5A for byte in data)
        for content in self._decoder.feed(data):
            try:
                request = Request.parse(content)
            except LinkError:
                continue
            self.requests.append(request)
            for reply in self._replies(request, self.answer(request).encode()):
                self._out += reply
            self.taken += 1

    def run(self, cycles, *, stop=None):
        end = self.seconds + float(cycles / self.clock_hz)
        data, self._out = bytes(self._out), bytearray()
        self.seconds = self.seconds + 10 * len(data) / self.baud if data else end
        return data

    def answer(self, request):
        def reply(status=Status.OK, body=b""):
            return Reply(request.type, request.sequence, status, body)

        if request.type == Type.CLASSIFY:
            if len(request.body) != self.frame.image_bytes:
                return reply(Status.BAD_LENGTH)
            if not self.complete:
                return reply(Status.WEIGHTS_INCOMPLETE)
            image = golden.np.array(self.frame.image(request.body)).reshape(
                1, *self.model.input.shape)
            logits = golden.run(self.model, image)[0]
            return reply(body=self.frame.answer_body(logits.tolist(), int(logits.argmax())))
        if request.type == Type.IDENTIFY:
            return reply(body=self.identity.body)
        if request.type == Type.STATUS:
            return reply(body=Counters(self.taken, self._decoder.damaged).body)
        if request.type == Type.RESET:
            self.taken = 0
            return reply()
        if request.type in (Type.LOAD, Type.COMMIT):
            if not self.identity.loadable:
                return reply(Status.NOT_LOADABLE)
            complete = request.type == Type.COMMIT
            if len(request.body) != (HASH_BYTES if complete else self.frame.image_bytes):
                return reply(Status.BAD_LENGTH)
            self.complete = complete
            self.identity = replace(self.identity,
                                    model=request.body if complete else bytes(HASH_BYTES))
            self.loaded.append(request)
            return reply()
        return reply(Status.UNKNOWN_TYPE)
