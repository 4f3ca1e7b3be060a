// Every FP4 weight with every scale, as csrc/cuda/wna16 makes 16-bit floats of them, against
// double. Prints what differs; exit status 1 then.
#include "wna16_product.h"

#include "cuda/wna16/common/fragments.cuh"

namespace {

using namespace emulation;  // NOLINT: everything here is about it

int checked = 0, wrong = 0;

template <class T>
void Expect(uint16_t bits, double want, int code, int weight) {
  ++checked;
  // Rounded once where the type does not hold it; what is larger than the type's largest is inf.
  const double rounded = T::ToFloat(T::FromFloat(static_cast<float>(want)));
  const double got = T::ToFloat(bits);
  if (std::isnan(want)) {  // nothing times an infinite scale
    wrong += std::isnan(got) ? 0 : 1;
    return;
  }
  if (got == rounded && std::signbit(got) == ((weight & 8) != 0)) return;
  if (++wrong <= 8) std::printf("scale %d, weight %d: %g, want %g\n", code, weight, got, rounded);
}

// The scale in the lane's row of each of four tiles, each half of its rows.
template <class T, WeightType kType, int kMmaTiles>
void CheckScales(int code, double scale) {
  for (int tile = 0; tile < 4; tile += kMmaTiles) {
    for (int column = 0; column < 8; ++column) {
      alignas(8) uint8_t bytes[8] = {};
      // Column 8 * `column` of lane 0's, whose eight columns lie side by side.
      bytes[Fp4ScalePosition(8 * column)] = static_cast<uint8_t>(code);
      uint32_t pairs[kMmaTiles][2];
      LoadFp4Scales<T, kType>(pairs, bytes, tile);
      if (column / 2 < tile || column / 2 >= tile + kMmaTiles) continue;
      const uint32_t pair = pairs[column / 2 - tile][column % 2];
      for (int q = 0; q < 256; ++q) {
        uint32_t a[4];
        // Elements 0 to 3 of a word are the first of each pair, 4 to 7 the second.
        const uint32_t first = q & 15, second = static_cast<uint32_t>(q) >> 4;
        DequantFp4<T, kType>(a, first * 0x1111 + (second * 0x1111 << 16), pair, pair);
        for (const uint32_t both : a) {
          Expect<T>(static_cast<uint16_t>(both), Fp4Value(q & 15) * scale, code, q & 15);
          Expect<T>(static_cast<uint16_t>(both >> 16), Fp4Value(q >> 4) * scale, code, q >> 4);
        }
      }
    }
  }
}

template <class T, WeightType kType>
void CheckAll(int first, int last, double (*scale)(int)) {
  for (int code = first; code <= last; ++code) {
    CheckScales<T, kType, 4>(code, scale(code));
    if (code % 16 != 7) continue;  // how tiles are told apart does not depend on the code
    CheckScales<T, kType, 2>(code, scale(code));
    CheckScales<T, kType, 1>(code, scale(code));
  }
}

double PowerOfTwo(int code) { return std::ldexp(1.0, code - 127); }
double LowPowerOfTwo(int code) { return std::ldexp(1.0, code - 127 - 40); }
double Infinite(int) { return INFINITY; }
double OfMatrix(int code) { return Fp4ScaleValue(code) * 0x1p-14; }

}  // namespace

int main() {
  CheckAll<Bf16Arithmetic, WeightType::kMxFp4>(0, 168, LowPowerOfTwo);
  CheckAll<Bf16Arithmetic, WeightType::kMxFp4>(169, 255, Infinite);
  CheckAll<Fp16Arithmetic, WeightType::kMxFp4>(104, 139, PowerOfTwo);  // what float16 holds
  CheckAll<Bf16Arithmetic, WeightType::kNvFp4>(0, 247, OfMatrix);
  CheckAll<Fp16Arithmetic, WeightType::kNvFp4>(0, 0, OfMatrix);
  CheckAll<Fp16Arithmetic, WeightType::kNvFp4>(128, 247, OfMatrix);  // what the engine makes
  std::printf("%d weights, %d wrong\n", checked, wrong);
  return wrong == 0 ? 0 : 1;
}
