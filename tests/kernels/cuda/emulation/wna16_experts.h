// Products per expert with packed weights: random routing, and what comes out in float64.
#ifndef VLLM_KERNELS_TESTS_WNA16_EXPERTS_H_
#define VLLM_KERNELS_TESTS_WNA16_EXPERTS_H_

#include "cuda/wna16/marlin/params.h"
#include "wna16_product.h"

namespace emulation {

// kU4B8 or NVFP4, whose experts have a scale each besides. Three experts, tiles of one that is not
// here, places and tiles behind the last.
template <WeightType kType, int kIntegerGroup = 64>
struct ExpertsProduct {
  using T = Bf16Arithmetic;
  static constexpr int kExpertCount = 3, kN = 192, kK = 384, kTopK = 2;
  static constexpr int kGroup = IsFp4(kType) ? Fp4Group(kType) : kIntegerGroup;
  static_assert(kType == WeightType::kU4B8 || kType == WeightType::kNvFp4);

  explicit ExpertsProduct(int block_places, int tokens = 9)
      : block(block_places),
        count(kTopK * tokens),
        a(static_cast<size_t>(tokens) * kK),
        scales(kExpertCount * kK / kGroup * kN + 8),
        bias(kExpertCount * kN),
        out(static_cast<size_t>(count) * kN, 0x7fff),
        weights(kExpertCount * kK * kN / 8),
        router(static_cast<size_t>(count)),
        expert_of(static_cast<size_t>(count), -1) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (auto& x : a) x = T::FromFloat(normal(random));
    for (int i = 0; i < kExpertCount * kK / kGroup * kN; ++i) {
      if (IsFp4(kType)) {
        Fp4Scales()[i] = static_cast<uint8_t>(0x90 + random() % 16);
      } else {
        scales[i] = T::FromFloat(0.01f + 0.001f * static_cast<float>(random() % 20));
      }
    }
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
    p.scales = IsFp4(kType) ? static_cast<const void*>(Fp4Scales()) : scales.data();
    p.global_scale = global_scale;
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

  CUtensorMap ScaleMap(int columns) const {
    return EncodeScales<kType>(Fp4Scales(), kN, kExpertCount * kK / kGroup, columns, 1);
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
  // With the factor of the engine, 2^119, and others of ours.
  const float global_scale[kExpertCount] = {0x1p110f, 0x3p112f, 0x1p115f};

 private:
  uint8_t* Fp4Scales() const { return Aligned<uint8_t>(scales); }

  static double ValueOf(uint32_t q) {
    return IsFp4(kType) ? Fp4Value(static_cast<int>(q)) : static_cast<int>(q) - 8.0;
  }

  double ScaleOf(int expert, int k, int n) const {
    const int row = (expert * kK / kGroup + k / kGroup) * kN, place = GroupedPosition(n);
    if (!IsFp4(kType)) return T::ToFloat(scales[row + place]);
    const int code = Fp4Scales()[row + place / 4 * 4 + kFp4Order[place % 4]];
    return Fp4ScaleValue(code) * 0x1p-7 * (global_scale[expert] * 0x1p-119);
  }

  std::vector<double> RowOf(int row, int expert) const {
    std::vector<double> sum(kN);
    for (int tile = 0; tile < kK / 16 * kN / 64; ++tile) {
      for (int word = 0; word < PackedTileWords(4); ++word) {
        for (int e = 0; e < 8; ++e) {
          const Place place = PackedTilePlace(4, word, e);
          const int k = tile % (kK / 16) * 16 + place.k, n = tile / (kK / 16) * 64 + place.n;
          const uint32_t q =
              weights[expert * kK * kN / 8 + tile * PackedTileWords(4) + word] >> (4 * e);
          sum[n] += ValueOf(q & 15) * T::ToFloat(a[row / kTopK * kK + k]) * ScaleOf(expert, k, n);
        }
      }
    }
    return sum;
  }
};

}  // namespace emulation
#endif  // VLLM_KERNELS_TESTS_WNA16_EXPERTS_H_
