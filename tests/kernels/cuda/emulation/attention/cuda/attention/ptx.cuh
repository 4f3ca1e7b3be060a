// Stands for csrc/cuda/attention/ptx.cuh. An asynchronous copy arrives when it is waited for; until
// then its target is NaN.
#ifndef VLLM_KERNELS_TESTS_ATTENTION_PTX_CUH_
#define VLLM_KERNELS_TESTS_ATTENTION_PTX_CUH_

#include "cuda/common/dtype.cuh"
#include "device.h"

namespace vk::cuda::attention {

inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const char*>(pointer) - shared_memory);
}

template <bool kTransposed>
void LoadFragments(uint32_t (&r)[4], uint32_t address) {
  uint32_t all[32];
  if (address % 16 != 0 || address + 16 > emulation::kSharedBytes)
    emulation::Fail("matrix address");
  emulation::Exchange(address, all);
  const int lane = emulation::Lane();
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i) {
      const int row = kTransposed ? 2 * (lane % 4) + i : lane / 4;
      const int column = kTransposed ? lane / 4 : 2 * (lane % 4) + i;
      std::memcpy(&pair[i], shared_memory + all[8 * matrix + row] + 2 * column, 2);
    }
    r[matrix] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
}
inline void LoadMatrices(uint32_t (&r)[4], uint32_t address) { LoadFragments<false>(r, address); }
inline void LoadMatricesTransposed(uint32_t (&r)[4], uint32_t address) {
  LoadFragments<true>(r, address);
}

template <class T>
float HalfOf(uint32_t pair, int index) {
  const uint16_t bits = static_cast<uint16_t>(pair >> (16 * index));
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, 2);
  return ToFloat(value);
}

struct Fragment {
  uint32_t a[4], b[2];
};

template <class T>
void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Fragment all[32];
  emulation::Exchange(Fragment{{a[0], a[1], a[2], a[3]}, {b0, b1}}, all);
  const int group = emulation::Lane() / 4, t = emulation::Lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int half = i / 2, column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      const float x = HalfOf<T>(all[4 * group + k % 8 / 2].a[half + 2 * (k / 8)], k & 1);
      c[i] += x * HalfOf<T>(all[4 * column + k % 8 / 2].b[k / 8], k & 1);
    }
  }
}

struct Copy {
  void* to;
  const void* from;
};
struct Copies {
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
};
inline Copies copies[emulation::kMaxThreads];

inline void CopyAsync(void* to, const void* from, bool valid) {
  const bool aligned =
      SharedAddress(to) % 16 == 0 && (!valid || reinterpret_cast<uintptr_t>(from) % 16 == 0);
  if (!aligned) emulation::Fail("copy of an address that is no multiple of 16 bytes");
  std::memset(to, 0x7f, 16);
  copies[emulation::current].open.push_back({to, valid ? from : nullptr});
}
inline void CommitCopies() {
  Copies& mine = copies[emulation::current];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}
template <int kPending>
void WaitCopies() {
  auto& groups = copies[emulation::current].groups;
  while (static_cast<int>(groups.size()) > kPending) {
    for (const Copy& copy : groups.front()) {
      if (copy.from != nullptr) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

inline float Exp2(float x) { return std::exp2(x); }
inline float Tanh(float x) { return std::tanh(x); }

template <class T>
uint32_t Pack(float low, float high) {
  const T values[2] = {FromFloat<T>(low), FromFloat<T>(high)};
  uint32_t bits;
  std::memcpy(&bits, values, 4);
  return bits;
}

template <class T, class KV>
using Operand = std::conditional_t<sizeof(KV) == 1, vk::cuda::Half, T>;

template <class T, class To>
uint32_t ToOperands(uint32_t pair) {
  return Pack<To>(HalfOf<T>(pair, 0), HalfOf<T>(pair, 1));
}

template <class T>
uint32_t FromFp8(uint32_t pair) {
  E4M3 low, high;
  low.__x = static_cast<uint8_t>(pair);
  high.__x = static_cast<uint8_t>(pair >> 8);
  return Pack<T>(ToFloat(low), ToFloat(high));
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_TESTS_ATTENTION_PTX_CUH_
