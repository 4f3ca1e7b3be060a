// A GPU of one cluster of blocks: its threads are fibers that meet at their collective
// instructions. Shared memory starts as NaN; asynchronous copies arrive, and products are computed,
// as late as the waits allow. Slow, but it finds wrong indices and missing waits without a GPU.
//
// The kernels' own sources are compiled for the host with this folder first on the include path:
// cuda/ptx stands for the headers of csrc/cuda/ptx.
#ifndef VLLM_KERNELS_TESTS_EMULATION_DEVICE_H_
#define VLLM_KERNELS_TESTS_EMULATION_DEVICE_H_

#include <cuda.h>
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
#include <map>
#include <memory>
#include <vector>

#define __launch_bounds__(...)
#define __CUDA_ARCH_FEAT_SM90_ALL

using std::isfinite;
using std::isinf;
using std::max;
using std::min;

// Dynamic shared memory of the running block. VK_EMULATED_SHARED(mangled name) makes the kernels'
// `extern __shared__` array of that name another name for it.
constexpr int kEmulatedSharedBytes = 256 * 1024;
extern "C" {
alignas(1024) inline char emulated_shared_memory[kEmulatedSharedBytes];
}
#define VK_EMULATED_SHARED(name) asm(".globl " name "\n.set " name ", emulated_shared_memory\n")

namespace emulation {

using Work = std::function<void()>;

[[noreturn]] inline void Fail(const char* what) {
  std::printf("emulation: %s\n", what);
  std::exit(2);
}

struct Index {
  unsigned x = 1, y = 1, z = 1;
};
inline Index thread_index, block_index, block_size, grid_size;

struct Meeting {
  int arrived = 0;
  int64_t generation = 0;
  bool any = false, any_of_last = false;  // of what threads bring to it
};

// Asynchronous work that a thread commits in groups and waits for.
struct Groups {
  std::vector<Work> open;
  std::vector<std::vector<Work>> committed;  // oldest first

  void Commit() {
    committed.push_back(std::move(open));
    open.clear();
  }
  void Wait(int pending) {
    while (static_cast<int>(committed.size()) > pending) {
      for (const Work& work : committed.front()) work();
      committed.erase(committed.begin());
    }
  }
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done;
  Groups copies, products;
};

inline int64_t waits = 0;  // since a thread last went on

struct Mbarrier {
  int count, pending, bytes, phase;
  std::vector<Work> copies;  // on their way

  void Complete() {
    if (pending < 0) Fail("more arrivals than the barrier counts");
    if (pending > 0 || bytes != 0) return;
    pending = count;
    ++phase;
    waits = 0;
  }
};

struct Block {
  Index index;
  std::vector<Fiber> fibers;
  std::vector<Meeting> warps;
  std::vector<unsigned char> slots;  // of 32 bytes a thread, for Exchange()
  Meeting all, named[16];
  std::map<uint32_t, Mbarrier> mbarriers;
  std::vector<char> shared;  // while another block runs
};

inline std::vector<Block> cluster;
inline Meeting cluster_meeting;
inline ucontext_t scheduler;
inline int running = 0;  // block of the cluster
inline int current = 0;  // thread of the block
inline Work body;

inline Block& MyBlock() { return cluster[running]; }
inline Fiber& MyFiber() { return MyBlock().fibers[current]; }
inline int Lane() { return current % 32; }

// Every wait ends here. Meetings, barriers and threads that end set `waits` to 0; what waits for
// memory alone goes on within a few turns, or never.
inline void Yield() {
  if (++waits > 4'000'000) Fail("the threads wait for each other");
  swapcontext(&MyFiber().context, &scheduler);
}

inline void Arrive(Meeting& meeting, int size) {
  if (++meeting.arrived < size) return;
  meeting.arrived = 0;
  ++meeting.generation;
  meeting.any_of_last = meeting.any;
  meeting.any = false;
  waits = 0;
}
inline void Meet(Meeting& meeting, int size) {
  const int64_t generation = meeting.generation;
  Arrive(meeting, size);
  while (meeting.generation == generation) Yield();
}
inline void MeetWarp() { Meet(MyBlock().warps[current / 32], 32); }

// Every lane's value.
template <class T>
void Exchange(const T& mine, T (&all)[32]) {
  static_assert(sizeof(T) <= 32);
  unsigned char* slots = &MyBlock().slots[current / 32 * 32 * 32];
  std::memcpy(slots + Lane() * 32, &mine, sizeof(T));
  MeetWarp();
  for (int lane = 0; lane < 32; ++lane) std::memcpy(&all[lane], slots + lane * 32, sizeof(T));
  MeetWarp();
}

// `bytes` bytes at an address of shared memory.
inline char* Shared(uint32_t address, uint32_t bytes, uint32_t alignment = 1) {
  if (address > kEmulatedSharedBytes - bytes) Fail("address outside of shared memory");
  if (address % alignment != 0) Fail("address in shared memory is not aligned");
  return emulated_shared_memory + address;
}

// In the 128-byte swizzle bits 4 to 6 of an address are XORed with bits 7 to 9.
inline char* Swizzled(uint32_t address, uint32_t bytes) {
  return Shared(address ^ (address >> 7 & 7) << 4, bytes);
}

// A copy to shared memory that completes on an mbarrier: NaN until then.
inline void CopyLate(uint32_t shared, uint32_t bytes, uint32_t barrier, Work copy) {
  std::memset(Shared(shared, bytes, 16), 0x7f, bytes);
  Mbarrier& waited = MyBlock().mbarriers.at(barrier);
  waited.copies.push_back([&waited, bytes, copy = std::move(copy)] {
    copy();
    waited.bytes -= static_cast<int>(bytes);
    waited.Complete();
  });
}

// What a test puts into a CUtensorMap. Boxes are rows of 128 bytes in the 128-byte swizzle, or of
// any multiple of 16 where they are plain.
struct Map {
  const char* data;
  int dims, item;              // bytes of an element
  int64_t size[4], stride[3];  // strides in bytes
  uint32_t box[4];
  bool plain = false;
};
static_assert(sizeof(Map) <= sizeof(CUtensorMap));
inline CUtensorMap Encode(const Map& map) {
  CUtensorMap encoded = {};
  std::memcpy(static_cast<void*>(&encoded), &map, sizeof(map));
  return encoded;
}

inline void Entry() {
  body();
  MyFiber().done = true;
  waits = 0;
  Yield();
}

inline void StartBlock(Block& block, Index index, int threads) {
  block.index = index;
  block.fibers.resize(static_cast<size_t>(threads));
  block.warps.assign(static_cast<size_t>(threads + 31) / 32, Meeting{});
  block.slots.resize(static_cast<size_t>(threads) * 32);
  block.all = Meeting{};
  std::fill(std::begin(block.named), std::end(block.named), Meeting{});
  block.mbarriers.clear();
  block.shared.assign(kEmulatedSharedBytes, static_cast<char>(0xff));
  constexpr size_t kStackBytes = 128 * 1024;
  for (Fiber& fiber : block.fibers) {
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    fiber.done = false;
    fiber.copies = fiber.products = Groups{};
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, Entry, 0);
  }
}

// Every thread of the block, up to its next wait. Whether one of them goes on.
inline bool RunBlock(int index) {
  running = index;
  Block& block = MyBlock();
  block_index = block.index;
  bool going = false;
  for (current = 0; current < static_cast<int>(block.fibers.size()); ++current) {
    if (block.fibers[current].done) continue;
    going = true;
    thread_index.x = static_cast<unsigned>(current);
    swapcontext(&scheduler, &block.fibers[current].context);
  }
  return going;
}

inline void RunCluster() {
  waits = 0;
  cluster_meeting = Meeting{};
  const auto swap = [](Block& block) {
    std::swap_ranges(block.shared.begin(), block.shared.end(), emulated_shared_memory);
  };
  if (cluster.size() == 1) {
    swap(cluster[0]);
    while (RunBlock(0)) {
    }
    return;
  }
  for (bool going = true; going;) {
    going = false;
    for (int index = 0; index < static_cast<int>(cluster.size()); ++index) {
      swap(cluster[index]);
      going = RunBlock(index) || going;
      swap(cluster[index]);
    }
  }
}

// The cluster of a grid that starts with block `first`, of `blocks` blocks in x.
inline void LaunchCluster(Index first, int threads, unsigned blocks = 1) {
  block_size.x = static_cast<unsigned>(threads);
  cluster.resize(blocks);
  for (unsigned i = 0; i < blocks; ++i) {
    StartBlock(cluster[i], {first.x + i, first.y, first.z}, threads);
  }
  RunCluster();
}

inline void SetGrid(Index grid, const Work& kernel) {
  body = kernel;
  grid_size = grid;
}

// All clusters of a grid, one after the other.
inline void Launch(Index grid, int threads, const Work& kernel, unsigned blocks = 1) {
  SetGrid(grid, kernel);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; x += blocks) LaunchCluster({x, y, z}, threads, blocks);
    }
  }
}

}  // namespace emulation

#define threadIdx emulation::thread_index
#define blockIdx emulation::block_index
#define blockDim emulation::block_size
#define gridDim emulation::grid_size

inline void __syncthreads() {
  emulation::Meet(emulation::MyBlock().all, static_cast<int>(blockDim.x));
}
inline void __syncwarp() { emulation::MeetWarp(); }
template <class T>
T __shfl_sync(unsigned, T value, int source) {
  T all[32];
  emulation::Exchange(value, all);
  return all[source];
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return __shfl_sync(0, value, emulation::Lane() ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int distance) {
  const int lane = emulation::Lane();
  return __shfl_sync(0, value, lane >= distance ? lane - distance : lane);
}
inline bool __any_sync(unsigned, bool value) {
  bool all[32];
  emulation::Exchange(value, all);
  return std::find(std::begin(all), std::end(all), true) != std::end(all);
}
inline uint32_t __ballot_sync(unsigned, bool value) {
  bool all[32];
  emulation::Exchange(value, all);
  uint32_t bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= static_cast<uint32_t>(all[lane]) << lane;
  return bits;
}
inline int __reduce_add_sync(unsigned, int value) {
  int all[32];
  emulation::Exchange(value, all);
  int sum = 0;
  for (const int one : all) sum += one;
  return sum;
}
inline int atomicAdd(int32_t* at, int32_t value) {
  const int32_t old = *at;
  *at += value;
  return old;
}
inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<uint32_t>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  }
  return out;
}
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float __fdividef(float x, float y) { return x / y; }
template <class T>
T __ldcg(const T* at) {
  return *at;
}
template <class T>
T __ldg(const T* at) {
  return *at;
}

#endif  // VLLM_KERNELS_TESTS_EMULATION_DEVICE_H_
