#include "cuda/common/reduce.cuh"
#include "cuda/rope/kernel.cuh"

namespace vk::cuda::rope {
namespace {

constexpr int kThreads = 256;

// kLanes lanes a head, each with N neighbouring components in registers, of kHeads heads of a
// token: the angles are read once for them, and the loads of all heads are in flight together.
template <class T, class Cache, bool kNeox, int kLanes, int kHeads>
__global__ void __launch_bounds__(kThreads)
    NormRotationKernel(const __grid_constant__ NormRotation rotation, FastDiv groups,
                       uint32_t count) {
  constexpr int N = kVecSize<T>;
  uint32_t index = blockIdx.x * (kThreads / kLanes) + threadIdx.x / kLanes;
  const bool active = index < count;  // all lanes of a warp take part in the shuffles
  if (!active) index = count - 1;
  const FastDiv::Result at = groups(index);
  const int64_t token = at.quotient;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int column = lane * N, head_dim = rotation.head_dim;
  const bool inside = column < head_dim;
  T* heads = static_cast<T*>(rotation.qkv) + token * rotation.token_stride + column;
  Vec<T, N> held[kHeads];
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    const uint32_t head = at.remainder + i * groups.divisor();
    if (inside && head < rotation.heads) {
      held[i] = LoadVec<N>(heads + int64_t{head} * head_dim);
    } else {
      memset(&held[i], 0, sizeof(held[i]));
    }
  }

  // Neox: the other component of each pair is with the lane half of the rotated part away.
  const int half = rotation.angles.half;
  const Cache* row = RowOf<Cache>(rotation.angles, token);
  const bool turned = row != nullptr && column < 2 * half;
  const bool is_x = column < half;
  const int other_lane = turned ? lane + (is_x ? half / N : -half / N) : lane;
  constexpr int kPairs = kNeox ? N : N / 2;
  float cos[kPairs], sin[kPairs];
  if (turned) {
    const int first = kNeox ? (is_x ? column : column - half) : column / 2;
    const Turn<kPairs, Cache> turn(rotation.angles, row, first);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      cos[i] = turn.cos[i];
      sin[i] = kNeox && is_x ? -turn.sin[i] : turn.sin[i];
    }
  }

#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const uint32_t head = at.remainder + h * groups.divisor();
    const bool present = inside && head < rotation.heads;
    const void* weight = head < rotation.query_heads ? rotation.q_weight : rotation.k_weight;
    float x[N], w[N] = {};
    ToFloats(held[h], x);
    if (present) LoadFloats(static_cast<const T*>(weight) + column, w);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) sum = fmaf(x[i], x[i], sum);
    sum = ReduceLanes<kLanes>(sum, Sum());
    const float factor = rsqrtf(__fdiv_rn(sum, static_cast<float>(head_dim)) + rotation.epsilon);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] *= factor * w[i];
    if constexpr (kNeox) {
      float other[N];
#pragma unroll
      for (int i = 0; i < N; ++i) other[i] = __shfl_sync(0xFFFFFFFFu, x[i], other_lane, kLanes);
      if (turned) {
#pragma unroll
        for (int i = 0; i < N; ++i) x[i] = fmaf(other[i], sin[i], x[i] * cos[i]);
      }
    } else if (turned) {
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        const float first = fmaf(-x[2 * i + 1], sin[i], x[2 * i] * cos[i]);
        x[2 * i + 1] = fmaf(x[2 * i], sin[i], x[2 * i + 1] * cos[i]);
        x[2 * i] = first;
      }
    }
    if (active && present) StoreVec(heads + int64_t{head} * head_dim, FromFloats<T>(x));
  }
}

// Any head and any alignment: a warp a head, which lies in shared memory in between.
constexpr int kMaxHeadDim = 1024, kWarps = 8;

template <class T, class Cache, bool kNeox>
__global__ void __launch_bounds__(32 * kWarps)
    AnyNormRotationKernel(const __grid_constant__ NormRotation rotation, FastDiv head_of,
                          uint32_t count) {
  __shared__ float heads[kWarps][kMaxHeadDim];
  const uint32_t index = blockIdx.x * kWarps + threadIdx.x / 32;
  if (index >= count) return;
  const FastDiv::Result at = head_of(index);
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
  const int64_t total = rotation.tokens * rotation.heads;
  VK_CHECK(total < (int64_t{1} << 31), "%s: qkv has %lld heads, want less than 2^31", launch.op,
           static_cast<long long>(total));
  if (total == 0) return;
  const auto run = [&](auto kernel, int64_t groups_per_block, int64_t heads_per_group) {
    const int64_t groups = CeilDiv(rotation.heads, heads_per_group);
    const int64_t count = rotation.tokens * groups;
    kernel<<<GridX(launch.op, CeilDiv(count, groups_per_block)), kThreads, 0, launch.stream>>>(
        rotation, FastDiv(static_cast<uint32_t>(groups)), static_cast<uint32_t>(count));
    CheckLaunch(launch.op);
  };
  DispatchTypes(launch, [&](auto type, auto cache) {
    using T = typename decltype(type)::type;
    using Cache = typename decltype(cache)::type;
    DispatchBool(launch.is_neox, [&](auto neox) {
      constexpr bool kNeox = decltype(neox)::value;
      const int64_t lanes = CeilDiv(rotation.head_dim, kVecSize<T>);
      const bool many = FillsDevice(launch.op, total * lanes);
      const auto run_lanes = [&](auto constant) {
        constexpr int kLanes = decltype(constant)::value;
        if (many) {
          run(NormRotationKernel<T, Cache, kNeox, kLanes, 4>, kThreads / kLanes, 4);
        } else {
          run(NormRotationKernel<T, Cache, kNeox, kLanes, 1>, kThreads / kLanes, 1);
        }
      };
      if (!launch.aligned || lanes > 32) {
        run(AnyNormRotationKernel<T, Cache, kNeox>, kWarps, 1);
      } else if (lanes > 16) {
        run_lanes(std::integral_constant<int, 32>());
      } else if (lanes > 8) {
        run_lanes(std::integral_constant<int, 16>());
      } else {
        run_lanes(std::integral_constant<int, 8>());
      }
    });
  });
}

}  // namespace vk::cuda::rope
