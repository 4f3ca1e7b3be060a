// Latents of all layers into their caches, which are found by their addresses.
#include "cuda/cache/kernel.cuh"
#include "cuda/common/pdl.cuh"

namespace vk::cuda::cache {
namespace {

// N elements a thread; layers along the grid's second dimension.
template <class T, class Cached, int N>
__global__ void __launch_bounds__(kThreads)
    WriteGroupedKernel(const __grid_constant__ GroupedWrite write) {
  PdlPrologue();
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= write.count) return;
  const FastDiv::Result at = write.pieces(index);
  const int64_t layer = blockIdx.y, token = at.quotient;
  const int64_t slot = write.slots[layer * write.slot_layer + token];
  if (slot < 0) return;
  const int piece = static_cast<int>(at.remainder);
  const T* from = piece < write.latent_pieces
                      ? static_cast<const T*>(write.latents) + layer * write.latent_layer +
                            token * write.latent_token + piece * N
                      : static_cast<const T*>(write.ropes) + layer * write.rope_layer +
                            token * write.rope_token + (piece - write.latent_pieces) * N;
  Cached* to = reinterpret_cast<Cached*>(write.caches[layer]) +
               slot / write.block_size * write.block_stride +
               slot % write.block_size * write.entry_stride + piece * N;
  const float* scale = write.scales + layer;
  const Vec<T, N> held[1] = {LoadVec<N>(from)};
  if constexpr (N > 1) {
    if (reinterpret_cast<uintptr_t>(to) % (N * sizeof(Cached)) != 0) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const Vec<T, 1> one[1] = {{held[0][i]}};
        WriteVectors(one, to + i, scale);
      }
      return;
    }
  }
  WriteVectors(held, to, scale);
}

}  // namespace

void LaunchWriteGrouped(const GroupedWrite& write, const Launch& launch) {
  const dim3 grid(GridX(launch.op, CeilDiv(write.count, kThreads)),
                  static_cast<unsigned>(write.layers));
  DispatchCached(launch, [&](auto type, auto cached) {
    using T = typename decltype(type)::type;
    using Cached = typename decltype(cached)::type;
    const auto kernel = launch.aligned ? WriteGroupedKernel<T, Cached, kVecSize<T>>
                                       : WriteGroupedKernel<T, Cached, 1>;
    LaunchPdl(launch.op, kernel, grid, kThreads, 0, launch.stream, write);
  });
}

}  // namespace vk::cuda::cache
