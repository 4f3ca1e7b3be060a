// Makes weights compact (gemm_table.h) where that pays.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/gemm/gemm_weights.h"
#include "cpu/parallel.h"
#include "cpu/round.h"

namespace vk {
namespace {

constexpr size_t kExponents = 256;
constexpr uint8_t kNoCode = 0x80;  // codes are below 16
constexpr uint32_t kEndOfPanel = UINT32_MAX;
// Smaller matrices stay in a cache, and expanding is slower than reading from there.
constexpr size_t kSmallestBytes = size_t{1} << 20;
constexpr size_t kCountOneIn = 8;  // panels
// Each value without a code costs a branch. Where more than one in this many has none, the weights
// stay in 16 bits.
constexpr size_t kRareOneIn = 256;

using Counts = std::array<size_t, kExponents>;

size_t ExponentOf(uint16_t value) { return value >> 7 & 0xFF; }

// VLLM_KERNELS_CPU_COMPACT: 0 never, 1 wherever possible, else where it pays.
bool Wanted(const GemmWeights& weights) {
  if (weights.dtype != VK_BF16 || weights.panel_bytes() / 2 >= kEndOfPanel) return false;
  if (weights.panel_bytes() == 0) return false;
  const char* variable = std::getenv("VLLM_KERNELS_CPU_COMPACT");
  if (variable != nullptr && std::strcmp(variable, "0") == 0) return false;
  if (variable != nullptr && std::strcmp(variable, "1") == 0) return true;
  return weights.panels * weights.panel_bytes() >= kSmallestBytes &&
         Kernels().gemm->kernel[VK_BF16]->prefers_compact;
}

const uint16_t* ValuesOf(const GemmWeights& weights, size_t panel) {
  return reinterpret_cast<const uint16_t*>(weights.panel(panel));
}

// Counts the exponents of some panels, which stand for all.
Counts CountExponents(const GemmWeights& weights) {
  std::array<std::atomic<size_t>, kExponents> total{};
  const size_t count = weights.panel_bytes() / sizeof(uint16_t);
  const int64_t panels = CeilDiv(weights.panels, kCountOneIn);
  ParallelFor(panels, GrainFor(weights.panel_bytes()), [&](int64_t begin, int64_t end) {
    Counts counts{};
    for (int64_t panel = begin; panel < end; ++panel) {
      const uint16_t* values = ValuesOf(weights, panel * kCountOneIn);
      for (size_t i = 0; i < count; ++i) ++counts[ExponentOf(values[i])];
    }
    for (size_t i = 0; i < kExponents; ++i) total[i] += counts[i];
  });
  Counts counts;
  std::copy(total.begin(), total.end(), counts.begin());
  return counts;
}

// The exponents with codes, and the code of each exponent.
struct Coding {
  GemmCodes codes;
  std::array<uint8_t, kExponents> code_of;
  bool enough;  // codes, for nearly all values

  explicit Coding(const Counts& counts) {
    std::array<size_t, kExponents> order;
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return counts[a] > counts[b]; });
    code_of.fill(kNoCode);
    size_t rare = std::accumulate(counts.begin(), counts.end(), size_t{0});
    const size_t most = rare / kRareOneIn;
    for (size_t code = 0; code < std::size(codes.upper); ++code) {
      const size_t exponent = order[code];
      codes.upper[code] = exponent >> 1;
      codes.lower[code] = (exponent & 1) << 7;
      code_of[exponent] = code;
      rare -= counts[exponent];
    }
    enough = rare <= most;
  }
};

// Turns one packed panel into rows of kCompactRowBytes; values without a code go to `rare`.
void CompactPanel(const uint16_t* from, size_t rows, const Coding& coding, char* data,
                  std::vector<GemmRare>& rare) {
  uint8_t* to = reinterpret_cast<uint8_t*>(data);
  for (size_t row = 0; row < rows; ++row, from += kCompactRowValues, to += kCompactRowBytes) {
    uint8_t code_of[kCompactRowValues], none = 0;
    for (size_t i = 0; i < kCompactRowValues; ++i) {
      code_of[i] = coding.code_of[ExponentOf(from[i])];
      none |= code_of[i];
    }
    if (none & kNoCode) {
      for (size_t i = 0; i < kCompactRowValues; ++i) {
        if (code_of[i] != kNoCode) continue;
        rare.push_back({static_cast<uint32_t>(row * kCompactRowValues + i), from[i]});
        code_of[i] = 0;
      }
    }
    // Eight values from the first 32 of a half, then eight from the others.
    for (size_t half = 0, at = 0; half < 2; ++half) {
      for (size_t eight = 0; eight < 8; ++eight, at += 8) {
        const size_t first = half * kPanel + eight % 2 * 32 + eight / 2 * 8;
        for (size_t i = 0; i < 8; ++i) {
          to[at + i] = (from[first + i] >> 8 & 0x80) | (from[first + i] & 0x7F);
        }
      }
    }
    uint8_t* codes = to + kCompactRowValues;
    for (size_t eight = 0; eight < 8; ++eight) {
      const uint8_t* first = code_of + eight % 2 * 32 + eight / 2 * 8;
      for (size_t i = 0; i < 8; ++i) codes[eight * 8 + i] = first[i] | first[kPanel + i] << 4;
    }
  }
  rare.push_back({kEndOfPanel, 0});
}

}  // namespace

GemmCompact GemmWeights::compact_panel(size_t panel, size_t row) const {
  const std::vector<GemmRare>& list = rare[panel];
  const auto first =
      std::lower_bound(list.begin(), list.end(), row * kCompactRowValues,
                       [](const GemmRare& value, size_t place) { return value.at < place; });
  return {this->panel(panel) + row * kCompactRowBytes, row, codes.get(), &*first};
}

void CompactGemmWeights(GemmWeights& weights) {
  if (!Wanted(weights)) return;
  const Coding coding(CountExponents(weights));
  if (!coding.enough) return;
  const size_t rows = weights.padded_depth / 2, panel_bytes = rows * kCompactRowBytes;
  Bytes data = AllocateBytes(weights.panels * panel_bytes);
  std::vector<std::vector<GemmRare>> rare(weights.panels);
  ParallelFor(weights.panels, GrainFor(weights.panel_bytes()), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      CompactPanel(ValuesOf(weights, panel), rows, coding, data.get() + panel * panel_bytes,
                   rare[panel]);
    }
  });
  size_t count = 0;
  for (const auto& panel : rare) count += panel.size() - 1;
  if (count > weights.panels * rows * kCompactRowValues / kRareOneIn) return;
  weights.rare = std::move(rare);
  weights.codes = std::make_unique<GemmCodes>(coding.codes);
  weights.data = std::move(data);
}

}  // namespace vk
