#include "cuda/cache/kernel.cuh"
#include "cuda/common/pdl.cuh"

namespace vk::cuda::cache {
namespace {

// The sequence that a token lies in: the last that starts at or before it; -1 past the end.
__device__ __forceinline__ int32_t SequenceOf(const Gather& gather, int64_t token) {
  if (gather.token_to_seq != nullptr) {
    const int32_t sequence = gather.token_to_seq[token];
    return sequence < gather.sequences ? sequence : -1;
  }
  int32_t low = 0, high = gather.sequences;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (gather.starts[middle + 1] <= token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < gather.sequences ? low : -1;
}

template <class Cached, class T, int N>
__global__ void __launch_bounds__(kThreads) GatherKernel(const __grid_constant__ Gather gather) {
  PdlPrologue();
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= gather.count) return;
  const FastDiv::Result piece = gather.pieces(index);
  const int64_t token = piece.quotient;
  const int32_t sequence = SequenceOf(gather, token);
  if (sequence < 0 || token >= gather.starts[sequence + 1]) return;
  int32_t position = static_cast<int32_t>(token) - gather.starts[sequence];
  if (gather.offsets != nullptr) position += gather.offsets[sequence];
  if (position < 0 || position / gather.block_size >= gather.pages) return;
  const int64_t block = gather.table[sequence * gather.table_stride + position / gather.block_size];
  if (block < 0 || block >= gather.blocks) return;
  const int64_t column = int64_t{piece.remainder} * N;
  const Cached* from = static_cast<const Cached*>(gather.from) + block * gather.from_block_stride +
                       position % gather.block_size * gather.from_slot_stride + column;
  T* to = static_cast<T*>(gather.to) + token * gather.to_stride + column;
  ReadVector<Cached, T, N>(from, to, gather.scale);
}

template <class From, class To, int N>
__global__ void __launch_bounds__(kThreads)
    ConvertKernel(const From* from, To* to, int64_t count, float scale) {
  PdlPrologue();
  const int64_t index = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (index >= count) return;
  if constexpr (sizeof(To) == 1) {
    const Vec<From, N> held[1] = {LoadVec<N>(from + index)};
    WriteVectors(held, to + index, &scale);
  } else {
    ReadVector<From, To, N>(from + index, to + index, &scale);
  }
}

template <class From, class To, int N>
void LaunchElements(const void* from, void* to, int64_t count, float scale, const Launch& launch) {
  const unsigned blocks = GridX(launch.op, CeilDiv(CeilDiv(count, N), kThreads));
  LaunchPdl(launch.op, ConvertKernel<From, To, N>, blocks, kThreads, 0, launch.stream,
            static_cast<const From*>(from), static_cast<To*>(to), count, scale);
}

}  // namespace

void LaunchGather(const Gather& gather, const Launch& launch) {
  if (gather.count == 0) return;
  const unsigned blocks = GridX(launch.op, CeilDiv(gather.count, kThreads));
  const auto run = [&](auto kernel) {
    LaunchPdl(launch.op, kernel, blocks, kThreads, 0, launch.stream, gather);
  };
  if (launch.format == Format::kSame) {
    if (launch.aligned) return run(GatherKernel<uint8_t, uint8_t, 16>);
    return run(GatherKernel<uint8_t, uint8_t, 1>);
  }
  DispatchCached(launch, [&](auto type, auto cached) {
    using T = typename decltype(type)::type;
    using Cached = typename decltype(cached)::type;
    if (launch.aligned) return run(GatherKernel<Cached, T, kVecSize<T>>);
    run(GatherKernel<Cached, T, 1>);
  });
}

void LaunchConvert(const void* from, void* to, int64_t count, float scale, bool to_cache,
                   const Launch& launch) {
  if (count == 0) return;
  DispatchCached(launch, [&](auto type, auto cached) {
    using T = typename decltype(type)::type;
    using Cached = typename decltype(cached)::type;
    if constexpr (!std::is_same_v<T, Cached>) {
      if (to_cache && launch.aligned) {
        LaunchElements<T, Cached, kVecSize<T>>(from, to, count, scale, launch);
      } else if (to_cache) {
        LaunchElements<T, Cached, 1>(from, to, count, scale, launch);
      } else if (launch.aligned) {
        LaunchElements<Cached, T, kVecSize<T>>(from, to, count, scale, launch);
      } else {
        LaunchElements<Cached, T, 1>(from, to, count, scale, launch);
      }
    }
  });
}

}  // namespace vk::cuda::cache
