// Kernels on POWER10's accumulators: groups of four rows of A times a panel. Packed A: per step two
// units of K, of each those of the four rows after each other.
#include "cpu/gemm/gemm_mma.h"

#if VK_GEMM_MMA
#include <cstring>

namespace vk::VK_TIER {
namespace {

constexpr size_t kAccumulators = 8, kMaxGroups = 2;
constexpr size_t kSumsRowBytes = kPanel * 4;

// 4 x 4 sums of groups of rows and vectors of columns.
template <class Product, size_t kGroups, size_t kVectors>
struct Tile {
  static constexpr size_t kCount = kGroups * kVectors;
  Accumulator sums[kCount];

  HWY_INLINE void Load(const char* from, bool first) {
    ForEach<kCount>([&](size_t i) VK_INLINE_LAMBDA {
      if (first) {
        __builtin_mma_xxsetaccz(&sums[i]);
        return;
      }
      const char* at = from + Place(i);
      Words rows[4];
      for (size_t r = 0; r < 4; ++r) rows[r] = LoadWords(at + r * kSumsRowBytes);
      if (Product::kTransposed) Transpose(rows);
      __builtin_mma_build_acc(
          &sums[i], reinterpret_cast<Bytes16>(rows[0]), reinterpret_cast<Bytes16>(rows[1]),
          reinterpret_cast<Bytes16>(rows[2]), reinterpret_cast<Bytes16>(rows[3]));
    });
  }

  HWY_INLINE void Store(char* to) {
    ForEach<kCount>([&](size_t i) VK_INLINE_LAMBDA {
      Words rows[4];
      __builtin_mma_disassemble_acc(rows, &sums[i]);
      if (Product::kTransposed) Transpose(rows);
      char* at = to + Place(i);
      for (size_t r = 0; r < 4; ++r) StoreWords(rows[r], at + r * kSumsRowBytes);
    });
  }

  // One step.
  template <class Source>
  HWY_INLINE void Add(const char* a, size_t a_stride, const char* b) {
    Bytes16 columns[kVectors][kStepUnits];
    for (size_t v = 0; v < kVectors; ++v) Source::Load(b + v * Source::kVectorBytes, columns[v]);
    for (size_t u = 0; u < kStepUnits; ++u, a += kVectorBytes16) {
      Bytes16 rows[kGroups];
      for (size_t g = 0; g < kGroups; ++g) rows[g] = LoadBytes(a + g * a_stride);
      ForEach<kCount>([&](size_t i) VK_INLINE_LAMBDA {
        Product::Add(sums[i], rows[i / kVectors], columns[i % kVectors][u]);
      });
    }
  }

 private:
  static constexpr size_t Place(size_t i) {
    return i / kVectors * kGroupRows * kSumsRowBytes + i % kVectors * kVectorBytes16;
  }
};

template <class Product, class Source, size_t kGroups>
HWY_NOINLINE void MultiplyGroups(const GemmBlock& block, size_t group, Fetcher& fetcher) {
  constexpr size_t kVectors = kAccumulators / kGroups;
  for (size_t v = 0; v < kPanelVectors; v += kVectors) {
    const char* a = block.a + group * block.a_group_stride;
    const char* b = block.b + v * Source::kVectorBytes;
    char* to =
        static_cast<char*>(block.sums) + group * kGroupRows * kSumsRowBytes + v * kVectorBytes16;
    Tile<Product, kGroups, kVectors> tile;
    tile.Load(to, block.first);
    for (size_t s = 0; s < block.steps; ++s, a += kGroupStepBytes, b += Source::kStepBytes) {
      fetcher.Fetch();
      tile.template Add<Source>(a, block.a_group_stride, b);
    }
    tile.Store(to);
  }
}

size_t GroupsOf(const GemmBlock& block) { return CeilDiv(block.rows, kGroupRows); }

template <class Product, class Source>
void MultiplyStrips(const GemmBlock& block, Fetcher fetcher) {
  const size_t groups = GroupsOf(block);
  size_t group = 0;
  for (; group + kMaxGroups <= groups; group += kMaxGroups) {
    MultiplyGroups<Product, Source, kMaxGroups>(block, group, fetcher);
  }
  if (group < groups) MultiplyGroups<Product, Source, 1>(block, group, fetcher);
}

// Up to here a panel is read once, so K is not split.
constexpr size_t kFewRows = kGroupRows;

// `b_bytes`: what a part of B takes in memory. Where a panel is read once, what is read soon is
// fetched, on into the next panel. For more rows the next part is fetched.
Fetcher MakeFetcher(const GemmBlock& block, size_t b_bytes) {
  if (block.near) return Fetcher(nullptr, 0, 0);
  const size_t strips = CeilDiv(GroupsOf(block), kMaxGroups);
  const size_t calls = strips * (kPanelVectors / (kAccumulators / kMaxGroups)) * block.steps;
  if (block.rows <= kFewRows) {
    return Fetcher(block.b + kFetchAhead, b_bytes, kPanelVectors / kAccumulators * block.steps);
  }
  return Fetcher(block.b_next, b_bytes, calls);
}

// A part of a panel, which stays in the L1 cache while all rows are multiplied with it.
constexpr size_t kPartSteps = 64;
// Where more rows than this share a part, converting it once costs less than for each strip.
constexpr size_t kDirectRows = 24;

template <class Product, class Source>
void MultiplyConverted(const GemmBlock& block) {
  alignas(64) char units[kPartSteps * PackedUnits::kStepBytes];
  for (size_t s = 0; s < block.steps; ++s) {
    const char* b = block.b + s * Source::kStepBytes;
    char* to = units + s * PackedUnits::kStepBytes;
    for (size_t v = 0; v < kPanelVectors; ++v, to += kVectorBytes16) {
      Bytes16 both[kStepUnits];
      Source::Load(b + v * Source::kVectorBytes, both);
      std::memcpy(to, &both[0], kVectorBytes16);
      std::memcpy(to + kPanelUnitBytes, &both[1], kVectorBytes16);
    }
  }
  GemmBlock converted = block;
  converted.b = units;
  MultiplyStrips<Product, PackedUnits>(converted,
                                       MakeFetcher(block, block.steps * Source::kStepBytes));
}

template <class Product, class Source>
void Multiply(const GemmBlock& block) {
  if constexpr (Source::kConverted) {
    if (block.rows > kDirectRows) return MultiplyConverted<Product, Source>(block);
  }
  MultiplyStrips<Product, Source>(block, MakeFetcher(block, block.steps * Source::kStepBytes));
}

// Values of the last step past `depth` meet zeros of B, but must not be NaN. Missing rows of the
// last group keep whatever the memory held: they only reach sums that are never read.
template <class Product>
void PackUnits(char* to, const char* from, size_t bytes) {
  constexpr size_t kStepBytes = kStepUnits * kUnitBytes;
  for (size_t i = 0; i < bytes; i += kStepBytes) {
    uint32_t units[kStepUnits] = {};
    std::memcpy(units, from + i, HWY_MIN(kStepBytes, bytes - i));
    for (size_t u = 0; u < kStepUnits; ++u, to += kVectorBytes16) {
      if (Product::kShift != 0) units[u] ^= 0x80808080u;
      std::memcpy(to, units + u, kUnitBytes);
    }
  }
}

template <class Product>
void PackRow(char* to, size_t group_stride, size_t row, const void* from, size_t depth) {
  using Value = typename Product::Value;
  to += row / kGroupRows * group_stride + row % kGroupRows * kUnitBytes;
  const Value* in = static_cast<const Value*>(from);
  if constexpr (Product::kUnit * sizeof(Value) == kUnitBytes) {
    PackUnits<Product>(to, reinterpret_cast<const char*>(in), depth * sizeof(Value));
  } else {
    constexpr size_t kWidened = 256;  // values at a time
    alignas(64) float wide[kWidened];
    for (size_t k = 0; k < depth; k += kWidened, to += kWidened / kStepUnits * kGroupStepBytes) {
      const size_t count = HWY_MIN(kWidened, depth - k);
      WidenRow<Value>(wide, in + k, count);
      PackUnits<Product>(to, reinterpret_cast<const char*>(wide), count * sizeof(float));
    }
  }
}

template <class Product, class Source>
constexpr GemmKernel MakeKernel() {
  return {kStepUnits * Product::kUnit,
          kGroupRows,
          kGroupStepBytes,
          kPartSteps,
          kFewRows,
          Product::kShift,
          PackRow<Product>,
          Multiply<Product, Source>,
          0,
          kPartSteps / 2};
}

}  // namespace

const GemmKernel gemm_mma_f32 = MakeKernel<MmaF32, PackedUnits>();
const GemmKernel gemm_mma_bf16 = MakeKernel<MmaBf16, PackedUnits>();
const GemmKernel gemm_mma_f16 = MakeKernel<MmaF16, PackedHalves>();
const GemmKernel gemm_mma_i8 = MakeKernel<MmaI8, PackedUnits>();
const GemmKernel gemm_mma_u4 = MakeKernel<MmaSmall, PackedNibbles>();

}  // namespace vk::VK_TIER
#endif  // VK_GEMM_MMA
