#include "cuda/common/reduce.cuh"
#include "cuda/rope/kernel.cuh"

namespace vk::cuda::rope {
namespace {

constexpr int kThreads = 256;

// kLanes lanes a head, each with N neighbouring components in registers.
template <class T, class Cache, bool kNeox, int kLanes>
__global__ void __launch_bounds__(kThreads)
    NormRotationKernel(const __grid_constant__ NormRotation rotation, uint32_t count) {
  constexpr int N = kVecSize<T>;
  uint32_t index = blockIdx.x * (kThreads / kLanes) + threadIdx.x / kLanes;
  const bool active = index < count;  // all lanes of a warp take part in the shuffles
  if (!active) index = count - 1;
  const FastDiv::Result at = rotation.heads(index);
  const int64_t token = at.quotient;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int column = lane * N, head_dim = rotation.head_dim;
  const bool inside = column < head_dim;
  T* head = static_cast<T*>(rotation.qkv) + token * rotation.token_stride +
            int64_t{at.remainder} * head_dim;
  const T* weight = static_cast<const T*>(at.remainder < rotation.query_heads ? rotation.q_weight
                                                                              : rotation.k_weight);
  float x[N] = {}, w[N] = {};
  if (inside) {
    LoadFloats(head + column, x);
    LoadFloats(weight + column, w);
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < N; ++i) sum = fmaf(x[i], x[i], sum);
  sum = ReduceLanes<kLanes>(sum, Sum());
  const float factor = rsqrtf(__fdiv_rn(sum, static_cast<float>(head_dim)) + rotation.epsilon);
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] *= factor * w[i];

  const int half = rotation.angles.half;
  const Cache* row = RowOf<Cache>(rotation.angles, token);
  const bool turned = row != nullptr && column < 2 * half;
  if constexpr (kNeox) {
    // The other component of each pair is with the lane half of the rotated part away.
    const bool is_x = column < half;
    const int other_lane = turned ? lane + (is_x ? half / N : -half / N) : lane;
    float other[N];
#pragma unroll
    for (int i = 0; i < N; ++i) other[i] = __shfl_sync(0xFFFFFFFFu, x[i], other_lane, kLanes);
    if (turned) {
      const Turn<N, Cache> turn(rotation.angles, row, is_x ? column : column - half);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float sin = is_x ? -turn.sin[i] : turn.sin[i];
        x[i] = fmaf(other[i], sin, x[i] * turn.cos[i]);
      }
    }
  } else if (turned) {
    const Turn<N / 2, Cache> turn(rotation.angles, row, column / 2);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) turn.Apply(i, x[2 * i], x[2 * i + 1]);
  }
  if (active && inside) StoreVec(head + column, FromFloats<T>(x));
}

// Any head and any alignment: a warp a head, which lies in shared memory in between.
constexpr int kMaxHeadDim = 1024, kWarps = 8;

template <class T, class Cache, bool kNeox>
__global__ void __launch_bounds__(32 * kWarps)
    AnyNormRotationKernel(const __grid_constant__ NormRotation rotation, uint32_t count) {
  __shared__ float heads[kWarps][kMaxHeadDim];
  const uint32_t index = blockIdx.x * kWarps + threadIdx.x / 32;
  if (index >= count) return;
  const FastDiv::Result at = rotation.heads(index);
  const int64_t token = at.quotient;
  const int lane = static_cast<int>(threadIdx.x) % 32, head_dim = rotation.head_dim;
  T* head = static_cast<T*>(rotation.qkv) + token * rotation.token_stride +
            int64_t{at.remainder} * head_dim;
  const T* weight = static_cast<const T*>(at.remainder < rotation.query_heads ? rotation.q_weight
                                                                              : rotation.k_weight);
  float* x = heads[threadIdx.x / 32];
  float sum = 0.0f;
  for (int i = lane; i < head_dim; i += 32) {
    x[i] = ToFloat(head[i]);
    sum = fmaf(x[i], x[i], sum);
  }
  sum = ReduceLanes<32>(sum, Sum());
  const float factor = rsqrtf(__fdiv_rn(sum, static_cast<float>(head_dim)) + rotation.epsilon);
  for (int i = lane; i < head_dim; i += 32) x[i] *= factor * ToFloat(weight[i]);
  __syncwarp();
  const int half = rotation.angles.half;
  const Cache* row = RowOf<Cache>(rotation.angles, token);
  if (row != nullptr) {
    for (int i = lane; i < half; i += 32) {
      const Turn<1, Cache> turn(rotation.angles, row, i);
      turn.Apply(0, x[kNeox ? i : 2 * i], x[kNeox ? i + half : 2 * i + 1]);
    }
  }
  __syncwarp();
  for (int i = lane; i < head_dim; i += 32) head[i] = FromFloat<T>(x[i]);
}

}  // namespace

void LaunchNormRotation(const NormRotation& rotation, const Launch& launch) {
  const int64_t heads = rotation.tokens * rotation.heads.divisor();
  VK_CHECK(heads < (int64_t{1} << 31), "%s: qkv has %lld heads, want less than 2^31", launch.op,
           static_cast<long long>(heads));
  const uint32_t count = static_cast<uint32_t>(heads);
  if (count == 0) return;
  const auto run = [&](auto kernel, int heads_per_block) {
    kernel<<<GridX(launch.op, CeilDiv(heads, heads_per_block)), kThreads, 0, launch.stream>>>(
        rotation, count);
    CheckLaunch(launch.op);
  };
  DispatchTypes(launch, [&](auto type, auto cache) {
    using T = typename decltype(type)::type;
    using Cache = typename decltype(cache)::type;
    DispatchBool(launch.is_neox, [&](auto neox) {
      constexpr bool kNeox = decltype(neox)::value;
      const int lanes = rotation.head_dim / kVecSize<T>;
      if (!launch.aligned || lanes > 32) {
        run(AnyNormRotationKernel<T, Cache, kNeox>, kWarps);
      } else if (lanes > 16) {
        run(NormRotationKernel<T, Cache, kNeox, 32>, kThreads / 32);
      } else if (lanes > 8) {
        run(NormRotationKernel<T, Cache, kNeox, 16>, kThreads / 16);
      } else {
        run(NormRotationKernel<T, Cache, kNeox, 8>, kThreads / 8);
      }
    });
  });
}

}  // namespace vk::cuda::rope
