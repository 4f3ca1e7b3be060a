// A GPU of one block for the kernels of csrc/cuda/attention: its threads are fibers that meet at
// their collective instructions. Shared memory starts as NaN. Slow, but it finds wrong indices and
// missing waits without a GPU.
#ifndef VLLM_KERNELS_TESTS_ATTENTION_DEVICE_H_
#define VLLM_KERNELS_TESTS_ATTENTION_DEVICE_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __launch_bounds__(...)

using std::isinf;
using std::max;
using std::min;

namespace emulation {

struct Index {
  unsigned x = 1, y = 1, z = 1;
};
inline Index thread_index, block_index, block_size, grid_size;

constexpr int kSharedBytes = 256 * 1024;
constexpr int kMaxThreads = 384;

[[noreturn]] inline void Fail(const char* what) {
  std::printf("emulation: %s\n", what);
  std::exit(2);
}

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
};
struct Meeting {
  int arrived = 0;
  int64_t generation = 0;
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline Meeting warp_meetings[kMaxThreads / 32], block_meeting;
inline ucontext_t scheduler;
inline int current = 0;
inline int64_t switches = 0;
inline std::function<void()> body;
inline unsigned char slots[kMaxThreads / 32][32][32];

inline void Yield() {
  if (++switches > 200'000'000) Fail("the threads wait for each other");
  swapcontext(&fibers[current]->context, &scheduler);
}

inline void Meet(Meeting& meeting, int size) {
  const int64_t generation = meeting.generation;
  if (++meeting.arrived == size) {
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  while (meeting.generation == generation) Yield();
}

inline int Lane() { return current % 32; }
inline void MeetWarp() { Meet(warp_meetings[current / 32], 32); }

// Every lane's value.
template <class T>
void Exchange(const T& mine, T (&all)[32]) {
  static_assert(sizeof(T) <= sizeof(slots[0][0]));
  std::memcpy(slots[current / 32][Lane()], &mine, sizeof(T));
  MeetWarp();
  for (int lane = 0; lane < 32; ++lane) {
    std::memcpy(&all[lane], slots[current / 32][lane], sizeof(T));
  }
  MeetWarp();
}

inline void Entry() {
  body();
  fibers[current]->done = true;
  Yield();
}

inline void RunBlock(int threads) {
  fibers.clear();
  block_meeting = Meeting{};
  std::fill(std::begin(warp_meetings), std::end(warp_meetings), Meeting{});
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
  switches = 0;
  for (bool running = true; running;) {
    running = false;
    for (current = 0; current < threads; ++current) {
      if (fibers[current]->done) continue;
      running = true;
      thread_index.x = static_cast<unsigned>(current);
      swapcontext(&scheduler, &fibers[current]->context);
    }
  }
}

}  // namespace emulation

namespace vk::cuda::attention {

// `extern __shared__` arrays of the kernels: two names for one memory.
alignas(1024) inline char shared_memory[emulation::kSharedBytes];
extern char shared[];
extern char unaligned[];

}  // namespace vk::cuda::attention

namespace emulation {

// The blocks of a grid, one after the other.
template <class Kernel>
void Launch(Index grid, int threads, const Kernel& kernel) {
  body = kernel;
  grid_size = grid;
  block_size.x = static_cast<unsigned>(threads);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        std::memset(vk::cuda::attention::shared_memory, 0xff, kSharedBytes);
        RunBlock(threads);
      }
    }
  }
}

}  // namespace emulation

#define threadIdx emulation::thread_index
#define blockIdx emulation::block_index
#define blockDim emulation::block_size
#define gridDim emulation::grid_size

inline void __syncthreads() {
  emulation::Meet(emulation::block_meeting, static_cast<int>(blockDim.x));
}
inline void __syncwarp() { emulation::MeetWarp(); }
inline float __shfl_xor_sync(unsigned, float value, int mask) {
  float all[32];
  emulation::Exchange(value, all);
  return all[emulation::Lane() ^ mask];
}
inline int __shfl_sync(unsigned, int value, int source) {
  int all[32];
  emulation::Exchange(value, all);
  return all[source];
}
inline bool __any_sync(unsigned, bool value) {
  bool all[32];
  emulation::Exchange(value, all);
  return std::find(std::begin(all), std::end(all), true) != std::end(all);
}
inline int atomicAdd(int32_t* at, int32_t value) {
  const int32_t old = *at;
  *at += value;
  return old;
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<uint32_t>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  }
  return out;
}

#endif  // VLLM_KERNELS_TESTS_ATTENTION_DEVICE_H_
