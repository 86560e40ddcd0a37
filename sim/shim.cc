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
