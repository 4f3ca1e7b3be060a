#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/gemm/gemm_table.h"
#include "cpu/gemm/gemm_weights.h"
#include "cpu/parallel.h"
#include "cpu/round.h"
#include "cpu/scratch.h"

namespace vk {
namespace {

// K is padded to whole oneDNN blocks of 16 units, which are also whole AMX tiles.
constexpr size_t kBlockUnits = 16;

// Values of K that lie together.
size_t UnitOf(int32_t dtype) { return dtype == VK_I8 ? 4 : dtype == VK_BF16 ? 2 : 1; }

// Where b lies and how it is walked, in bytes.
struct Source {
  const char* data;
  size_t value_bytes, depth, columns;
  int64_t k_stride, n_stride;
};

// One column's `count` values from depth `k`, zero-filled to `wanted` values.
void ReadColumn(const Source& b, size_t column, size_t k, size_t count, size_t wanted, char* to) {
  const char* from =
      b.data + static_cast<int64_t>(column) * b.n_stride + static_cast<int64_t>(k) * b.k_stride;
  if (b.k_stride == static_cast<int64_t>(b.value_bytes)) {
    std::memcpy(to, from, count * b.value_bytes);
  } else {
    for (size_t i = 0; i < count; ++i, from += b.k_stride) {
      std::memcpy(to + i * b.value_bytes, from, b.value_bytes);
    }
  }
  std::memset(to + count * b.value_bytes, 0, (wanted - count) * b.value_bytes);
}

// A block of kBlockUnits units of K and one panel's columns, from [column][unit] to [unit][column].
template <class Unit>
void TransposeBlock(const Unit (*from)[kBlockUnits], Unit* to) {
  for (size_t unit = 0; unit < kBlockUnits; ++unit) {
    for (size_t column = 0; column < kPanel; ++column)
      to[unit * kPanel + column] = from[column][unit];
  }
}

template <class Unit>
void PackPanel(const Source& b, size_t panel, char* to) {
  const size_t first = panel * kPanel;
  const size_t columns = std::min(kPanel, b.columns - first);
  const size_t block_depth = kBlockUnits * sizeof(Unit) / b.value_bytes;
  alignas(kCacheLine) Unit block[kPanel][kBlockUnits] = {};
  for (size_t k = 0; k < b.depth; k += block_depth, to += sizeof(block)) {
    const size_t count = std::min(block_depth, b.depth - k);
    for (size_t column = 0; column < columns; ++column) {
      ReadColumn(b, first + column, k, count, block_depth, reinterpret_cast<char*>(block[column]));
    }
    TransposeBlock(block, reinterpret_cast<Unit*>(to));
  }
}

// sum_k b[k, n] of one packed int8 panel.
void SumPanel(const GemmWeights& weights, size_t panel, int32_t* sums) {
  const int8_t* packed = reinterpret_cast<const int8_t*>(weights.panel(panel));
  for (size_t k = 0; k < weights.padded_depth; k += 4) {
    for (size_t column = 0; column < kPanel; ++column, packed += 4) {
      sums[column] += packed[0] + packed[1] + packed[2] + packed[3];
    }
  }
}

// An expanded matrix has few bytes of its own and as many as it has elements when it is packed; a
// system that overcommits would grant them and end the process later.
void CheckPackedBytes(const vk_tensor& b, const GemmWeights& weights) {
  // Of int8: sums, scales and azp_adj.
  const size_t of_column = b.dtype == VK_I8 ? 3 * sizeof(float) : 0;
  const size_t of_panel = SaturatingMultiply(weights.padded_depth, kPanel * DtypeSize(b.dtype));
  size_t bytes = 0;
  const bool counted =
      Add(of_panel, kPanel * of_column, &bytes) && Multiply(bytes, weights.panels, &bytes);
  if (counted && bytes <= MemorySize()) return;
  Fail(VK_INVALID_ARGUMENT,
       "%s: b of shape %s needs more memory than this machine has, want fewer elements",
       b.dtype == VK_I8 ? "create_onednn_scaled_mm_handler" : "create_onednn_mm_handler",
       ShapeString(b).c_str());
}

}  // namespace

size_t GemmWeights::panel_bytes() const {
  if (codes) return padded_depth * kPanel / kCompactRowValues * kCompactRowBytes;
  return padded_depth * kPanel * DtypeSize(dtype);
}

std::unique_ptr<GemmWeights> PackGemmWeights(const vk_tensor& b) {
  auto weights = std::make_unique<GemmWeights>();
  weights->dtype = b.dtype;
  weights->depth = b.shape[0];
  weights->columns = b.shape[1];
  weights->padded_depth = RoundUp(weights->depth, kBlockUnits * UnitOf(b.dtype));
  weights->panels = RoundUp(weights->columns, kPanel) / kPanel;
  CheckPackedBytes(b, *weights);
  weights->data = AllocateBytes(weights->panels * weights->panel_bytes());
  if (b.dtype == VK_I8) weights->sums.resize(weights->panels * kPanel);

  if (weights->depth == 0) return weights;  // however many columns there are
  const int64_t value_bytes = DtypeSize(b.dtype);
  const Source source{static_cast<const char*>(b.data),
                      static_cast<size_t>(value_bytes),
                      weights->depth,
                      weights->columns,
                      b.stride[0] * value_bytes,
                      b.stride[1] * value_bytes};
  ParallelFor(weights->panels, GrainFor(weights->panel_bytes()), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      char* to = weights->data.get() + panel * weights->panel_bytes();
      if (b.dtype == VK_F16) {
        PackPanel<uint16_t>(source, panel, to);
      } else {
        PackPanel<uint32_t>(source, panel, to);
      }
      if (b.dtype == VK_I8) SumPanel(*weights, panel, weights->sums.data() + panel * kPanel);
    }
  });
  CompactGemmWeights(*weights);
  return weights;
}

}  // namespace vk
