// A random product with packed weights, as the engine prepares its operands, and what comes out in
// float64. The engine's permutations stand here as its Python has them, not as layout.h does.
#ifndef VLLM_KERNELS_TESTS_WNA16_PRODUCT_H_
#define VLLM_KERNELS_TESTS_WNA16_PRODUCT_H_

#include "device.h"

#include <random>
#include <type_traits>

#include "cuda/wna16/common/arithmetic.cuh"
#include "cuda/wna16/common/plan.h"
#include "cuda/wna16/weight_type.h"

namespace emulation {

using namespace vk::cuda::wna16;  // NOLINT: everything here is about it

struct Case {
  int m, n, k, group, sms;
  bool bias;
};

inline std::vector<int> ScaleOrder(int n, bool per_channel) {
  std::vector<int> order;
  for (int block = 0; block < n; block += per_channel ? 32 : 64) {
    if (per_channel) {
      for (int i = 0; i < 4; ++i) {
        for (int j : {0, 1, 8, 9, 16, 17, 24, 25}) order.push_back(block + 2 * i + j);
      }
    } else {
      for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) order.push_back(block + i + 8 * j);
      }
    }
  }
  return order;
}

inline float Fp8Value(int bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float value = exponent == 0
                          ? static_cast<float>(mantissa) / 512.f
                          : std::ldexp(1.f + static_cast<float>(mantissa) / 8.f, exponent - 7);
  return bits & 128 ? -value : value;
}

inline float Fp4Value(int bits) {
  const float magnitudes[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  return bits & 8 ? -magnitudes[bits & 7] : magnitudes[bits & 7];
}

// Five bits of exponent and three of mantissa, as bits 14 to 7 of a half.
inline float Fp4ScaleValue(int bits) {
  const int exponent = bits >> 3, mantissa = bits & 7;
  return exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -17)
                       : std::ldexp(1.f + static_cast<float>(mantissa) / 8.f, exponent - 15);
}

// Where the engine puts the scales of FP4 within each four of the order of ScaleOrder.
inline constexpr int kFp4Order[4] = {0, 2, 1, 3};

// Boxes of FP4's scales [rows, n], as Fp4ScaleMap's; empty for other types.
template <WeightType kType>
CUtensorMap EncodeScales(const uint8_t* scales, int n, int rows, int columns, int chunks) {
  if (!IsFp4(kType)) return {};
  return Encode({reinterpret_cast<const char*>(scales),
                 2,
                 1,
                 {n, rows},
                 {n},
                 {static_cast<uint32_t>(columns), static_cast<uint32_t>(chunks * ScaleRows(kType))},
                 true});
}

// The first place of 16 bytes, which kernels want, in memory with as many to spare.
template <class T, class Memory>
T* Aligned(const std::vector<Memory>& memory) {
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.data()) + 15) / 16 * 16);
}

template <class T, WeightType kType>
class Product {
 public:
  static constexpr bool kHalf = std::is_same_v<T, Fp16Arithmetic>;
  static constexpr int kBits = Bits(kType);

  explicit Product(Case one)
      : c((one.group = IsFp4(kType) ? Fp4Group(kType) : one.group, one)),
        groups(c.k / c.group),
        lda(c.k + 8),
        a(static_cast<size_t>(c.m) * lda),
        scales(static_cast<size_t>(groups) * c.n),
        fp4_scales(static_cast<size_t>(groups) * c.n + 16),
        bias(static_cast<size_t>(c.n)),
        out(static_cast<size_t>(c.m) * c.n, 0x7fff),
        weights_(static_cast<size_t>(c.k) * c.n * kBits / 32 + 4),
        zeros_(static_cast<size_t>(groups) * c.n / 8 + 4),
        random_(static_cast<unsigned>(c.m * 7 + c.n + c.k + c.group)) {
    for (uint16_t& x : a) x = T::FromFloat(normal_(random_));
    FillWeights();
    FillScales();
    FillZeros();
    for (int p = 0; p < c.n; ++p) bias[p] = T::FromFloat(normal_(random_));
  }

  // The operands that all kernels have.
  template <class Params>
  Params Operands() {
    Params params{};
    params.weights = weights();
    params.scales = IsFp4(kType) ? static_cast<const void*>(Fp4Scales()) : scales.data();
    params.zeros = zeros();
    params.global_scale = &global_scale_;
    params.bias = c.bias ? bias.data() : nullptr;
    params.c = out.data();
    params.m = c.m;
    params.n = c.n;
    params.k = c.k;
    params.group_magic = GroupMagic(c.group);
    params.per_channel = per_channel();
    return params;
  }

  CUtensorMap ScaleMap(int columns, int chunks) const {
    return EncodeScales<kType>(Fp4Scales(), c.n, groups, columns, chunks);
  }

  bool per_channel() const { return c.group == c.k; }

  // Whether every element of `out` is what it should be, but for roundings: of the sum to T, of
  // float32 sums, and of the weights to T where the kernel says so.
  bool Right(bool rounds_weights) const {
    const double u = kHalf ? 0x1p-11 : 0x1p-8;
    const std::vector<int> channels = ScaleOrder(c.n, true);
    std::vector<double> bias_values(static_cast<size_t>(c.n));
    for (int p = 0; p < c.n; ++p) bias_values[channels[p]] = c.bias ? T::ToFloat(bias[p]) : 0;
    int wrong = 0;
    for (int m = 0; m < c.m; ++m) {
      for (int n = 0; n < c.n; ++n) {
        double sum = 0, size = 0;
        for (int k = 0; k < c.k; ++k) {
          const double one = T::ToFloat(a[static_cast<size_t>(m) * lda + k]) * Weight(k, n);
          sum += one;
          size += std::fabs(one);
        }
        sum += bias_values[n];
        const double got = T::ToFloat(out[static_cast<size_t>(m) * c.n + n]);
        const double bound =
            u * std::fabs(sum) + (rounds_weights ? u : 1e-6) * size + (kHalf ? 0x1p-24 : 0);
        if (std::fabs(got - sum) <= bound) continue;
        if (++wrong <= 3) std::printf("row %d column %d: %g, want %g\n", m, n, got, sum);
      }
    }
    if (wrong > 0) {
      std::printf("%d of %d wrong: %s, weights %d, m %d, n %d, k %d, group %d, %d SMs\n", wrong,
                  c.m * c.n, kHalf ? "float16" : "bfloat16", static_cast<int>(kType), c.m, c.n, c.k,
                  c.group, c.sms);
    }
    return wrong == 0;
  }

  std::mt19937& random() { return random_; }
  const void* weights() const { return Aligned<void>(weights_); }
  const uint32_t* zeros() const { return Aligned<uint32_t>(zeros_); }

  const Case c;
  const int groups;
  const int64_t lda;
  std::vector<uint16_t> a, scales;
  std::vector<uint8_t> fp4_scales;
  std::vector<uint16_t> bias, out;

 private:
  uint8_t* Fp4Scales() const { return Aligned<uint8_t>(fp4_scales); }

  double Weight(int k, int n) const {
    const size_t at = static_cast<size_t>(k / c.group) * c.n + n;
    const int q = quantized_[static_cast<size_t>(k) * c.n + n];
    const double value = kType == WeightType::kU4B8     ? q - 8
                         : kType == WeightType::kU4     ? q - zero_values_[at]
                         : kType == WeightType::kU8B128 ? q - 128
                         : IsFp4(kType)                 ? Fp4Value(q)
                                                        : Fp8Value(q);
    return value * scale_values_[at];
  }

  void FillWeights() {
    quantized_.resize(static_cast<size_t>(c.k) * c.n);
    for (int& q : quantized_) {
      do {
        q = static_cast<int>(random_() % (1u << kBits));
      } while (kType == WeightType::kFp8 && (q & 127) == 127);
    }
    auto* const words = Aligned<uint32_t>(weights_);
    for (int64_t index = 0; index < static_cast<int64_t>(c.k) * c.n * kBits / 32; ++index) {
      const int tile = static_cast<int>(index / PackedTileWords(kBits));
      for (int e = 0; e < 32 / kBits; ++e) {
        const Place place =
            PackedTilePlace(kBits, static_cast<int>(index % PackedTileWords(kBits)), e);
        const int row = tile % (c.k / 16) * 16 + place.k, column = tile / (c.k / 16) * 64 + place.n;
        words[index] |= static_cast<uint32_t>(quantized_[static_cast<size_t>(row) * c.n + column])
                        << (kBits * e);
      }
    }
  }

  void FillScales() {
    const std::vector<int> order = ScaleOrder(c.n, per_channel());
    scale_values_.resize(scales.size());
    if (IsFp4(kType)) return FillFp4Scales(order);
    for (int g = 0; g < groups; ++g) {
      for (int p = 0; p < c.n; ++p) {
        const int factor = kType != WeightType::kFp8 ? 0 : kHalf ? 8 : 120;
        const float scale = 0.01f + 0.02f * static_cast<float>(random_() % 100) / 100;
        const size_t row = static_cast<size_t>(g) * c.n;
        scales[row + p] = T::FromFloat(std::ldexp(scale, factor));
        scale_values_[row + order[p]] = std::ldexp(T::ToFloat(scales[row + p]), -factor);
      }
    }
  }

  // Powers of two from one end of float16 to the other; halves of NVFP4's range, and zeros. The
  // engine gives the scale of the matrix a factor of its own for each type of activations.
  void FillFp4Scales(const std::vector<int>& order) {
    global_scale_ = std::ldexp(0.0625f, kHalf ? 7 : 119);
    for (int g = 0; g < groups; ++g) {
      const size_t row = static_cast<size_t>(g) * c.n;
      for (int p = 0; p < c.n; ++p) {
        const int column = order[p / 4 * 4 + kFp4Order[p % 4]];
        int code = static_cast<int>(random_() % 12) + 110;
        if (kType == WeightType::kNvFp4) code = static_cast<int>(random_() % 80) + 0x80;
        if (random_() % 16 == 0) code = 0;
        Fp4Scales()[row + p] = static_cast<uint8_t>(code);
        scale_values_[row + column] = kType == WeightType::kNvFp4
                                          ? Fp4ScaleValue(code) * 0x1p-7 * 0.0625
                                          : std::ldexp(1.0, code - 127);
      }
    }
  }

  void FillZeros() {
    const std::vector<int> order = ScaleOrder(c.n, false);
    const int interleave[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    zero_values_.resize(scales.size());
    for (int& zero : zero_values_) zero = static_cast<int>(random_() % 16);
    auto* const words = Aligned<uint32_t>(zeros_);
    for (int g = 0; g < groups; ++g) {
      for (int word = 0; word < c.n / 8; ++word) {
        for (int i = 0; i < 8; ++i) {
          const int column = order[word * 8 + interleave[i]];
          words[g * c.n / 8 + word] |=
              static_cast<uint32_t>(zero_values_[static_cast<size_t>(g) * c.n + column]) << (4 * i);
        }
      }
    }
  }

  std::vector<uint32_t> weights_, zeros_;
  std::vector<int> quantized_, zero_values_;
  std::vector<double> scale_values_;
  float global_scale_ = NAN;
  std::mt19937 random_;
  std::normal_distribution<float> normal_;
};

// Calls run.template operator()<T, kType>() for every dtype and weight type until one is not right;
// whether all are. VK_ONE_TYPE: for that one, which compiles in a small part of the time.
template <class Run>
bool ForAllTypes(const Run& run) {
#ifdef VK_ONE_TYPE
  return run.template operator()<Bf16Arithmetic, WeightType::VK_ONE_TYPE>();
#else
  const auto types = [&]<class T>() {
    return run.template operator()<T, WeightType::kU4B8>() &&
           run.template operator()<T, WeightType::kU4>() &&
           run.template operator()<T, WeightType::kU8B128>() &&
           run.template operator()<T, WeightType::kFp8>() &&
           run.template operator()<T, WeightType::kMxFp4>() &&
           run.template operator()<T, WeightType::kNvFp4>();
  };
  return types.template operator()<Bf16Arithmetic>() && types.template operator()<Fp16Arithmetic>();
#endif
}

}  // namespace emulation
#endif  // VLLM_KERNELS_TESTS_WNA16_PRODUCT_H_
