#include "cuda/rope/kernel.cuh"

namespace vk::cuda::rope {
namespace {

constexpr int kThreads = 256;

// A thread turns the same N pairs of kHeads heads of a token: the angles are read once for them,
// and the loads of all heads are in flight together.
template <class T, class Cache, bool kNeox, int N, int kHeads>
__global__ void __launch_bounds__(kThreads)
    RotationKernel(const __grid_constant__ Rotation rotation, FastDiv vectors, FastDiv groups,
                   uint32_t count) {
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= count) return;
  const FastDiv::Result vector = vectors(index);
  const FastDiv::Result group = groups(vector.quotient);
  const int64_t token = group.quotient;
  const Cache* row = RowOf<Cache>(rotation.angles, token);
  if (row == nullptr) return;
  const int first = static_cast<int>(vector.remainder) * N;
  // Neighbouring groups interleave their heads, so that a warp reads neighbouring ones.
  T* heads[kHeads];
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    uint32_t head = group.remainder + i * groups.divisor();
    heads[i] = nullptr;
    if (head >= rotation.query.count + rotation.key.count) continue;
    const bool is_query = head < rotation.query.count;
    const Heads& from = is_query ? rotation.query : rotation.key;
    if (!is_query) head -= rotation.query.count;
    heads[i] = static_cast<T*>(from.data) + from.tokens.Offset(token) + head * from.head_stride +
               rotation.dim_offset;
  }

  // Neox: N xs, and N ys half a head away; GPT-J: pairs side by side.
  const int half = rotation.angles.half;
  const int x_at = kNeox ? first : 2 * first;
  const int y_at = kNeox ? first + half : 2 * first + N;
  float x[kHeads][N], y[kHeads][N];
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    if (heads[i] == nullptr) continue;
    LoadFloats(heads[i] + x_at, x[i]);
    LoadFloats(heads[i] + y_at, y[i]);
  }
  const Turn<N, Cache> turn(rotation.angles, row, first);
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    if (heads[i] == nullptr) continue;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if constexpr (kNeox) {
        turn.Apply(j, x[i][j], y[i][j]);
      } else if constexpr (N == 1) {
        turn.Apply(0, x[i][0], y[i][0]);
      } else {
        // x holds pairs 0 to N / 2, y the rest.
        float (&half_of)[N] = j < N / 2 ? x[i] : y[i];
        turn.Apply(j, half_of[2 * j % N], half_of[2 * j % N + 1]);
      }
    }
    StoreVec(heads[i] + x_at, FromFloats<T>(x[i]));
    StoreVec(heads[i] + y_at, FromFloats<T>(y[i]));
  }
}

template <class T, class Cache, bool kNeox, int N>
void LaunchPairs(const Rotation& rotation, const Launch& launch) {
  const int64_t heads = int64_t{rotation.query.count} + rotation.key.count;
  const int64_t vectors = rotation.angles.half / N;
  const auto run = [&](auto kernel, int64_t heads_per_thread) {
    const int64_t groups = CeilDiv(heads, heads_per_thread);
    const int64_t count = rotation.tokens * groups * vectors;
    VK_CHECK(count < (int64_t{1} << 31), "%s: %lld tokens, want less than 2^31 vectors", launch.op,
             static_cast<long long>(rotation.tokens));
    kernel<<<GridX(launch.op, CeilDiv(count, kThreads)), kThreads, 0, launch.stream>>>(
        rotation, FastDiv(static_cast<uint32_t>(vectors)), FastDiv(static_cast<uint32_t>(groups)),
        static_cast<uint32_t>(count));
    CheckLaunch(launch.op);
  };
  // Few tokens: more threads instead of more work a thread.
  const int64_t threads = rotation.tokens * heads * vectors;
  const bool many = threads >= int64_t{4096} * CurrentDevice(launch.op).multiprocessors;
  if (N > 1 && many) {
    run(RotationKernel<T, Cache, kNeox, N, 4>, 4);
  } else {
    run(RotationKernel<T, Cache, kNeox, N, 1>, 1);
  }
}

}  // namespace

void LaunchRotation(const Rotation& rotation, const Launch& launch) {
  if (rotation.tokens == 0 || rotation.query.count + rotation.key.count == 0) return;
  DispatchTypes(launch, [&](auto type, auto cache) {
    using T = typename decltype(type)::type;
    using Cache = typename decltype(cache)::type;
    DispatchBool(launch.is_neox, [&](auto neox) {
      constexpr bool kNeox = decltype(neox)::value;
      if (launch.aligned) {
        LaunchPairs<T, Cache, kNeox, kVecSize<T>>(rotation, launch);
      } else {
        LaunchPairs<T, Cache, kNeox, 1>(rotation, launch);
      }
    });
  });
}

}  // namespace vk::cuda::rope
