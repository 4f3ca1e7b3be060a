#include "cpu/selective_scan/selective_scan.h"

#include "cpu/round.h"
#include "cpu/softplus.h"
#include "cpu/strided.h"

namespace vk::VK_TIER {
namespace {

// Tokens whose B and C stay in the L1 cache for all rows of a task.
constexpr int64_t kChunk = 16;
// Rows whose states share the loads of B and C.
constexpr int kTogether = kManyRegisters ? 4 : 2;

template <class T>
void Steps(float* to, const void* from, ptrdiff_t stride, const float* bias, size_t count,
           bool softplus) {
  const T* values = static_cast<const T*>(from);
  ForVectors(count, [&](size_t i, size_t n) VK_INLINE_LAMBDA {
    VF x = LoadStrided(values + static_cast<ptrdiff_t>(i) * stride, stride, n);
    if (bias != nullptr) x = hn::Add(x, LoadUpTo(bias + i, n));
    StoreUpTo(softplus ? Softplus(x) : x, to + i, n);
  });
}

size_t Padded(int64_t dstate) { return RoundUp<size_t>(dstate, kFloatLanes); }

size_t ScratchFloats(int64_t dstate) {
  const size_t padded = Padded(dstate);
  return 2 * kScanRows * padded + 2 * kChunk * padded + 2 * kChunk * kScanRows + kChunk;
}

// What a task works in.
struct Room {
  Room(float* scratch, int64_t dstate) : padded(Padded(dstate)) {
    state = scratch;
    a = state + kScanRows * padded;
    b = a + kScanRows * padded;
    c = b + kChunk * padded;
    x = c + kChunk * padded;
    y = x + kChunk * kScanRows;
    decay = y + kChunk * kScanRows;
  }

  size_t padded;
  float* state;  // [kScanRows][padded]
  float* a;      // the same
  float* b;      // [kChunk][padded]
  float* c;
  float* x;  // [kChunk][kScanRows]
  float* y;
  float* decay;  // [kChunk], of a head with one decay
};

// `width` elements as float32, and zeros up to whole vectors.
template <class T>
void LoadRow(float* to, const T* from, ptrdiff_t stride, size_t width) {
  for (size_t i = 0; i < width; i += kFloatLanes) {
    const size_t count = HWY_MIN(kFloatLanes, width - i);
    hn::StoreU(LoadStrided(from + static_cast<ptrdiff_t>(i) * stride, stride, count), DF(), to + i);
  }
}

template <class T>
T* At(const ScanRows& rows, int64_t token, int64_t head, int64_t element) {
  return reinterpret_cast<T*>(rows.data) + token * rows.token + head * rows.head +
         element * rows.element;
}

// One token's step of kRows rows: their states, and what C makes of these.
template <int kRows, bool kTied>
HWY_INLINE void Step(const Room& room, size_t dstate, int64_t row, int64_t t, const float* steps) {
  const DF d;
  const float* b = room.b + t * room.padded;
  const float* c = room.c + t * room.padded;
  float* state = room.state + row * room.padded;
  [[maybe_unused]] const float* a = room.a + row * room.padded;
  VF sum[kRows], input[kRows];
  [[maybe_unused]] VF step[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const float own = steps[kTied ? 0 : r];
    sum[r] = hn::Zero(d);
    input[r] = hn::Set(d, room.x[t * kScanRows + row + r] * own);
    step[r] = hn::Set(d, own);
  }
  const VF all = hn::Set(d, kTied ? room.decay[t] : 0.0f);
  ForVectors(dstate, [&](size_t i, size_t n) VK_INLINE_LAMBDA {
    const VF bi = hn::LoadU(d, b + i), ci = hn::LoadU(d, c + i);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      float* at = state + r * room.padded + i;
      VF decay = all;
      if constexpr (!kTied) decay = Exp(hn::Mul(hn::LoadU(d, a + r * room.padded + i), step[r]));
      const VF s = hn::MulAdd(hn::LoadU(d, at), decay, hn::Mul(input[r], bi));
      hn::StoreU(s, d, at);
      // Behind the state's end an infinite input would be a NaN.
      const VF product = n == kFloatLanes ? s : VF(hn::IfThenElseZero(hn::FirstN(d, n), s));
      sum[r] = hn::MulAdd(product, ci, sum[r]);
    }
  });
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) room.y[t * kScanRows + row + r] = hn::ReduceSum(d, sum[r]);
}

// The chunk's tokens for all rows, a few rows at a time.
template <bool kTied>
void Chunk(const SelectiveScan& scan, const Room& room, int64_t head, int64_t first_row,
           int64_t rows, int64_t token, int64_t count) {
  const auto steps = [&](int64_t t, int64_t row) {
    const int64_t at = ((token + t) * scan.heads + head) * scan.step_width;
    return scan.steps + at + (kTied ? 0 : first_row + row);
  };
  int64_t row = 0;
  for (; row + kTogether <= rows; row += kTogether) {
    for (int64_t t = 0; t < count; ++t) {
      Step<kTogether, kTied>(room, scan.dstate, row, t, steps(t, row));
    }
  }
  for (; row < rows; ++row) {
    for (int64_t t = 0; t < count; ++t) {
      Step<1, kTied>(room, scan.dstate, row, t, steps(t, row));
    }
  }
}

// One decay a token, where that is all that a head has.
void Decays(const SelectiveScan& scan, const Room& room, int64_t head, int64_t token,
            int64_t count) {
  const VF a = hn::Set(DF(), scan.a[head * scan.a_head]);
  const float* steps = scan.steps + token * scan.heads + head;
  ForVectors(count, [&](size_t i, size_t n) VK_INLINE_LAMBDA {
    const VF step = LoadStrided(steps + i * scan.heads, scan.heads, n);
    StoreUpTo(Exp(hn::Mul(a, step)), room.decay + i, n);
  });
}

// What the states give, with D and z.
template <class T>
void Results(const SelectiveScan& scan, const Room& room, int64_t head, int64_t first_row,
             int64_t rows, int64_t token, int64_t count) {
  for (int64_t t = 0; t < count; ++t) {
    const float* x = room.x + t * kScanRows;
    const float* y = room.y + t * kScanRows;
    ForVectors(rows, [&](size_t i, size_t n) VK_INLINE_LAMBDA {
      VF value = LoadUpTo(y + i, n);
      if (scan.d != nullptr) {
        const VF through = LoadUpTo(scan.d + head * scan.dim + first_row + i, n);
        value = hn::MulAdd(through, LoadUpTo(x + i, n), value);
      }
      const int64_t at = first_row + static_cast<int64_t>(i);
      if (scan.z.data != nullptr) {
        const VF gate = LoadStrided(At<const T>(scan.z, token + t, head, at), scan.z.element, n);
        value = hn::Mul(value, Silu()(gate));
      }
      StoreStrided(value, At<T>(scan.out, token + t, head, at), scan.out.element, n);
    });
  }
}

template <class S>
S* StateOf(const SelectiveScan& scan, int64_t slot, int64_t head, int64_t row) {
  return reinterpret_cast<S*>(scan.states) + slot * scan.slot + head * scan.head + row * scan.row;
}

template <class S>
void Keep(const SelectiveScan& scan, const Room& room, int64_t slot, int64_t head,
          int64_t first_row, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    S* to = StateOf<S>(scan, slot, head, first_row + row);
    const float* from = room.state + row * room.padded;
    ForVectors(scan.dstate, [=](size_t i, size_t n)
                                VK_INLINE_LAMBDA { StoreUpTo(LoadUpTo(from + i, n), to + i, n); });
  }
}

template <class S, class T>
void Scan(const SelectiveScan& scan, const ScanSequence& sequence, int64_t head, int64_t first_row,
          int64_t rows, float* scratch) {
  const Room room(scratch, scan.dstate);
  const bool tied = scan.tied();
  const int64_t group = head / scan.group;
  for (int64_t row = 0; row < rows; ++row) {
    LoadRow(room.state + row * room.padded,
            StateOf<const S>(scan, sequence.from, head, first_row + row), 1, scan.dstate);
    if (tied) continue;
    LoadRow(room.a + row * room.padded,
            scan.a + head * scan.a_head + (first_row + row) * scan.a_row, scan.a_element,
            scan.dstate);
  }
  // The state behind each drafted token is kept.
  const int64_t most = sequence.slots == nullptr ? kChunk : 1;
  for (int64_t done = 0; done < sequence.tokens; done += most) {
    const int64_t count = HWY_MIN(most, sequence.tokens - done), token = sequence.first + done;
    for (int64_t t = 0; t < count; ++t) {
      LoadRow(room.b + t * room.padded, At<const T>(scan.b, token + t, group, 0), scan.b.element,
              scan.dstate);
      LoadRow(room.c + t * room.padded, At<const T>(scan.c, token + t, group, 0), scan.c.element,
              scan.dstate);
      LoadRow(room.x + t * kScanRows, At<const T>(scan.x, token + t, head, first_row),
              scan.x.element, rows);
    }
    if (tied) {
      Decays(scan, room, head, token, count);
      Chunk<true>(scan, room, head, first_row, rows, token, count);
    } else {
      Chunk<false>(scan, room, head, first_row, rows, token, count);
    }
    Results<T>(scan, room, head, first_row, rows, token, count);
    if (sequence.slots == nullptr) continue;
    const int64_t slot = sequence.slots[done * sequence.slots_stride];
    if (slot != sequence.null_slot) Keep<S>(scan, room, slot, head, first_row, rows);
  }
  if (sequence.slots == nullptr && sequence.to >= 0) {
    Keep<S>(scan, room, sequence.to, head, first_row, rows);
  }
}

}  // namespace

using BF16 = hwy::bfloat16_t;
using F16 = hwy::float16_t;

extern const SelectiveScanTable selective_scan_table;
const SelectiveScanTable selective_scan_table = {
    {Steps<float>, Steps<BF16>, Steps<F16>},
    {WidenRow<float>, WidenRow<BF16>, WidenRow<F16>},
    ScratchFloats,
    {{Scan<float, float>, Scan<float, BF16>, Scan<float, F16>},
     {nullptr, Scan<BF16, BF16>, nullptr},
     {nullptr, nullptr, Scan<F16, F16>}},
};

}  // namespace vk::VK_TIER
