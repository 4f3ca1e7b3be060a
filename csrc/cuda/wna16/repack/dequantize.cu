// Repacked weights back as a 16-bit matrix [N, K], and the bias in its own order, for GEMMs of many
// tokens.
#include <cuda_runtime.h>

#include "cuda/common/launch.h"
#include "cuda/wna16/checks.h"
#include "cuda/wna16/common/dequant.cuh"
#include "cuda/wna16/layout.h"
#include "cuda/wna16/wna16.h"

namespace vk::cuda::wna16 {
namespace {

constexpr int kThreads = 256;

struct DequantizeParams {
  const void* weights;
  const void* scales;
  const uint32_t* zeros;
  const float* global_scale;  // NVFP4 only
  const int32_t* g_idx;       // null: k / group
  uint16_t* out;
  int n, k, group, groups, per_channel;
};

// Scales and zero points of `column` and the eighth one after it.
template <class T, WeightType kType>
__device__ __forceinline__ void LoadGroup(float (&scale)[2], float (&zero)[2],
                                          const DequantizeParams& p, int group, int column) {
  const int64_t row = static_cast<int64_t>(group) * p.n;
#pragma unroll
  for (int i = 0; i < 2; ++i, column += 8) {
    if constexpr (IsFp4(kType)) {
      const auto* const scales = static_cast<const uint8_t*>(p.scales) + row;
      scale[i] = Fp4Scale<kType>(scales[Fp4ScalePosition(column)]);
      zero[i] = 0;
      if constexpr (kType == WeightType::kNvFp4) {
        scale[i] *= 0x1p-14f * (*p.global_scale * Magic<T>::kNvFp4Unfix);
      }
      continue;
    }
    const auto* const scales = static_cast<const uint16_t*>(p.scales) + row;
    const int at = GroupedPosition(column);
    scale[i] = T::ToFloat(scales[p.per_channel ? ChannelPosition(column) : at]);
    if constexpr (kType == WeightType::kFp8) scale[i] *= Magic<T>::kFp8Unfix;
    zero[i] = kType == WeightType::kU4B8 ? 8.f : 0.f;
    if constexpr (kType == WeightType::kU4) {
      zero[i] = static_cast<float>(p.zeros[(row + at) / 8] >> (4 * ZeroElement(at)) & 15);
    }
  }
}

// A block turns 64 columns x 64 of K; each thread takes one tile of 16 x 16 of a lane per round.
template <class T, WeightType kType>
__global__ void __launch_bounds__(kThreads) Dequantize(const DequantizeParams p) {
  constexpr int kWords = Bits(kType) / 4;  // of a lane in a 16 x 16 tile
  __shared__ __align__(16)
      uint16_t tile[kPackedTileN][64 + 8];  // padded by 16 bytes against conflicts
  const int k0 = static_cast<int>(blockIdx.x) * 64;
  const int n0 = static_cast<int>(blockIdx.y) * kPackedTileN;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
#pragma unroll
  for (int round = 0; round < 2; ++round) {
    const int slice = (round * 8 + warp) / 4;  // 16 of K
    const int i = warp % 4;                    // 16 columns
    const int64_t packed_tile =
        static_cast<int64_t>(blockIdx.y) * (p.k / kPackedTileK) + k0 / kPackedTileK + slice;
    const uint32_t* const words =
        static_cast<const uint32_t*>(p.weights) + packed_tile * PackedTileWords(Bits(kType));
    uint32_t a[4];
    if constexpr (IsFp4(kType)) {
      Fp4Fragment<T>(a, words[lane * 4 + i]);
#pragma unroll
      for (int r = 0; r < 4; ++r) a[r] = T::Mul2(a[r], Magic<T>::kFp4Fix);
    } else if constexpr (kWords == 1) {
      // Zero points are applied below: they may differ along K.
      Dequant4<T>(a, words[lane * 4 + i], Magic<T>::kBase, Magic<T>::kBase);
    } else {
      const uint32_t* const pair = words + i / 2 * 128 + lane * 4 + i % 2 * 2;
      Dequant8<T, kType>(a, pair[0], pair[1]);
    }
    // Without g_idx a slice lies in one group.
    float scale[2], zero[2];
    const int first = min((k0 + 16 * slice) / p.group, p.groups - 1);
    LoadGroup<T, kType>(scale, zero, p, first, n0 + 16 * i + lane / 4);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int column = 16 * i + lane / 4 + 8 * (r % 2);
      const int row = 16 * slice + 2 * (lane % 4) + 8 * (r / 2);
      uint32_t pair = 0;
#pragma unroll
      for (int second = 0; second < 2; ++second) {
        if (p.g_idx != nullptr) {
          const int group = min(max(p.g_idx[k0 + row + second], 0), p.groups - 1);
          LoadGroup<T, kType>(scale, zero, p, group, n0 + 16 * i + lane / 4);
        }
        const float value = T::ToFloat(static_cast<uint16_t>(a[r] >> (16 * second))) - zero[r % 2];
        pair |= static_cast<uint32_t>(T::FromFloat(value * scale[r % 2])) << (16 * second);
      }
      *reinterpret_cast<uint32_t*>(&tile[column][row]) = pair;
    }
  }
  __syncthreads();
  for (int vector = static_cast<int>(threadIdx.x); vector < kPackedTileN * 8; vector += kThreads) {
    const int column = vector / 8, part = vector % 8;
    *reinterpret_cast<uint4*>(p.out + static_cast<int64_t>(n0 + column) * p.k + k0 + part * 8) =
        *reinterpret_cast<const uint4*>(&tile[column][part * 8]);
  }
}

__global__ void __launch_bounds__(kThreads)
    UnpermuteBias(uint16_t* out, const uint16_t* bias, int n) {
  const int column = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (column < n) out[column] = bias[ChannelPosition(column)];
}

template <class T>
void Launch(const Problem& problem, const DequantizeParams& params, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(problem.k / 64), static_cast<unsigned>(problem.n / 64));
  switch (problem.type) {
    case WeightType::kU4B8:
      Dequantize<T, WeightType::kU4B8><<<grid, kThreads, 0, stream>>>(params);
      break;
    case WeightType::kU4:
      Dequantize<T, WeightType::kU4><<<grid, kThreads, 0, stream>>>(params);
      break;
    case WeightType::kU8B128:
      Dequantize<T, WeightType::kU8B128><<<grid, kThreads, 0, stream>>>(params);
      break;
    case WeightType::kFp8:
      Dequantize<T, WeightType::kFp8><<<grid, kThreads, 0, stream>>>(params);
      break;
    case WeightType::kMxFp4:
      Dequantize<T, WeightType::kMxFp4><<<grid, kThreads, 0, stream>>>(params);
      break;
    case WeightType::kNvFp4:
      Dequantize<T, WeightType::kNvFp4><<<grid, kThreads, 0, stream>>>(params);
      break;
  }
}

}  // namespace
}  // namespace vk::cuda::wna16

namespace wna16 = vk::cuda::wna16;

extern "C" vk_status vk_cuda_marlin_dequantize(const vk_tensor* weight, const vk_tensor* bias,
                                               const vk_marlin_problem* problem, void* stream) {
  return vk::Guard([&] {
    const char* op = "marlin_gemm";
    const wna16::Problem checked = wna16::CheckProblem(op, problem);
    const vk::Arg out(op, "weight", weight);
    out.SameDtype(vk::Arg(op, "a", problem->a)).Dims(2).Size(0, checked.n).Size(1, checked.k);
    out.Contiguous();
    VK_CHECK((bias != nullptr) == (checked.bias != nullptr), "%s: bias %s, but the problem's %s",
             op, bias != nullptr ? "is given" : "is absent",
             bias != nullptr ? "is not" : "is given");
    if (bias != nullptr) {
      vk::Arg(op, "bias", bias).SameDtype(out).Dims(1).Size(0, checked.n).Contiguous();
    }
    VK_CHECK(checked.n / 64 <= 65535, "%s: size_n is %d, want at most %d", op, checked.n,
             65535 * 64);
    const wna16::DequantizeParams params = {
        checked.weights,    checked.scales,
        checked.zeros,      checked.global_scale,
        checked.g_idx,      static_cast<uint16_t*>(weight->data),
        checked.n,          checked.k,
        checked.group,      checked.groups,
        checked.per_channel};
    const cudaStream_t on = static_cast<cudaStream_t>(stream);
    if (checked.dtype == VK_BF16) {
      wna16::Launch<wna16::Bf16Arithmetic>(checked, params, on);
    } else {
      wna16::Launch<wna16::Fp16Arithmetic>(checked, params, on);
    }
    vk::cuda::CheckLaunch(op);
    if (bias == nullptr) return;
    const unsigned blocks = vk::cuda::GridX(op, vk::cuda::CeilDiv(checked.n, wna16::kThreads));
    wna16::UnpermuteBias<<<blocks, wna16::kThreads, 0, on>>>(
        static_cast<uint16_t*>(bias->data), static_cast<const uint16_t*>(checked.bias), checked.n);
    vk::cuda::CheckLaunch(op);
  });
}
