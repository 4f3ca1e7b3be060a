// Products per expert with packed weights (u4b8): random routing, and what comes out in float64.
#ifndef VLLM_KERNELS_TESTS_WNA16_EXPERTS_H_
#define VLLM_KERNELS_TESTS_WNA16_EXPERTS_H_

#include "cuda/wna16/marlin/params.h"
#include "wna16_product.h"

namespace emulation {

// Three experts, tiles of one that is not here, places and tiles behind the last.
struct ExpertsProduct {
  using T = Bf16Arithmetic;
  static constexpr int kExpertCount = 3, kN = 192, kK = 320, kGroup = 64, kTopK = 2;

  explicit ExpertsProduct(int block_places, int tokens = 9)
      : block(block_places),
        count(kTopK * tokens),
        a(static_cast<size_t>(tokens) * kK),
        scales(kExpertCount * kK / kGroup * kN),
        bias(kExpertCount * kN),
        out(static_cast<size_t>(count) * kN, 0x7fff),
        weights(kExpertCount * kK * kN / 8),
        router(static_cast<size_t>(count)),
        expert_of(static_cast<size_t>(count), -1) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (auto& x : a) x = T::FromFloat(normal(random));
    for (auto& x : scales) x = T::FromFloat(0.01f + 0.001f * static_cast<float>(random() % 20));
    for (auto& x : bias) x = T::FromFloat(normal(random));
    for (auto& x : weights) x = static_cast<uint32_t>(random());
    for (auto& x : router) x = std::fabs(normal(random));
    // Rows by expert, in tiles; row 5 goes nowhere.
    for (int expert : {2, 0, -1, 1}) {
      std::vector<int32_t> rows;
      for (int row = 0; row < count; ++row) {
        if (row != 5 && row % 3 == expert) rows.push_back(row);
      }
      if (expert < 0) rows = {5};
      while (rows.size() % block != 0) rows.push_back(count + 3);
      for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[i] < count) expert_of[rows[i]] = expert;
        sorted.push_back(rows[i]);
        if (i % block == 0) experts.push_back(expert);
      }
    }
    padded = static_cast<int32_t>(sorted.size());
    sorted.resize(sorted.size() + 100, count);
    experts.resize(experts.size() + 10, 1 << 20);
  }

  template <class Params>
  Params Operands() {
    Params p{};
    p.weights = weights.data();
    p.scales = scales.data();
    p.bias = bias.data();
    p.c = out.data();
    p.m = count / kTopK;
    p.n = kN;
    p.k = kK;
    p.group_magic = GroupMagic(kGroup);
    p.experts = {
        sorted.data(), experts.data(), &padded, router.data(), kK * kN / 2, kK / kGroup * kN, 0, kN,
        block,         kTopK,          count};
    return p;
  }

  bool Right() const {
    double norm = 0, error = 0;
    bool good = true;
    for (int row = 0; row < count; ++row) {
      const int expert = expert_of[row];
      const std::vector<double> sum = expert < 0 ? std::vector<double>() : RowOf(row, expert);
      for (int n = 0; n < kN; ++n) {
        const uint16_t bits = out[static_cast<size_t>(row) * kN + n];
        if (expert < 0) {
          good = good && bits == 0x7fff;  // not written
          continue;
        }
        const double want =
            (sum[n] + T::ToFloat(bias[expert * kN + ChannelPosition(n)])) * router[row];
        const double difference = T::ToFloat(bits) - want;
        norm += want * want;
        error += std::isnan(difference) ? 1e30 : difference * difference;
      }
    }
    good = good && std::sqrt(error / norm) < 3e-3;
    if (!good)
      std::printf("wrong: experts, tiles of %d, error %g\n", block, std::sqrt(error / norm));
    return good;
  }

  const int block, count;
  std::vector<uint16_t> a, scales, bias, out;
  std::vector<uint32_t> weights;
  std::vector<float> router;
  std::vector<int32_t> sorted, experts, expert_of;
  int32_t padded = 0;

 private:
  std::vector<double> RowOf(int row, int expert) const {
    std::vector<double> sum(kN);
    for (int tile = 0; tile < kK / 16 * kN / 64; ++tile) {
      for (int word = 0; word < PackedTileWords(4); ++word) {
        for (int e = 0; e < 8; ++e) {
          const Place place = PackedTilePlace(4, word, e);
          const int k = tile % (kK / 16) * 16 + place.k, n = tile / (kK / 16) * 64 + place.n;
          const uint32_t q =
              weights[expert * kK * kN / 8 + tile * PackedTileWords(4) + word] >> (4 * e);
          sum[n] +=
              (static_cast<int>(q & 15) - 8.0) * T::ToFloat(a[row / kTopK * kK + k]) *
              T::ToFloat(scales[(expert * kK / kGroup + k / kGroup) * kN + GroupedPosition(n)]);
        }
      }
    }
    return sum;
  }
};

}  // namespace emulation
#endif  // VLLM_KERNELS_TESTS_WNA16_EXPERTS_H_
