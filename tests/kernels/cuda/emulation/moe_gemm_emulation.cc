// Random problems through the grouped product of csrc/cuda/moe_gemm on an emulated GPU, against
// float64. moe_gemm_emulation SEED COUNT: prints what differs; exit status 1 then.
#include "device.h"
#include "moe_tensors.h"
#include "seeded.h"

#include "cuda/moe_gemm/grouped.cuh"

VK_EMULATED_SHARED("_ZN2vk4cuda8moe_gemm9unalignedE");

namespace {

using namespace emulation::moe;
using namespace emulation::seeded;
using namespace vk::cuda;
using namespace vk::cuda::moe_gemm;

template <class T, int kTokens>
bool Check() {
  Grouped g = {};
  g.experts = Chance(4) ? Number(30, 70) : Number(1, 6);
  g.n = 8 * Number(1, 40);
  g.k = 16 * Number(1, 24);
  g.per_token = Chance(2);
  g.per_expert = !g.per_token && Chance(3);
  g.per_channel = Chance(2);
  g.wide_first_rows = Chance(2);
  const bool swapped = Chance(2), batched = Chance(3);
  const int most = Chance(4) ? 3 * kTokens : kTokens / 2 + 2;

  std::vector<int32_t> sizes, first32;
  std::vector<int64_t> first64;
  std::vector<int> counts;
  for (int expert = 0; expert < g.experts; ++expert) {
    const int count = Chance(3) || (g.experts > 6 && Chance(2)) ? 0 : Number(0, most);
    counts.push_back(count);
    first64.push_back(g.rows);
    first32.push_back(g.rows);
    for (int size : {swapped ? g.n : count, swapped ? count : g.n, g.k}) sizes.push_back(size);
    g.rows += batched ? most : count;
  }
  g.rows += Number(1, 40);
  g.out_stride = g.n + 8 * Number(0, 3);
  const std::vector<E4M3> tokens = Values(int64_t{g.rows} * g.k);
  const std::vector<E4M3> weights = Values(int64_t{g.experts} * g.n * g.k);
  const std::vector<float> token_scales = Scales(int64_t{g.rows} + g.experts);
  const std::vector<float> weight_scales = Scales(int64_t{g.experts} * g.n);
  std::vector<T> out(static_cast<size_t>(g.rows) * g.out_stride, FromFloat<T>(kUntouched));
  g.out = out.data();
  g.token_scales = token_scales.data();
  g.weight_scales = weight_scales.data();
  g.first_rows = g.wide_first_rows ? static_cast<const void*>(first64.data()) : first32.data();
  g.sizes = sizes.data();

  const CUtensorMap maps[2] = {MapOf(weights, g.k, g.n, g.experts, kWeightRows),
                               MapOf(tokens, g.k, g.rows, 1, BoxTokens(kTokens))};
  emulation::Launch({static_cast<unsigned>(Number(1, 3)), 1, 1}, kThreads,
                    [&] { GroupedKernel<T, kTokens>(g, maps[0], maps[1]); });

  std::vector<double> expected(out.size(), ToFloat(FromFloat<T>(kUntouched)));
  for (int expert = 0; expert < g.experts; ++expert) {
    for (int row = first32[expert]; row < first32[expert] + counts[expert]; ++row) {
      const float a = token_scales[g.per_token ? row : g.per_expert ? expert : 0];
      for (int n = 0; n < g.n; ++n) {
        double sum = 0;
        for (int k = 0; k < g.k; ++k) {
          sum += double{ToFloat(tokens[static_cast<size_t>(row) * g.k + k])} *
                 ToFloat(weights[(static_cast<size_t>(expert) * g.n + n) * g.k + k]);
        }
        const size_t scale = g.per_channel ? static_cast<size_t>(expert) * g.n + n : expert;
        expected[static_cast<size_t>(row) * g.out_stride + n] = sum * a * weight_scales[scale];
      }
    }
  }
  double worst = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const double error = std::abs(ToFloat(out[i]) - expected[i]);
    const double allowed = 0.01 + 0.01 * std::abs(expected[i]);
    worst = std::max(worst, error >= 0 ? error / allowed : INFINITY);
  }
  if (worst > 1) {
    std::printf("tokens %d: n %d, k %d, %d experts, %d rows: error %g of what is allowed\n",
                kTokens, g.n, g.k, g.experts, g.rows, worst);
  }
  return worst <= 1;
}

}  // namespace

int main(int count, char** arguments) {
  return Repeat(count, arguments, [] {
    return Check<BFloat16, 16>() && Check<Half, 32>() && Check<BFloat16, 64>() &&
           Check<Half, 128>() && Check<BFloat16, 256>();
  });
}
