#include "cuda/cache/indexer.h"

#include "cuda/cache/kernel.cuh"
#include "cuda/common/reduce.cuh"

namespace vk::cuda::cache {
namespace {

constexpr int kElements = 4;  // neighbouring elements of a thread

// A warp quantises 128 elements of a token at a time; kLanes of its lanes share a scale.
template <class T, int kLanes>
__global__ void __launch_bounds__(kThreads)
    IndexerWriteKernel(const __grid_constant__ IndexerWrite w) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t warp = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  const int parts = (w.head + 32 * kElements - 1) / (32 * kElements);
  const int64_t token = warp / parts;
  if (token >= w.tokens) return;
  const int64_t slot = w.slots[token];
  if (slot < 0 || slot >= w.slot_limit) return;
  const int column = static_cast<int>(warp % parts) * 32 * kElements + lane * kElements;
  const bool mine = column < w.head;
  const T* from = static_cast<const T*>(w.keys) + token * w.key_stride + column;
  float x[kElements] = {}, most = 0.0f;
  if (mine) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      x[i] = ToFloat(from[i]);
      most = fmaxf(most, fabsf(x[i]));
    }
  }
  most = ReduceLanes<kLanes>(most, Max());
  float scale = __fdiv_rn(fmaxf(most, 1e-4f), kQuantMax<E4M3>);
  if (w.powers) {
    // The next power of two: the exponent, one more where the mantissa is not zero.
    const uint32_t bits = __float_as_uint(scale);
    scale = __uint_as_float((bits + 0x7fffffu) & 0xff800000u);
  }
  const Divisor divisor(scale);
#pragma unroll
  for (int i = 0; i < kElements; ++i) x[i] = divisor.Quotient(x[i], 2.0f * kQuantMax<E4M3>);
  if (!mine) return;
  uint8_t* block = w.cache + slot / w.block_size * w.block_stride;
  const int64_t at = slot % w.block_size * w.head + column;
  StoreVec(reinterpret_cast<E4M3*>(block + at), FromFloats<E4M3>(x));
  if (lane % kLanes == 0) {
    float* scales = reinterpret_cast<float*>(block + int64_t{w.block_size} * w.head);
    scales[at / w.group] = scale;
  }
}

// Four bytes a thread, of a token's keys and then of its scales.
__global__ void __launch_bounds__(kThreads)
    IndexerGatherKernel(const __grid_constant__ IndexerGather g) {
  const int words = (g.head + g.scale_bytes) / 4;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x, token = index / words;
  if (token >= g.tokens) return;
  int32_t low = 0, high = g.sequences;  // the last sequence that starts at or before the token
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (g.starts[middle + 1] <= token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low >= g.sequences || token < g.starts[low]) return;
  const int32_t position = static_cast<int32_t>(token) - g.starts[low];
  const int32_t page = position / g.block_size, slot = position % g.block_size;
  if (page >= g.pages) return;
  const int64_t block = g.table[low * g.table_stride + page];
  if (block < 0 || block >= g.blocks) return;
  const uint8_t* from = g.cache + block * g.block_stride;
  int byte = static_cast<int>(index % words) * 4;
  uint8_t* to = g.keys + token * g.key_stride + byte;
  if (byte < g.head) {
    from += int64_t{slot} * g.head + byte;
  } else {
    byte -= g.head;
    to = g.scales + token * g.scale_stride + byte;
    from += int64_t{g.block_size} * g.head + int64_t{slot} * g.scale_bytes + byte;
  }
  *reinterpret_cast<uint32_t*>(to) = *reinterpret_cast<const uint32_t*>(from);
}

}  // namespace

void LaunchIndexerWrite(const IndexerWrite& write, const Launch& launch) {
  if (write.tokens == 0 || write.head == 0) return;
  const int64_t warps = write.tokens * CeilDiv(write.head, 32 * kElements);
  const unsigned blocks = GridX(launch.op, CeilDiv(warps * 32, kThreads));
  DispatchFloating(launch.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto kernel = write.group == 32   ? &IndexerWriteKernel<T, 32 / kElements>
                        : write.group == 64 ? &IndexerWriteKernel<T, 64 / kElements>
                                            : &IndexerWriteKernel<T, 128 / kElements>;
    kernel<<<blocks, kThreads, 0, launch.stream>>>(write);
    CheckLaunch(launch.op);
  });
}

void LaunchIndexerGather(const IndexerGather& gather, const Launch& launch) {
  const int64_t words = int64_t{gather.tokens} * (gather.head + gather.scale_bytes) / 4;
  if (words == 0) return;
  const unsigned blocks = GridX(launch.op, CeilDiv(words, kThreads));
  IndexerGatherKernel<<<blocks, kThreads, 0, launch.stream>>>(gather);
  CheckLaunch(launch.op);
}

}  // namespace vk::cuda::cache
