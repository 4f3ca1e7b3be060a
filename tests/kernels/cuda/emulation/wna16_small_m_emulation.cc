// The kernel for a few tokens of csrc/cuda/wna16 on an emulated GPU, against float64. Prints what
// differs; exit status 1 then.
#include "cuda/wna16/small_m/kernel.cuh"
#include "cuda/wna16/small_m/plan.h"
#include "wna16_product.h"

VK_EMULATED_SHARED("_ZN2vk4cuda5wna1610vk_small_mE");

namespace {

using namespace emulation;  // NOLINT: everything here is about it

int clusters = 0, wraps = 0, checked = 0;

// Scales of the result: powers of two, which change no rounding.
struct ResultScales {
  explicit ResultScales(const Case& c) {
    for (int token = 0; token < c.m; ++token) tokens.push_back(std::ldexp(1.f, token % 5 - 2));
    for (int column = 0; column < c.n; ++column) {
      channels.push_back(std::ldexp(1.f, column % 7 - 3));
    }
  }
  std::vector<float> tokens, channels;
};

// `shared_kib`: of the SM, for weights of 4 bits. With little, a ring of few stages is passed
// often.
template <class T, WeightType kType>
bool Check(const Case& c, int shared_kib) {
  Product<T, kType> product(c);
  const int kib = std::min(shared_kib * Bits(kType) / 4, 227);
  const SmallMPlan plan = MakeSmallMPlan(c.m, c.n, c.k, kType, {c.sms, kib * 1024});
  if (plan.blocks == 0) Fail("no plan: too little shared memory");
  // The row of one token is copied in bulk, without a map: its start is aligned.
  alignas(16) uint16_t row[16384];
  std::copy_n(product.a.begin(), c.k, row);
  auto params = product.template Operands<SmallMParamsOf<T>>();
  const ResultScales factors(c);
  if constexpr (kScalesResult<T>) {
    params.token_scales = factors.tokens.data();
    params.channel_scales = factors.channels.data();
  }
  params.a = c.m == 1 ? row : nullptr;
  params.last_steps = plan.last_steps;
  params.chunks = plan.chunks;
  params.stages = plan.stages;
  params.stage_bytes = plan.stage_bytes;
  const CUtensorMap map =
      Encode({reinterpret_cast<const char*>(product.a.data()),
              3,
              2,
              {64, c.m, c.k / 64},
              {product.lda * 2, 128},
              {64, static_cast<uint32_t>(c.m), static_cast<uint32_t>(plan.chunks_at_once)}});
  const CUtensorMap scales = product.ScaleMap(plan.columns, plan.chunks_at_once);
  int shape = 0;
#define VK_RUN(tokens, packed_tiles)                                                             \
  if (plan.shape == shape++) {                                                                   \
    Launch(                                                                                      \
        {static_cast<unsigned>(plan.blocks)}, plan.threads,                                      \
        [&] { SmallMKernel<T, kType, SmallMShape<tokens, packed_tiles>>(params, map, scales); }, \
        static_cast<unsigned>(plan.cluster));                                                    \
  }
  VK_WNA16_SMALL_M_SHAPES(VK_RUN)
#undef VK_RUN
  if constexpr (kScalesResult<T>) {
    for (int i = 0; i < c.m * c.n; ++i) {
      const float factor = factors.tokens[i / c.n] * factors.channels[i % c.n];
      product.out[i] = T::FromFloat(T::ToFloat(product.out[i]) / factor);
    }
  }
  ++checked;
  if (plan.cluster > 1) ++clusters;
  if (plan.stages * plan.chunks_at_once < plan.chunks) ++wraps;
  return product.Right(false);
}

}  // namespace

int main() {
  struct Run {
    Case c;
    int shared_kib;
  };
  const Run runs[] = {
      {{1, 192, 640, 64, 2, true}, 227},     {{1, 64, 2560, 128, 1, false}, 90},
      {{3, 128, 576, 576, 4, true}, 227},    {{5, 320, 1152, 64, 20, false}, 227},
      {{8, 64, 1024, 128, 132, true}, 227},  {{9, 192, 2112, 64, 2, true}, 120},
      {{13, 128, 512, 512, 16, false}, 227}, {{16, 64, 4096, 128, 132, true}, 227},
  };
  for (const Run& run : runs) {
    const auto check = [&]<class T, WeightType kType>() {
      return Check<T, kType>(run.c, run.shared_kib);
    };
    if (!ForAllTypes(check)) return 1;
    Case plain = run.c;
    plain.bias = false;
    if (!Check<ScaledBf16Arithmetic, WeightType::kU4B8>(plain, run.shared_kib)) return 1;
  }
  std::printf("%d products, %d by clusters, %d around the ring\n", checked, clusters, wraps);
  if (clusters == 0 || wraps == 0) Fail("the cases miss what they are for");
  return 0;
}
