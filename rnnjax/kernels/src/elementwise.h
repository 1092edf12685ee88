// The elementwise operations of the engine, on strips of a few rows.

#ifndef RNNJAX_ELEMENTWISE_H_
#define RNNJAX_ELEMENTWISE_H_

#include "functions.h"
#include "program.h"
#include "rows.h"
#include "strip.h"

namespace rnnjax::RNNJAX_ISA {

inline void power(const Strip& strip, At out, At a, At exponent) {
  const int n = static_cast<int>(*exponent(0, 0));
  map(strip, [=](Vec x) { return power(x, n); }, out, a);
}

// Of how many operands an operation is given the elements of its strip; it
// finds those of the others itself.
inline int along(Operation operation) {
  switch (operation) {
    case Operation::k_splat:
    case Operation::k_outer:
    case Operation::k_repeat:
    case Operation::k_tile: return 0;
    case Operation::k_add_outer:
    case Operation::k_rows_gated_add_outer:
    case Operation::k_matrices_gated_add_outer:
    case Operation::k_multiply_repeated: return 1;
    case Operation::k_gated_add_outer:
    case Operation::k_multiply_add_repeated: return 2;
    default: return kOperands;
  }
}

// What an operation does to a strip: its operands are the result, then what it
// reads.
using Apply = void (*)(const Strip&, const At*);

// Comparisons with NaN are false; `max` and `min` are NaN if either is.
inline Apply applied(Operation operation) {
  switch (operation) {
#define RNNJAX_CASE(name, statement) \
  case Operation::k_##name:          \
    return [](const Strip& strip, const At* at) { statement; };
#define RNNJAX_UNARY(name, expression)                                         \
  RNNJAX_CASE(name, map(                                                       \
                        strip, [](Vec x) RNNJAX_LAMBDA { return expression; }, \
                        at[0], at[1]))
#define RNNJAX_BINARY(name, expression)                                       \
  RNNJAX_CASE(                                                                \
      name, map(                                                              \
                strip, [](Vec x, Vec y) RNNJAX_LAMBDA { return expression; }, \
                at[0], at[1], at[2]))
#define RNNJAX_TERNARY(name, expression)                                       \
  RNNJAX_CASE(                                                                 \
      name,                                                                    \
      map(                                                                     \
          strip, [](Vec x, Vec y, Vec z) RNNJAX_LAMBDA { return expression; }, \
          at[0], at[1], at[2], at[3]))
#define RNNJAX_QUATERNARY(name, expression)                       \
  RNNJAX_CASE(name, map(                                          \
                        strip,                                    \
                        [](Vec x, Vec y, Vec z, Vec w)            \
                            RNNJAX_LAMBDA { return expression; }, \
                        at[0], at[1], at[2], at[3], at[4]))
    RNNJAX_CASE(copy, copy(strip, at[0], at[1]))
    RNNJAX_CASE(load_flags, load_flags(strip, at[0], at[1]))
    RNNJAX_CASE(store_flags, store_flags(strip, at[0], at[1]))
    RNNJAX_CASE(splat, spread(strip, at[0], at[1]))
    RNNJAX_CASE(power, power(strip, at[0], at[1], at[2]))
    RNNJAX_CASE(outer, outer(strip, at[0], at[1], at[2], at[3], at[4]))
    RNNJAX_CASE(add_outer,
                add_outer(strip, at[0], at[1], at[2], at[3], at[4], at[5]))
    RNNJAX_CASE(multiply_repeated,
                multiply_repeated(strip, at[0], at[1], at[2], at[3], at[4]))
    RNNJAX_CASE(gated_add_outer,
                gated_add_outer(strip, at[0], at[1], Each{at[2]}, at[3], at[4],
                                at[5], at[6]))
    RNNJAX_CASE(rows_gated_add_outer,
                gated_add_outer(strip, at[0], at[1], PerRow{at[2]}, at[3],
                                at[4], at[5], at[6]))
    RNNJAX_CASE(matrices_gated_add_outer,
                gated_add_outer(strip, at[0], at[1], PerBlock{at[2]}, at[3],
                                at[4], at[5], at[6]))
    RNNJAX_CASE(
        multiply_add_repeated,
        multiply_add_repeated(strip, at[0], at[1], at[2], at[3], at[4], at[5]))
    RNNJAX_CASE(repeat, repeat(strip, at[0], at[1], at[2], at[3]))
    RNNJAX_CASE(tile, tile(strip, at[0], at[1], at[2], at[3]))
    RNNJAX_TERNARY(multiply_add, x * y + z)
    RNNJAX_TERNARY(multiply_subtract, x * y - z)
    RNNJAX_TERNARY(subtract_product, z - x * y)
    RNNJAX_QUATERNARY(add_products, x * y + z * w)
    RNNJAX_QUATERNARY(subtract_products, x * y - z * w)
    RNNJAX_BINARY(add, x + y)
    RNNJAX_BINARY(sub, x - y)
    RNNJAX_BINARY(mul, x * y)
    RNNJAX_BINARY(div, x / y)
    RNNJAX_BINARY(max, ((x > y) | (x != x)) ? x : y)
    RNNJAX_BINARY(min, ((x < y) | (x != x)) ? x : y)
    RNNJAX_BINARY(rem, remainder(x, y))
    RNNJAX_BINARY(pow, by_lane(x, y, [](float v, float w) {
                    return __builtin_powf(v, w);
                  }))
    RNNJAX_UNARY(neg, -x)
    RNNJAX_UNARY(abs, abs(x))
    RNNJAX_UNARY(sign, x > 0.0f ? splat(1.0f) : x < 0.0f ? splat(-1.0f) : x)
    RNNJAX_UNARY(floor, floor(x))
    RNNJAX_UNARY(exp, exp(x))
    RNNJAX_UNARY(exp2, by_lane(x, [](float v) { return __builtin_exp2f(v); }))
    RNNJAX_UNARY(expm1, expm1(x))
    RNNJAX_UNARY(log, log(x))
    RNNJAX_UNARY(log1p, log1p(x))
    RNNJAX_UNARY(tanh, tanh(x))
    RNNJAX_UNARY(logistic, sigmoid(x))
    RNNJAX_UNARY(sqrt, sqrt(x))
    RNNJAX_UNARY(rsqrt, 1.0f / sqrt(x))
    RNNJAX_UNARY(sin, by_lane(x, [](float v) { return __builtin_sinf(v); }))
    RNNJAX_UNARY(cos, by_lane(x, [](float v) { return __builtin_cosf(v); }))
    RNNJAX_UNARY(erf, by_lane(x, [](float v) { return __builtin_erff(v); }))
    RNNJAX_BINARY(eq, truth(x == y))
    RNNJAX_BINARY(ne, truth(x != y))
    RNNJAX_BINARY(lt, truth(x < y))
    RNNJAX_BINARY(le, truth(x <= y))
    RNNJAX_BINARY(gt, truth(x > y))
    RNNJAX_BINARY(ge, truth(x >= y))
    RNNJAX_UNARY(not, 1.0f - x)
    RNNJAX_UNARY(is_finite, truth(abs(x) < __builtin_inff()))
    RNNJAX_TERNARY(select_n, x != 0.0f ? z : y)
    RNNJAX_TERNARY(clamp, clamp(x, y, z))
#undef RNNJAX_CASE
#undef RNNJAX_UNARY
#undef RNNJAX_BINARY
#undef RNNJAX_TERNARY
  }
  return nullptr;
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_ELEMENTWISE_H_
