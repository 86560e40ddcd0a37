// A generated simulation behind a C interface; sim/shim.py fills in MODEL and PORTS, and
// sim/simulation.py is the other side.

#include <cstdint>
#include <new>
#include <vector>

// MODEL

namespace {

struct Port {
    void (*load)(const Model &model, uint64_t *words);
    void (*store)(Model &model, const uint64_t *words);  // null for an output
};

const Port ports[] = {
// PORTS
};

const int32_t NONE = -1;    // for a signal that is constant 1
const int32_t SOURCE = 0;   // kinds of streams: we feed it,
const int32_t SINK = 1;     // we take from it,
const int32_t WATCHED = 2;  // we only look

}  // namespace

extern "C" {

struct Stream {
    int32_t kind;
    int32_t valid, ready, payload;  // numbers of ports, or NONE
    uint64_t words;                 // of a payload
    uint64_t *data;                 // payloads to feed, or room for those to come; may be null
    uint64_t *cycles;               // room for the cycle of each transfer; may be null
    uint64_t count;                 // payloads to feed, or to expect, or that there is room for
    uint64_t done;                  // transfers so far
    uint64_t surplus;               // transfers beyond `count`
    uint64_t stalled, idle;         // cycles with valid and not ready, and without valid
};

}  // extern "C"

namespace {

const uint64_t ZERO = 0, ONE = 1;

inline bool flag(const Model &model, int32_t port) {
    if (port == NONE) return true;
    uint64_t word;
    ports[port].load(model, &word);
    return word & 1;
}

inline void drive(Model &model, int32_t port, bool value) {
    if (port != NONE) ports[port].store(model, value ? &ONE : &ZERO);
}

// What a source offers in the coming cycle.
inline void offer(Model &model, const Stream &stream) {
    const bool valid = stream.done < stream.count;
    drive(model, stream.valid, valid);
    if (valid && stream.payload != NONE)
        ports[stream.payload].store(model, stream.data + stream.done * stream.words);
}

}  // namespace

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

EXPORT void *sim_create() { return new (std::nothrow) Model; }

EXPORT void sim_destroy(void *handle) { delete static_cast<Model *>(handle); }

EXPORT void sim_set(void *handle, uint32_t port, const uint64_t *words) {
    ports[port].store(*static_cast<Model *>(handle), words);
}

EXPORT void sim_get(void *handle, uint32_t port, uint64_t *words) {
    ports[port].load(*static_cast<Model *>(handle), words);
}

EXPORT void sim_settle(void *handle) { static_cast<Model *>(handle)->settle(); }

EXPORT void sim_tick(void *handle, uint64_t cycles) {
    Model &model = *static_cast<Model *>(handle);
    for (uint64_t cycle = 0; cycle < cycles; cycle++) {
        model.before_edge();
        model.after_edge();
    }
}

// The host's end of a serial line: eight data bits, no parity, one stop bit, both directions at the
// same time. Times are cycles, the host's with 16 more bits of fraction; sim/duplex.py is the other
// side.
struct Serial {
    int32_t rx, tx;             // numbers of the design's ports
    uint64_t bit;               // one bit of the host, in cycles times 65536
    uint64_t now;               // cycles so far
    uint64_t active;            // the latest one in which the line was not idle
    const uint8_t *out;         // bytes to send,
    uint64_t out_count, out_done;
    uint8_t *in;                // and room for those that come
    uint64_t in_count, in_done;
    uint64_t framing;           // bytes whose stop bit was 0
    uint64_t out_next, in_next; // when the next level is due, and the next sample
    int32_t out_bit, in_bit;    // which that is: 0 for the start bit, 9 for the stop bit, NONE
    int32_t stop;               // byte after which to return, or NONE
    uint8_t in_shift, in_idle;
};

// Clock the design for `cycles` cycles at most. Returns after `stop` has come, when there is no
// more room, and when the line has been idle for `patience` cycles. The result is how many it were.
EXPORT uint64_t sim_serial(void *handle, Serial *serial, uint64_t cycles, uint64_t patience) {
    Model &model = *static_cast<Model *>(handle);
    Serial &s = *serial;
    for (uint64_t cycle = 0; cycle < cycles; cycle++, s.now++) {
        const uint64_t now = s.now << 16;
        if (s.out_bit == NONE && s.out_done < s.out_count) {
            s.out_bit = 0;
            if (s.out_next < now) s.out_next = now;
        }
        if (s.out_bit != NONE) {
            s.active = s.now;
            if (s.out_next <= now) {
                const bool level = s.out_bit == 0 ? false : s.out_bit >= 9 ? true :
                    s.out[s.out_done] >> (s.out_bit - 1) & 1;
                if (s.out_bit <= 9) {
                    drive(model, s.rx, level);
                    s.out_next += s.bit;
                    s.out_bit++;
                } else {        // the stop bit is over
                    s.out_done++;
                    s.out_bit = NONE;
                    if (s.out_done < s.out_count) {     // without a gap
                        s.out_bit = 1;
                        s.out_next += s.bit;
                        drive(model, s.rx, false);
                    }
                }
            }
        }
        model.before_edge();
        const bool tx = flag(model, s.tx);
        model.after_edge();
        if (s.in_bit == NONE) {
            if (!tx && s.in_idle) {
                s.in_bit = 0;
                s.in_next = now + s.bit / 2;
            }
            s.in_idle = tx;
        } else if (s.in_next <= now) {
            s.in_next += s.bit;
            if (s.in_bit == 0 && tx) {
                s.in_bit = NONE;        // no start bit
            } else if (s.in_bit == 9) {
                s.in_bit = NONE;
                s.in_idle = tx;
                if (tx) {
                    s.in[s.in_done++] = s.in_shift;
                    if (s.in_shift == s.stop || s.in_done == s.in_count) {
                        s.active = s.now++;
                        return cycle + 1;
                    }
                } else {
                    s.framing++;
                }
            } else {
                s.in_shift = s.in_shift >> 1 | (tx ? 0x80 : 0);
                s.in_bit++;
            }
        }
        if (!tx || s.in_bit != NONE) s.active = s.now;
        if (s.now - s.active >= patience) {
            s.now++;
            return cycle + 1;
        }
    }
    return cycles;
}

// Clock the design until every sink has its transfers, or for `cycles` cycles; `now` is the number
// of the first one. The result is how many it were; `*active` becomes the number of the latest
// cycle in which a source or sink had a transfer.
EXPORT uint64_t sim_run(void *handle, Stream *streams, uint32_t count, uint64_t now,
                        uint64_t cycles, uint64_t *active) {
    Model &model = *static_cast<Model *>(handle);
    uint32_t waiting = 0;
    for (uint32_t n = 0; n < count; n++) {
        Stream &stream = streams[n];
        if (stream.kind == SOURCE) offer(model, stream);
        if (stream.kind == SINK) {
            drive(model, stream.ready, true);
            waiting += stream.done < stream.count;
        }
    }
    const bool until_done = waiting > 0;
    std::vector<Stream *> changed(count);  // sources that need a new payload after the edge
    uint64_t cycle = 0;
    while (cycle < cycles && !(until_done && waiting == 0)) {
        uint32_t moved = 0;
        model.before_edge();
        for (uint32_t n = 0; n < count; n++) {
            Stream &stream = streams[n];
            if (!(stream.kind == SOURCE ? stream.done < stream.count || stream.valid == NONE
                                        : flag(model, stream.valid))) {
                stream.idle++;
            } else if (!flag(model, stream.ready)) {
                stream.stalled++;
            } else if (stream.done == stream.count) {
                stream.surplus++;
                if (stream.kind == SINK) *active = now + cycle;
            } else {
                if (stream.kind != SOURCE && stream.data && stream.payload != NONE)
                    ports[stream.payload].load(model, stream.data + stream.done * stream.words);
                if (stream.cycles) stream.cycles[stream.done] = now + cycle;
                stream.done++;
                if (stream.kind != WATCHED) *active = now + cycle;
                if (stream.kind == SINK && stream.done == stream.count) waiting--;
                if (stream.kind == SOURCE) changed[moved++] = &stream;
            }
        }
        model.after_edge();
        for (uint32_t n = 0; n < moved; n++) offer(model, *changed[n]);
        cycle++;
    }
    return cycle;
}
