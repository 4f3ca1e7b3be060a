// Random FP8 products by blocks through csrc/cuda/gemm/few_rows.cuh on an emulated GPU, against
// float64. few_rows_emulation SEED COUNT: prints what differs; exit status 1 then.
#include "device.h"
#include "seeded.h"

#include "cuda/gemm/few_rows.cuh"

VK_EMULATED_SHARED("_ZN2vk4cuda4gemm15few_rows_sharedE");

namespace {

using namespace emulation::seeded;
using namespace vk::cuda;
using namespace vk::cuda::gemm;

int wraps = 0, clusters = 0;

E4M3 Value() { return FromFloat<E4M3>(Normal()); }

template <class T, int kRows>
bool Check(int cluster) {
  FewRowsParams p = {};
  p.m = Number(1, 2 * kRows);
  p.n = 16 * Number(1, 13);
  p.k = 16 * Number(1, 100);
  const int blocks_k = static_cast<int>(CeilDiv(p.k, 128)),
            blocks_n = static_cast<int>(CeilDiv(p.n, 128));
  p.m_tiles = static_cast<int>(CeilDiv(p.m, kRows));
  p.chunks = static_cast<int>(CeilDiv(blocks_k, cluster));
  p.a_scales_ld = RoundUp(p.m, 4) + 4 * Number(0, 2);
  p.b_scales_ld = blocks_k + Number(0, 3);
  p.ldo = p.n + 8 * Number(0, 2);
  p.bf16 = std::is_same_v<T, BFloat16>;
  std::vector<E4M3> a(static_cast<size_t>(p.m) * p.k), b(static_cast<size_t>(p.n) * p.k);
  for (E4M3& x : a) x = Value();
  for (E4M3& x : b) x = Value();
  std::vector<float4> a_memory(static_cast<size_t>(p.a_scales_ld * blocks_k) / 4);
  auto* const a_scales = reinterpret_cast<float*>(a_memory.data());
  std::vector<float> b_scales(static_cast<size_t>(p.b_scales_ld) * blocks_n);
  for (int i = 0; i < p.a_scales_ld * blocks_k; ++i) a_scales[i] = 0.01f * Number(1, 100);
  for (float& x : b_scales) x = 0.01f * Number(1, 100);
  p.a_scales = a_scales;
  p.b_scales = b_scales.data();
  const float untouched = 12345.0f;
  std::vector<T> out(static_cast<size_t>(p.m) * p.ldo, FromFloat<T>(untouched));
  p.out = out.data();
  const auto map = [&](const std::vector<E4M3>& data, int rows, uint32_t box) {
    return emulation::Encode({reinterpret_cast<const char*>(data.data()),
                              2,
                              1,
                              {p.k, rows},
                              {p.k},
                              {kFewRowsDepth, box}});
  };
  const CUtensorMap weights = map(b, p.n, kFewRowsColumns), rows = map(a, p.m, kRows);
  const unsigned tiles = static_cast<unsigned>(p.m_tiles * CeilDiv(p.n, kFewRowsColumns));
  emulation::Launch(
      {tiles * cluster}, kFewRowsThreads, [&] { FewRowsKernel<kRows>(p, weights, rows); }, cluster);
  wraps += p.chunks > FewRowsStorage<kRows>::kStages;
  clusters += cluster > 1;

  double worst = 0;
  for (int row = 0; row < p.m; ++row) {
    for (int n = 0; n < p.ldo; ++n) {
      double sum = 0;
      for (int k = 0; k < p.k && n < p.n; ++k) {
        sum += double{ToFloat(a[static_cast<size_t>(row) * p.k + k])} *
               ToFloat(b[static_cast<size_t>(n) * p.k + k]) *
               a_scales[k / 128 * p.a_scales_ld + row] *
               b_scales[n / 128 * p.b_scales_ld + k / 128];
      }
      if (n >= p.n) sum = ToFloat(FromFloat<T>(untouched));
      const double error = std::abs(ToFloat(out[static_cast<size_t>(row) * p.ldo + n]) - sum);
      worst = std::max(worst, error >= 0 ? error / (0.02 + 0.01 * std::abs(sum)) : INFINITY);
    }
  }
  if (worst > 1) {
    std::printf("tiles of %d, cluster %d: %d x %d x %d: error %g of what is allowed\n", kRows,
                cluster, p.m, p.n, p.k, worst);
  }
  return worst <= 1;
}

}  // namespace

int main(int count, char** arguments) {
  const int status = Repeat(count, arguments, [] {
    return Check<BFloat16, 16>(Number(1, 8)) && Check<Half, 32>(Number(1, 8)) &&
           Check<BFloat16, 64>(Number(1, 8)) && Check<Half, 64>(1);
  });
  std::printf("%d by clusters, %d around the ring\n", clusters, wraps);
  return status == 0 && (clusters == 0 || wraps == 0) ? 1 : status;
}
