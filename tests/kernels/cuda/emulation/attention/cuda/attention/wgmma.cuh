// Stands for csrc/cuda/attention/wgmma.cuh. Products are computed when they are waited for, from
// the descriptors' layouts; bulk copies arrive late and their targets are NaN until then.
#ifndef VLLM_KERNELS_TESTS_ATTENTION_WGMMA_CUH_
#define VLLM_KERNELS_TESTS_ATTENTION_WGMMA_CUH_

#include <cuda.h>

#include <map>

#include "cuda/attention/ptx.cuh"

#define __CUDA_ARCH_FEAT_SM90_ALL

namespace vk::cuda::attention {

using Work = std::function<void()>;

// Matrices in the 128-byte swizzle: bits 4 to 6 of an address are XORed with bits 7 to 9.
inline char* Swizzled(uint32_t address) {
  if (address >= emulation::kSharedBytes) emulation::Fail("address outside of shared memory");
  return shared_memory + (address ^ (address >> 7 & 7) << 4);
}
template <class T>
float ElementAt(uint32_t address) {
  T value;
  std::memcpy(static_cast<void*>(&value), Swizzled(address), 2);
  return ToFloat(value);
}

inline uint64_t KMajor(uint32_t address) { return address; }
template <int kPanelBytes>
uint64_t MnMajor(uint32_t address) {
  return uint64_t{kPanelBytes} << 32 | address;
}
template <class T>
float KMajorElement(uint64_t matrix, int row, int k) {
  return ElementAt<T>(static_cast<uint32_t>(matrix) + static_cast<uint32_t>(row * 128 + k * 2));
}
template <class T>
float MnMajorElement(uint64_t matrix, int column, int k) {
  const uint32_t panel = static_cast<uint32_t>(matrix >> 32);
  return ElementAt<T>(static_cast<uint32_t>(matrix) + column / 64 * panel +
                      static_cast<uint32_t>(k * 128 + column % 64 * 2));
}

struct Products {
  std::vector<Work> open;
  std::vector<std::vector<Work>> groups;
};
inline Products products[emulation::kMaxThreads];

inline void StoreSink(uint32_t address, float value) {
  if (address + 4 > emulation::kSharedBytes) emulation::Fail("address outside of shared memory");
  std::memcpy(shared_memory + address, &value, 4);
}
template <int kCount>
void Pin(float (&)[kCount]) {}
inline void WgmmaFence() {}
inline void WgmmaCommit() {
  Products& mine = products[emulation::current];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}
template <int kPending>
void WgmmaWait() {
  auto& groups = products[emulation::current].groups;
  while (static_cast<int>(groups.size()) > kPending) {
    for (const Work& work : groups.front()) work();
    groups.erase(groups.begin());
  }
}

// d[4 i + 2 half + e] is row 16 warp + lane / 4 + 8 half, column 8 i + 2 (lane % 4) + e.
template <int kCount, class A, class B>
void Multiply(float* d, int lane, bool add, const A& a, const B& b) {
  for (int i = 0; i < kCount; ++i) {
    const int half = i / 2 % 2, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    float total = add ? d[i] : 0.0f;
    for (int k = 0; k < 16; ++k) total += a(half, k) * b(column, k);
    d[i] = total;
  }
}

template <class T, int kCount>
void WgmmaShared(float (&d)[kCount], uint64_t desc_a, uint64_t desc_b, int add) {
  float* target = d;
  const int lane = emulation::Lane(), row = emulation::current / 32 % 4 * 16 + lane / 4;
  products[emulation::current].open.push_back([=] {
    Multiply<kCount>(
        target, lane, add != 0,
        [&](int half, int k) { return KMajorElement<T>(desc_a, row + 8 * half, k); },
        [&](int column, int k) { return KMajorElement<T>(desc_b, column, k); });
  });
}

template <class T, int kCount>
void WgmmaRegisters(float (&d)[kCount], const uint32_t (&a)[4], uint64_t desc_b) {
  Fragment all[32];
  emulation::Exchange(Fragment{{a[0], a[1], a[2], a[3]}, {}}, all);
  std::vector<Fragment> fragments(all, all + 32);
  float* target = d;
  const int lane = emulation::Lane();
  products[emulation::current].open.push_back([=] {
    Multiply<kCount>(
        target, lane, true,
        [&](int half, int k) {
          return HalfOf<T>(fragments[lane / 4 * 4 + k % 8 / 2].a[half + 2 * (k / 8)], k & 1);
        },
        [&](int column, int k) { return MnMajorElement<T>(desc_b, column, k); });
  });
}

struct Barrier {
  int count, pending, bytes, phase;
  std::vector<Work> copies;  // on their way
};
inline std::map<uint32_t, Barrier> barriers;

inline void Complete(Barrier& barrier) {
  if (barrier.pending < 0) emulation::Fail("more arrivals than the barrier counts");
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.count;
  ++barrier.phase;
}
inline void BarrierInit(uint32_t barrier, int arrivals) {
  barriers[barrier] = {arrivals, arrivals, 0, 0, {}};
}
inline void BarrierInitFence() {}
inline void BarrierExpect(uint32_t barrier, int bytes) {
  barriers.at(barrier).bytes += bytes;
  --barriers.at(barrier).pending;
  Complete(barriers.at(barrier));
}
inline void BarrierArrive(uint32_t barrier) {
  --barriers.at(barrier).pending;
  Complete(barriers.at(barrier));
}
inline void BarrierWait(uint32_t barrier, int parity) {
  Barrier& waited = barriers.at(barrier);
  for (int turns = 0; (waited.phase & 1) == parity; ++turns) {
    while (turns > 2 && !waited.copies.empty()) {
      const Work copy = std::move(waited.copies.back());
      waited.copies.pop_back();
      copy();
    }
    emulation::Yield();
  }
}

inline emulation::Meeting named_barriers[16];
inline void NamedArrive(int barrier, int threads) {
  if (barrier < 1 || barrier > 15) emulation::Fail("number of a named barrier");
  emulation::Meeting& meeting = named_barriers[barrier];
  if (++meeting.arrived < threads) return;
  meeting.arrived = 0;
  ++meeting.generation;
}
inline void NamedSync(int barrier, int threads) {
  const int64_t generation = named_barriers[barrier].generation;
  NamedArrive(barrier, threads);
  while (named_barriers[barrier].generation == generation) emulation::Yield();
}

inline void FenceAsync() {}
template <int kRegisters>
void RegistersMore() {}
template <int kRegisters>
void RegistersFewer() {}

// What a test puts into a CUtensorMap; strides in bytes.
struct Map {
  const char* data;
  int dims;
  int64_t size[4], stride[3];
  uint32_t box[4];
};
static_assert(sizeof(Map) <= sizeof(CUtensorMap));

inline void CopyBoxOf(uint32_t to, const CUtensorMap* tensor, uint32_t barrier,
                      std::vector<int32_t> at) {
  const Map map = *reinterpret_cast<const Map*>(tensor);
  uint32_t rows = 1;
  for (int dim = 1; dim < map.dims; ++dim) rows *= map.box[dim];
  if (map.dims != static_cast<int>(at.size()) || to % 128 != 0) emulation::Fail("box of a copy");
  std::memset(shared_memory + to, 0x7f, rows * 128);
  barriers.at(barrier).copies.push_back([=] {
    for (uint32_t row = 0; row < rows; ++row) {
      int64_t offset = 0;
      bool inside = true;
      uint32_t rest = row;
      for (int dim = 1; dim < map.dims; ++dim) {
        const int64_t index = at[dim] + static_cast<int64_t>(rest % map.box[dim]);
        rest /= map.box[dim];
        inside = inside && index >= 0 && index < map.size[dim];
        offset += index * map.stride[dim - 1];
      }
      for (int x = 0; x < 64; ++x) {
        const int64_t column = at[0] + x;
        uint16_t value = 0;
        if (inside && column < map.size[0]) {
          std::memcpy(&value, map.data + offset + 2 * column, 2);
        }
        std::memcpy(Swizzled(to + row * 128 + static_cast<uint32_t>(x) * 2), &value, 2);
      }
    }
    barriers.at(barrier).bytes -= static_cast<int>(rows * 128);
    Complete(barriers.at(barrier));
  });
}
inline void CopyBox(uint32_t to, const CUtensorMap* map, uint32_t barrier, int32_t x, int32_t y,
                    int32_t z) {
  CopyBoxOf(to, map, barrier, {x, y, z});
}
inline void CopyBox(uint32_t to, const CUtensorMap* map, uint32_t barrier, int32_t x, int32_t y,
                    int32_t z, int32_t w) {
  CopyBoxOf(to, map, barrier, {x, y, z, w});
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_TESTS_ATTENTION_WGMMA_CUH_
