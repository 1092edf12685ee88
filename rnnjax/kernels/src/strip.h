// Strips of a few rows, and what is done to all vectors of one.

#ifndef RNNJAX_STRIP_H_
#define RNNJAX_STRIP_H_

#include "vector.h"

namespace rnnjax::RNNJAX_ISA {

// A strip: `rows` rows of `width` elements from a column on, the last vector of
// a row perhaps not whole. What comes after it is padding, or another's if no
// more may be read and written than `exactly` these.
struct Strip {
  int64_t rows, width, column = 0;
  bool exactly = false;
};

// Where the strip of a value begins, and the bytes to its next row and element.
struct At {
  char* start;
  int64_t row, column;

  RNNJAX_INLINE float* operator()(int64_t r, int64_t c) const {
    return reinterpret_cast<float*>(start + r * row + c * column);
  }
};

template <class F>
RNNJAX_INLINE void for_vectors(const Strip& strip, const F& f) {
  for (int64_t r = 0; r < strip.rows; ++r) {
    for (int64_t c = 0; c < strip.width; c += kLanes) f(r, c);
  }
}

// An operand, vector by vector: along a row or down a column of vectors.
struct Line {
  char* at;
  int64_t step;

  RNNJAX_INLINE float* next() {
    float* const vector = reinterpret_cast<float*>(at);
    at += step;
    return vector;
  }
};

// Of each vector the first `lanes`.
template <class F, class... Operand>
RNNJAX_INLINE void map_line(int64_t count, int lanes, const F& f, Line out,
                            Operand... operand) {
  for (; count > 0; --count) {
    store(out.next(), f(load(operand.next(), lanes)...), lanes);
  }
}

// Along the longer side of the strip, so that there are few turns.
template <class F, class... Operand>
RNNJAX_INLINE void map(const Strip& strip, const F& f, At out,
                       Operand... operand) {
  const int last = strip.exactly ? strip.width % kLanes : 0;
  const int64_t vectors = (strip.width - last + kLanes - 1) / kLanes;
  const auto row = [](At a, int64_t r) RNNJAX_LAMBDA {
    return Line{a.start + r * a.row, a.column * kLanes};
  };
  const auto column = [](At a, int64_t v) RNNJAX_LAMBDA {
    return Line{a.start + v * a.column * kLanes, a.row};
  };
  if (strip.rows > vectors) {
    for (int64_t v = 0; v < vectors; ++v) {
      map_line(strip.rows, kLanes, f, column(out, v), column(operand, v)...);
    }
  } else {
    for (int64_t r = 0; r < strip.rows; ++r) {
      map_line(vectors, kLanes, f, row(out, r), row(operand, r)...);
    }
  }
  if (last) {
    map_line(strip.rows, last, f, column(out, vectors),
             column(operand, vectors)...);
  }
}

inline void copy(const Strip& strip, At out, At a) {
  map(strip, [](Vec x) RNNJAX_LAMBDA { return x; }, out, a);
}

typedef uint8_t ByteVec __attribute__((vector_size(kLanes)));

// By way of 16 bits: from 8 to 32 at once, GCC goes lane by lane.
RNNJAX_INLINE IntVec widened(ByteVec bytes) {
  return __builtin_convertvector(__builtin_convertvector(bytes, HalfVec),
                                 IntVec);
}
RNNJAX_INLINE ByteVec narrowed(IntVec numbers) {
  return __builtin_convertvector(__builtin_convertvector(numbers, HalfVec),
                                 ByteVec);
}

RNNJAX_INLINE void copy_bytes(void* to, const void* from, int count) {
  if (count == kLanes) {
    std::memcpy(to, from, kLanes);
  } else {
    std::memcpy(to, from, count);
  }
}

inline void load_flags(const Strip& strip, At out, At a) {
  for_vectors(strip, [&](int64_t r, int64_t c) {
    ByteVec flags{};
    copy_bytes(&flags, a(r, c), lanes_of(strip.width, c));
    store(out(r, c), truth(widened(flags) != 0));
  });
}

inline void store_flags(const Strip& strip, At out, At a) {
  for_vectors(strip, [&](int64_t r, int64_t c) {
    const IntVec set = (load(a(r, c)) != 0.0f) & 1;
    const ByteVec flags = narrowed(set);
    copy_bytes(out(r, c), &flags, lanes_of(strip.width, c));
  });
}

// One vector for all of a row.
inline void spread(const Strip& strip, At out, At a) {
  for (int64_t r = 0; r < strip.rows; ++r) store(out(r, 0), splat(*a(r, 0)));
}

}  // namespace rnnjax::RNNJAX_ISA

#endif  // RNNJAX_STRIP_H_
