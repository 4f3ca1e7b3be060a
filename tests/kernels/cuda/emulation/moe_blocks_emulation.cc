// Random problems through the grouped product with scales of blocks of csrc/cuda/moe_gemm on an
// emulated GPU, against float64. moe_blocks_emulation SEED COUNT: prints what differs; exit status
// 1 then.
#include "device.h"
#include "moe_tensors.h"
#include "seeded.h"

#include "cuda/common/divide.h"
#include "cuda/moe_gemm/blocks.cuh"

VK_EMULATED_SHARED("_ZN2vk4cuda8moe_gemm9unalignedE");

namespace {

using namespace emulation::moe;
using namespace emulation::seeded;
using namespace vk::cuda;
using namespace vk::cuda::moe_gemm;

// Rows, and of each its expert or -1.
struct Rows {
  std::vector<int32_t> whose, labels, counts;
};

// Blocks of kTokens rows of one expert, partly used; some of none, the last one cut.
template <int kTokens>
Rows Labelled(Blocks& b) {
  Rows rows;
  for (int block = Number(1, 4); block > 0; --block) {
    const int expert = Chance(4) ? -1 : Number(0, b.experts - 1);
    const int size = block == 1 ? Number(1, kTokens) : kTokens, used = Number(1, size);
    for (int i = 0; i < size; ++i) {
      const bool gap = i > 0 && i + 1 < used && Chance(8);  // written, with any numbers
      rows.labels.push_back(i < used && !gap ? expert : -1);
      rows.whose.push_back(i < used ? expert : -1);
    }
  }
  b.rows = static_cast<int32_t>(rows.labels.size());
  return rows;
}

template <int kTokens>
Rows Counted(Blocks& b) {
  Rows rows;
  b.rows = Number(1, Chance(3) ? 2 * kTokens + 5 : kTokens);
  for (int expert = 0; expert < b.experts; ++expert) {
    rows.counts.push_back(Chance(3) ? 0 : Number(0, b.rows));
    for (int i = 0; i < b.rows; ++i) {
      rows.whose.push_back(i < rows.counts.back() ? expert : -1);
    }
  }
  if (Chance(3)) rows.counts[0] = -3;
  if (rows.counts[0] < 0) std::fill_n(rows.whose.begin(), b.rows, -1);
  return rows;
}

template <int kTokens, int kWaves>
bool Check() {
  Blocks b = {};
  const bool labelled = Chance(2);
  b.experts = Chance(4) ? Number(30, 40) : Number(1, 5);
  b.n = 8 * Number(1, 40);
  b.k = 16 * Number(1, 24);
  const Rows rows = labelled ? Labelled<kTokens>(b) : Counted<kTokens>(b);
  const int64_t all = static_cast<int64_t>(rows.whose.size());
  const int64_t chunks = CeilDiv(b.k, kDepth), columns = CeilDiv(b.n, kScaleBlock);
  const std::vector<E4M3> tokens = Values(all * b.k);
  const std::vector<E4M3> weights = Values(int64_t{b.experts} * b.n * b.k);
  const std::vector<float> token_scales = Scales(all * chunks);
  const std::vector<float> weight_scales = Scales(b.experts * columns * chunks);
  b.out_row = b.n + 8 * Number(0, 3);
  std::vector<BFloat16> out(static_cast<size_t>(all * b.out_row), FromFloat<BFloat16>(kUntouched));
  b.out = out.data();
  b.token_scales = token_scales.data();
  b.weight_scales = weight_scales.data();
  const bool by_columns = Chance(2);
  b.token_scale_row = by_columns ? 1 : chunks;
  b.token_scale_chunk = by_columns ? b.rows : 1;
  b.weight_scale_expert = columns * chunks;
  b.weight_scale_row = chunks;
  b.weight_scale_chunk = 1;
  if (labelled) {
    b.labels = rows.labels.data();
  } else {
    b.counts = rows.counts.data();
    b.out_expert = b.rows * b.out_row;
    b.token_scale_expert = b.rows * chunks;
  }
  const int64_t batches = labelled ? 1 : b.experts;
  const CUtensorMap maps[3] = {MapOf(weights, b.k, b.n, b.experts, kWaves * kWeightRows),
                               MapOf(tokens, b.k, b.rows, batches, BoxTokens(kTokens)),
                               MapOf(tokens, b.k, b.rows, batches, kFewTokens)};
  emulation::Launch({static_cast<unsigned>(Number(1, 3)), 1, 1}, kThreads,
                    [&] { BlocksKernel<kTokens, kWaves>(b, maps[0], maps[1], maps[2]); });

  double worst = 0;
  for (int64_t row = 0; row < all; ++row) {
    const int expert = rows.whose[row];
    for (int64_t n = 0; n < b.out_row; ++n) {
      double expected = ToFloat(FromFloat<BFloat16>(kUntouched)), size = 0;
      if (expert >= 0 && n < b.n) {
        expected = 0;
        for (int k = 0; k < b.k; ++k) {
          const int64_t batch = row / b.rows, i = row % b.rows, chunk = k / kDepth;
          const double scale = double{token_scales[batch * b.rows * chunks + i * b.token_scale_row +
                                                   chunk * b.token_scale_chunk]} *
                               weight_scales[(expert * columns + n / kScaleBlock) * chunks + chunk];
          const double one = scale * ToFloat(tokens[row * b.k + k]) *
                             ToFloat(weights[(int64_t{expert} * b.n + n) * b.k + k]);
          expected += one;
          size += std::abs(one);
        }
      }
      const double error = std::abs(ToFloat(out[row * b.out_row + n]) - expected);
      // The result's rounding, and of chunks the sum's.
      const double allowed = std::abs(expected) / 256 + size * 1e-6 + 1e-9;
      worst = std::max(worst, error >= 0 ? error / allowed : INFINITY);
    }
  }
  if (worst > 1) {
    std::printf(
        "tokens %d, waves %d, %s: n %d, k %d, %d experts, %d rows: error %g of what is "
        "allowed\n",
        kTokens, kWaves, labelled ? "labelled" : "counted", b.n, b.k, b.experts, b.rows, worst);
  }
  return worst <= 1;
}

}  // namespace

int main(int count, char** arguments) {
  return Repeat(count, arguments, [] {
    bool right = Check<16, 1>();
    right = Check<64, 1>() && right;
    right = Check<64, 2>() && right;
    right = Check<128, 1>() && right;
    return Check<128, 2>() && right;
  });
}
