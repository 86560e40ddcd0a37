// Slices of wide values for CXXRTL, in place of its own.
//
// Its own shift the whole value down before they take what they need, which for eight bits of a
// word of 240 is some thirty times the work. These look at the 32-bit chunks that hold the slice,
// and at no others. They specialise templates of cxxrtl.h, before generated code uses them.

#include <cxxrtl/cxxrtl.h>

namespace cxxrtl {

template<size_t Stop, size_t Start, size_t Bits>
CXXRTL_ALWAYS_INLINE
value<Stop - Start + 1> cut(const value<Bits> &whole) {
    static_assert(Start <= Stop && Stop < Bits, "a slice lies within its value");
    constexpr size_t bits = Stop - Start + 1, skip = Start / 32, shift = Start % 32;
    value<bits> part;
    for (size_t n = 0; n < part.chunks; n++) {
        part.data[n] = whole.data[skip + n] >> shift;
        // `% 32` only for shift == 0, where this is not reached, and compilers complain.
        if (shift != 0 && 32 * (n + 1) - shift < bits)
            part.data[n] |= whole.data[skip + n + 1] << (32 - shift) % 32;
    }
    part.data[part.chunks - 1] &= part.msb_mask;
    return part;
}

template<size_t Bits, size_t Stop, size_t Start>
struct slice_expr<const value<Bits>, Stop, Start>
        : public expr_base<slice_expr<const value<Bits>, Stop, Start>> {
    static constexpr size_t bits = Stop - Start + 1;

    const value<Bits> &expr;

    slice_expr(const value<Bits> &expr) : expr(expr) {}
    slice_expr(const slice_expr &) = delete;

    CXXRTL_ALWAYS_INLINE operator value<bits>() const { return cut<Stop, Start>(expr); }
    CXXRTL_ALWAYS_INLINE value<bits> val() const { return cut<Stop, Start>(expr); }
};

template<size_t Bits, size_t Stop, size_t Start>
struct slice_expr<value<Bits>, Stop, Start>
        : public expr_base<slice_expr<value<Bits>, Stop, Start>> {
    static constexpr size_t bits = Stop - Start + 1;

    value<Bits> &expr;

    slice_expr(value<Bits> &expr) : expr(expr) {}
    slice_expr(const slice_expr &) = delete;

    CXXRTL_ALWAYS_INLINE operator value<bits>() const { return cut<Stop, Start>(expr); }
    CXXRTL_ALWAYS_INLINE value<bits> val() const { return cut<Stop, Start>(expr); }

    CXXRTL_ALWAYS_INLINE slice_expr &operator=(const value<bits> &part) {
        expr = expr.template blit<Stop, Start>(part);
        return *this;
    }
};

}  // namespace cxxrtl
