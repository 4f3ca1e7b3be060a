// Random problems through the grouped product with scales of blocks of csrc/cuda/moe_gemm on an
// emulated GPU, against float64. moe_blocks_emulation SEED COUNT: prints what differs; exit status
// 1 then.
#include <bit>

#include "device.h"
#include "moe_tensors.h"
#include "seeded.h"

#include "cuda/common/divide.h"
#include "cuda/moe_gemm/blocks.cuh"
#include "cuda/moe_gemm/blocks_rows.cuh"

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

// `launch(b, map_of)`: the kernel, with maps of weights and tokens in boxes of any size.
template <int kTokens, class Launch>
bool CheckTile(const char* tile, const Launch& launch, bool one_expert = false) {
  Blocks b = {};
  const bool labelled = Chance(2);
  b.experts = one_expert ? 1 : Chance(4) ? Number(30, 40) : Number(1, 5);
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
  // All rows of one expert, as a product without experts has them.
  const bool whole = !labelled && one_expert;
  b.half = one_expert && Chance(2);
  const auto rounded = [&](float x) {
    return b.half ? std::bit_cast<uint16_t>(FromFloat<Half>(x))
                  : std::bit_cast<uint16_t>(FromFloat<BFloat16>(x));
  };
  const auto widened = [&](uint16_t bits) {
    return b.half ? ToFloat(std::bit_cast<Half>(bits)) : ToFloat(std::bit_cast<BFloat16>(bits));
  };
  std::vector<uint16_t> out(static_cast<size_t>(all * b.out_row), rounded(kUntouched));
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
    b.counts = whole ? nullptr : rows.counts.data();
    b.out_expert = b.rows * b.out_row;
    b.token_scale_expert = b.rows * chunks;
  }
  const int64_t batches = labelled ? 1 : b.experts;
  launch(
      b, [&](int box) { return MapOf(weights, b.k, b.n, b.experts, box); },
      [&](int box) { return MapOf(tokens, b.k, b.rows, batches, box); });

  double worst = 0;
  for (int64_t row = 0; row < all; ++row) {
    const int expert = whole ? 0 : rows.whose[row];
    for (int64_t n = 0; n < b.out_row; ++n) {
      double expected = widened(rounded(kUntouched)), size = 0;
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
      const double error = std::abs(widened(out[row * b.out_row + n]) - expected);
      // The result's rounding (float16 has no numbers below 2^-24), and of chunks the sum's.
      const double least = b.half ? 0x1p-24 : 1e-9;
      const double allowed = std::abs(expected) / 256 + size * 1e-6 + least;
      worst = std::max(worst, error >= 0 ? error / allowed : INFINITY);
    }
  }
  if (worst > 1) {
    std::printf("%s, %s: n %d, k %d, %d experts, %d rows: error %g of what is allowed\n", tile,
                labelled ? "labelled" : "counted", b.n, b.k, b.experts, b.rows, worst);
  }
  return worst <= 1;
}

emulation::Index Blocks1To3() { return {static_cast<unsigned>(Number(1, 3)), 1, 1}; }

template <int kTokens, int kWaves>
bool Check(const char* tile) {
  return CheckTile<kTokens>(tile, [](const auto& b, const auto& weights, const auto& tokens) {
    const CUtensorMap maps[3] = {weights(kWaves * kWeightRows), tokens(BoxTokens(kTokens)),
                                 tokens(kFewTokens)};
    emulation::Launch(Blocks1To3(), kThreads,
                      [&] { BlocksKernel<kTokens, kWaves>(b, maps[0], maps[1], maps[2]); });
  });
}

template <int kColumns, int kSplit = 1>
bool CheckRows(const char* tile) {
  const auto launch = [](const auto& b, const auto& weights, const auto& tokens) {
    const CUtensorMap maps[3] = {weights(kColumns), tokens(BoxTokens(kRowTokens)),
                                 tokens(kFewTokens)};
    emulation::Index grid = Blocks1To3();
    if (kSplit > 1) {
      const int64_t tiles = CeilDiv(b.rows, kRowTokens) * CeilDiv(b.n, kColumns);
      grid.x = static_cast<unsigned>(tiles * kSplit);
    }
    emulation::Launch(
        grid, kThreads, [&] { RowsKernel<kColumns, kSplit>(b, maps[0], maps[1], maps[2]); },
        kSplit);
  };
  return CheckTile<kRowTokens>(tile, launch, kSplit > 1 || Chance(2));
}

}  // namespace

int main(int count, char** arguments) {
  return Repeat(count, arguments, [] {
    return Check<16, 1>("16 x 128, turned") && Check<64, 1>("64 x 128, turned") &&
           Check<64, 2>("64 x 256, turned") && CheckRows<64>("128 x 64") &&
           CheckRows<64, 2>("128 x 64, k in two") && CheckRows<128>("128 x 128") &&
           CheckRows<192>("128 x 192") && CheckRows<256>("128 x 256");
  });
}
