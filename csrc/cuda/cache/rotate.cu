// Rotation of a query's heads and of the key that they share, in place, before the key is cached
// (Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021).
#include "cuda/cache/kernel.cuh"

namespace vk::cuda::cache {
namespace {

// A pair a thread; the key is one more head, the last.
template <class T, class Angle>
__global__ void __launch_bounds__(kThreads) RotateKernel(const __grid_constant__ Rotation r) {
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= r.count) return;
  const FastDiv::Result pair = r.half(index);
  const FastDiv::Result head = r.heads(pair.quotient);
  const int64_t token = head.quotient, slot = r.slots[token], position = r.positions[token];
  // Tokens without a slot are padding.
  if (slot < 0 || slot >= r.slot_limit || position < 0 || position >= r.max_position) return;
  const bool is_key = static_cast<int64_t>(head.remainder) == r.query_heads;
  T* row = is_key ? static_cast<T*>(r.key) + token * r.key_stride
                  : static_cast<T*>(r.query) + token * r.query_token_stride +
                        head.remainder * r.query_head_stride;
  const int64_t i = pair.remainder;
  T& x = row[r.neox ? i : 2 * i];
  T& y = row[r.neox ? i + r.pairs : 2 * i + 1];
  const Angle* angles = static_cast<const Angle*>(r.angles) + position * r.angle_stride;
  const float cosine = ToFloat(angles[i]), sine = ToFloat(angles[i + r.pairs]);
  const float a = ToFloat(x), b = ToFloat(y);
  x = FromFloat<T>(fmaf(-b, sine, a * cosine));
  y = FromFloat<T>(fmaf(a, sine, b * cosine));
}

}  // namespace

void LaunchRotation(const Rotation& rotation, bool float_angles, const Launch& launch) {
  if (rotation.count == 0) return;
  const unsigned blocks = GridX(launch.op, CeilDiv(rotation.count, kThreads));
  DispatchFloating(launch.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (float_angles) {
      RotateKernel<T, float><<<blocks, kThreads, 0, launch.stream>>>(rotation);
    } else {
      RotateKernel<T, T><<<blocks, kThreads, 0, launch.stream>>>(rotation);
    }
    CheckLaunch(launch.op);
  });
}

}  // namespace vk::cuda::cache
