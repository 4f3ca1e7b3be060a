#include "cuda/cache/kernel.cuh"
#include "cuda/common/pdl.cuh"
#include "cuda/common/reduce.cuh"

namespace vk::cuda::cache {
namespace {

constexpr int kMany = 2;  // pieces of a thread, where there is work for the whole GPU

// kPieces pieces a thread, a block apart, whose loads are on their way together, each of kVectors
// neighbouring vectors; blockIdx.y tells which of the two tensors.
template <class T, class Cached, int N, int kVectors, int kPieces>
__global__ void __launch_bounds__(kThreads) WriteKernel(const __grid_constant__ Write write) {
  PdlPrologue();
  const Stream& stream = write.streams[blockIdx.y];
  const uint32_t first = blockIdx.x * (kThreads * kPieces) + threadIdx.x;
  struct Target {
    uint32_t token, head, column;
    int64_t slot;
  } targets[kPieces];
  Vec<T, N> held[kPieces][kVectors];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const uint32_t index = (first + i * kThreads) * kVectors;
    targets[i].slot = -1;
    if (index >= stream.count) continue;
    const FastDiv::Result piece = stream.pieces(index);
    const FastDiv::Result head = write.heads(piece.quotient);
    targets[i] = {head.quotient, head.remainder, piece.remainder * N, head.quotient};
    if (write.slots != nullptr) targets[i].slot = write.slots[head.quotient];
    // Whether or not the token has a slot: so the row's load does not wait for the slot's.
    const T* from = static_cast<const T*>(stream.from) + head.quotient * stream.from_token_stride +
                    head.remainder * stream.from_head_stride + piece.remainder * N;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) held[i][j] = LoadVec<N>(from + j * N);
  }
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    if (targets[i].slot < 0 || targets[i].slot >= write.slot_limit) continue;
    const FastDiv::Result at = write.block_size(static_cast<uint32_t>(targets[i].slot));
    Cached* to = static_cast<Cached*>(stream.to) + at.quotient * stream.to_block_stride +
                 at.remainder * stream.to_slot_stride + targets[i].head * stream.to_head_stride +
                 targets[i].column;
    WriteVectors(held[i], to, stream.scale + targets[i].head * stream.scale_stride);
  }
}

// An element a thread.
template <class T, class Cached>
__global__ void __launch_bounds__(kThreads)
    WriteOldKernel(const __grid_constant__ Write write, const __grid_constant__ OldLayout layout) {
  PdlPrologue();
  const Stream& stream = write.streams[blockIdx.y];
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= stream.count) return;
  const FastDiv::Result piece = stream.pieces(index);
  const FastDiv::Result head = write.heads(piece.quotient);
  const int64_t token = head.quotient, column = piece.remainder;
  const int64_t slot = write.slots[token];
  if (slot < 0 || slot >= write.slot_limit) return;
  const FastDiv::Result at = write.block_size(static_cast<uint32_t>(slot));
  const T* from = static_cast<const T*>(stream.from) + token * stream.from_token_stride +
                  head.remainder * stream.from_head_stride + column;
  // Both tensors hold a head's elements together; keys in groups of x by slot, values by element.
  int64_t to = head.remainder * layout.head_size * layout.block_size;
  if (blockIdx.y == 0) {
    to += at.quotient * layout.key_block +
          (column / layout.x * layout.block_size + at.remainder) * layout.x + column % layout.x;
  } else {
    to += at.quotient * layout.value_block + column * layout.block_size + at.remainder;
  }
  const Vec<T, 1> held[1] = {LoadVec<1>(from)};
  WriteVectors(held, static_cast<Cached*>(stream.to) + to,
               stream.scale + head.remainder * stream.scale_stride);
}

// The entries of "fp8_ds_mla": a token a block, 16 lanes for each tile of 128 elements, and 8 more
// threads for the rotated part.
constexpr int kDsRank = 512, kDsTile = 128, kDsRope = 64;
constexpr int kDsThreads = 96;

template <class T>
__global__ void __launch_bounds__(kDsThreads)
    WriteDsMlaKernel(const __grid_constant__ Write write) {
  PdlPrologue();
  constexpr int N = 8;
  const int64_t token = blockIdx.x, slot = write.slots[token];
  if (slot < 0 || slot >= write.slot_limit) return;
  const FastDiv::Result at = write.block_size(static_cast<uint32_t>(slot));
  const Stream &latent = write.streams[0], &rope = write.streams[1];
  uint8_t* entry = static_cast<uint8_t*>(latent.to) + at.quotient * latent.to_block_stride +
                   at.remainder * latent.to_slot_stride;
  const int thread = static_cast<int>(threadIdx.x);
  // Without vectors: neither rows nor entries need be aligned to 16 bytes.
  if (thread < kDsRank / N) {
    const T* from =
        static_cast<const T*>(latent.from) + token * latent.from_token_stride + thread * N;
    float x[N], abs_max = 0.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x[i] = ToFloat(from[i]);
      abs_max = fmaxf(abs_max, fabsf(x[i]));
    }
    abs_max = ReduceLanes<kDsTile / N>(abs_max, Max());
    const float scale = fmaxf(__fdiv_rn(abs_max, kQuantMax<E4M3>), FLT_MIN);
    const Divisor divisor(scale);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = divisor.Quotient(x[i], 2.0f * kQuantMax<E4M3>);
    const Vec<E4M3, N> quantised = FromFloats<E4M3>(x);
    StoreVec(reinterpret_cast<E4M3*>(entry) + thread * N, quantised);
    if (thread % (kDsTile / N) == 0) {
      reinterpret_cast<float*>(entry + kDsRank)[thread / (kDsTile / N)] = scale;
    }
  } else {
    const T* from = static_cast<const T*>(rope.from) + token * rope.from_token_stride;
    T* to = reinterpret_cast<T*>(entry + kDsRank + kDsRank / kDsTile * sizeof(float));
    for (int i = thread - kDsRank / N; i < kDsRope; i += kDsThreads - kDsRank / N) to[i] = from[i];
  }
}

dim3 GridOf(const Write& write, const char* op, int pieces) {
  const uint32_t most = write.streams[0].count > write.streams[1].count ? write.streams[0].count
                                                                        : write.streams[1].count;
  return dim3(GridX(op, CeilDiv(most, kThreads * pieces)), 2);
}

}  // namespace

void LaunchWrite(const Write& write, const Launch& launch) {
  const bool many = launch.aligned && FillsDevice(launch.op, write.streams[0].count);
  const bool joined = launch.aligned && launch.joined &&
                      FillsDevice(launch.op, int64_t{4} * write.streams[0].count);
  const dim3 grid = GridOf(write, launch.op, joined ? 2 : many ? kMany : 1);
  if (grid.x == 0) return;
  DispatchCached(launch, [&](auto type, auto cached) {
    using T = typename decltype(type)::type;
    using Cached = typename decltype(cached)::type;
    constexpr int N = kVecSize<T>;
    const auto kernel = joined           ? WriteKernel<T, Cached, N, 2, 1>
                        : many           ? WriteKernel<T, Cached, N, 1, kMany>
                        : launch.aligned ? WriteKernel<T, Cached, N, 1, 1>
                                         : WriteKernel<T, Cached, 1, 1, 1>;
    LaunchPdl(launch.op, kernel, grid, kThreads, 0, launch.stream, write);
  });
}

void LaunchWriteOld(const Write& write, const OldLayout& layout, const Launch& launch) {
  const dim3 grid = GridOf(write, launch.op, 1);
  if (grid.x == 0) return;
  DispatchCached(launch, [&](auto type, auto cached) {
    using T = typename decltype(type)::type;
    using Cached = typename decltype(cached)::type;
    LaunchPdl(launch.op, WriteOldKernel<T, Cached>, grid, kThreads, 0, launch.stream, write,
              layout);
  });
}

void LaunchWriteDsMla(const Write& write, const Launch& launch) {
  const uint32_t tokens = write.streams[0].count;
  if (tokens == 0) return;
  const auto kernel = launch.dtype == VK_BF16 ? WriteDsMlaKernel<BFloat16> : WriteDsMlaKernel<Half>;
  LaunchPdl(launch.op, kernel, tokens, kDsThreads, 0, launch.stream, write);
}

}  // namespace vk::cuda::cache
