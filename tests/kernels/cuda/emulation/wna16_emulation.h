// A GPU of one block for the kernel of csrc/cuda/wna16: its threads are fibers, warps meet at their
// collective instructions, and an asynchronous copy arrives when it is waited for, not earlier;
// until then its target holds garbage. Slow, but it finds wrong indices and races without a GPU.
#ifndef VLLM_KERNELS_TESTS_WNA16_EMULATION_H_
#define VLLM_KERNELS_TESTS_WNA16_EMULATION_H_

#include <immintrin.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__
#define __align__(bytes)

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct Index {
  unsigned x = 0, y = 0, z = 0;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

struct Copy {
  void* to;
  unsigned char bytes[16];
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;
};

struct Meeting {  // of a warp or a block
  int size = 0, arrived = 0;
  int64_t generation = 0;
};

struct Warp {
  Meeting meeting;
  uint32_t a[32][4], b[32][2];
  float c[32][4];
  const void* address[32];
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline std::vector<Warp> warps;
inline Meeting block;
inline ucontext_t scheduler;
inline int current = 0;
inline std::function<void()> body;

inline void Yield() { swapcontext(&fibers[current]->context, &scheduler); }

inline void Meet(Meeting& meeting) {
  const int64_t generation = meeting.generation;
  if (++meeting.arrived == meeting.size) {
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  while (meeting.generation == generation) Yield();
}

inline void Entry() {
  body();
  fibers[current]->done = true;
  Yield();
}

// Runs `kernel` as block `index` of `blocks`, `threads` wide.
inline void RunBlock(int index, int blocks, int threads, const std::function<void()>& kernel) {
  body = kernel;
  blockIdx.x = static_cast<unsigned>(index);
  gridDim.x = static_cast<unsigned>(blocks);
  blockDim.x = static_cast<unsigned>(threads);
  fibers.clear();
  warps.assign(static_cast<size_t>(threads / 32), Warp{});
  for (Warp& warp : warps) warp.meeting.size = 32;
  block = Meeting{};
  block.size = threads;
  for (int thread = 0; thread < threads; ++thread) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack.resize(128 * 1024);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.data();
    fiber->context.uc_stack.ss_size = fiber->stack.size();
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, Entry, 0);
    fibers.push_back(std::move(fiber));
  }
  for (bool running = true; running;) {
    running = false;
    for (current = 0; current < threads; ++current) {
      if (fibers[current]->done) continue;
      running = true;
      threadIdx.x = static_cast<unsigned>(current);
      swapcontext(&scheduler, &fibers[current]->context);
    }
  }
}

inline Warp& MyWarp() { return warps[current / 32]; }
inline int Lane() { return current % 32; }
inline void MeetWarp() { Meet(MyWarp().meeting); }

inline float Bf16ToFloat(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint16_t FloatToBf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace emulation

inline void __syncthreads() { emulation::Meet(emulation::block); }
inline void __syncwarp() { emulation::MeetWarp(); }
template <class T>
inline T __ldcg(const T* at) {
  return *at;
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<uint32_t>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  }
  return out;
}

namespace vk::cuda::wna16 {

using std::max;
using std::min;

inline void LetNextStart() {}
inline void WaitForPrevious() {}
inline void PrefetchL2(const void* global, int bytes) {
  volatile char last = static_cast<const char*>(global)[bytes - 1];  // a sanitizer sees overruns
  (void)last;
}
inline int32_t AddInOrder(int32_t* at, int32_t value) {
  const int32_t old = *at;
  *at += value;
  return old;
}
inline void CopyAsync16(void* shared, const void* global, bool valid) {
  emulation::Copy copy{shared, {}};
  if (valid) std::memcpy(copy.bytes, global, 16);
  std::memset(shared, 0xee, 16);
  emulation::fibers[emulation::current]->open.push_back(copy);
}
inline void CopyCommit() {
  emulation::Fiber& fiber = *emulation::fibers[emulation::current];
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}
template <int kPending>
inline void CopyWait() {
  auto& groups = emulation::fibers[emulation::current]->groups;
  while (groups.size() > kPending) {
    for (const emulation::Copy& copy : groups.front()) std::memcpy(copy.to, copy.bytes, 16);
    groups.erase(groups.begin());
  }
}

inline void LoadMatrices(uint32_t* r, int count, const void* shared) {
  emulation::Warp& warp = emulation::MyWarp();
  const int lane = emulation::Lane();
  warp.address[lane] = shared;
  emulation::MeetWarp();
  for (int i = 0; i < count; ++i) {
    const char* row = static_cast<const char*>(warp.address[8 * i + lane / 4]);
    std::memcpy(&r[i], row + lane % 4 * 4, 4);
  }
  emulation::MeetWarp();
}
inline void LoadMatrix4(uint32_t (&r)[4], const void* shared) { LoadMatrices(r, 4, shared); }
inline void LoadMatrix2(uint32_t (&r)[2], const void* shared) { LoadMatrices(r, 2, shared); }

template <uint32_t kMask, uint32_t kBits>
inline uint32_t AndOr(uint32_t x) {
  return (x & kMask) | kBits;
}
template <uint32_t kMask, uint32_t kBits>
inline uint32_t AndXor(uint32_t x) {
  return (x & kMask) ^ kBits;
}

template <class Self>
struct Float16 {
  template <class Operation>
  static uint32_t Pairwise(uint32_t x, uint32_t y, Operation operation) {
    const auto one = [&](int shift) {
      const float z = operation(Self::ToFloat(static_cast<uint16_t>(x >> shift)),
                                Self::ToFloat(static_cast<uint16_t>(y >> shift)));
      return static_cast<uint32_t>(Self::FromFloat(z)) << shift;
    };
    return one(0) | one(16);
  }
  static uint32_t Sub2(uint32_t x, uint32_t y) {
    return Pairwise(x, y, [](float s, float t) { return s - t; });
  }
  static uint32_t Mul2(uint32_t x, uint32_t y) {
    return Pairwise(x, y, [](float s, float t) { return s * t; });
  }
  static void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  const float (&c)[4]) {
    emulation::Warp& warp = emulation::MyWarp();
    const int lane = emulation::Lane();
    std::memcpy(warp.a[lane], a, sizeof(a));
    std::memcpy(warp.b[lane], b, sizeof(b));
    const float start[4] = {c[0], c[1], c[2], c[3]};
    emulation::MeetWarp();
    for (int e = 0; e < 4; ++e) {
      const int row = lane / 4 + 8 * (e / 2), column = 2 * (lane % 4) + e % 2;
      double sum = start[e];
      for (int k = 0; k < 16; ++k) {
        const uint32_t x = warp.a[row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)];
        const uint32_t y = warp.b[column * 4 + k % 8 / 2][k / 8];
        sum += static_cast<double>(Self::ToFloat(static_cast<uint16_t>(x >> (16 * (k % 2))))) *
               Self::ToFloat(static_cast<uint16_t>(y >> (16 * (k % 2))));
      }
      d[e] = static_cast<float>(sum);
    }
    emulation::MeetWarp();
  }
};

struct Bf16Arithmetic : Float16<Bf16Arithmetic> {
  static float ToFloat(uint16_t x) { return emulation::Bf16ToFloat(x); }
  static uint16_t FromFloat(float x) { return emulation::FloatToBf16(x); }
};
struct Fp16Arithmetic : Float16<Fp16Arithmetic> {
  static float ToFloat(uint16_t x) { return _cvtsh_ss(x); }
  static uint16_t FromFloat(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }
};

// Dynamic shared memory.
alignas(128) inline unsigned char vk_shared[256 * 1024];

}  // namespace vk::cuda::wna16

#endif  // VLLM_KERNELS_TESTS_WNA16_EMULATION_H_
