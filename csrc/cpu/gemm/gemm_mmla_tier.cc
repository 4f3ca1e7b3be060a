// Kernels on Arm's matrix instructions: pairs of rows of A times a panel, sums in registers.
// Packed A: groups of two rows, per step eight bytes of K of the one, then of the other.
#include "cpu/gemm/gemm_mmla.h"

#if VK_GEMM_MMLA
#include <cstring>

namespace vk::VK_TIER {
namespace {

constexpr size_t kMaxPairs = 6;
constexpr size_t kSumsRowBytes = kPanel * 4;

// Vectors of columns that are summed at once: as many as fit into 32 registers with their 2 x 2
// sums, besides A (of up to three pairs) or B (for more).
constexpr size_t VectorsFor(size_t pairs) {
  const size_t fits = pairs <= 3 ? 4 : 2;
  return HWY_MIN(fits, kPanelVectors);
}

// 2 x 2 sums of pairs of rows and vectors of columns, two for each vector.
template <class Product, size_t kPairs, size_t kVectors>
struct Tile {
  typename Product::Sums sums[kPairs * kVectors * 2];

  HWY_INLINE typename Product::Sums& At(size_t pair, size_t vector, size_t half) {
    return sums[(pair * kVectors + vector) * 2 + half];
  }

  HWY_INLINE void Load(const char* from, bool first) {
    ForEach<kPairs * kVectors>([&](size_t i) VK_INLINE_LAMBDA {
      Words both[2] = {ZeroWords(), ZeroWords()};
      if (!first) {
        const char* row = from + i / kVectors * 2 * kSumsRowBytes + i % kVectors * kWordsBytes;
        FromRows(LoadWords(row), LoadWords(row + kSumsRowBytes), both);
      }
      sums[2 * i] = Product::FromWords(both[0]);
      sums[2 * i + 1] = Product::FromWords(both[1]);
    });
  }

  HWY_INLINE void Store(char* to) const {
    ForEach<kPairs * kVectors>([&](size_t i) VK_INLINE_LAMBDA {
      Words rows[2];
      ToRows(Product::ToWords(sums[2 * i]), Product::ToWords(sums[2 * i + 1]), rows);
      char* row = to + i / kVectors * 2 * kSumsRowBytes + i % kVectors * kWordsBytes;
      StoreWords(rows[0], row);
      StoreWords(rows[1], row + kSumsRowBytes);
    });
  }

  // One step. Of few pairs A stays in registers and B passes by; of many B stays.
  template <class Source>
  HWY_INLINE void Add(const char* a, size_t a_stride, const char* b) {
    if constexpr (kPairs <= 3) {
      Words rows[kPairs];
      ForEach<kPairs>([&](size_t p) VK_INLINE_LAMBDA { rows[p] = LoadRows(a + p * a_stride); });
      ForEach<kVectors>([&](size_t v) VK_INLINE_LAMBDA {
        Words columns[2];
        Source::LoadColumns(b + v * Source::kVectorBytes, columns);
        ForEach<kPairs>([&](size_t p) VK_INLINE_LAMBDA { Multiply(p, v, rows[p], columns, b); });
      });
    } else {
      Words columns[kVectors][2];
      ForEach<kVectors>([&](size_t v) VK_INLINE_LAMBDA {
        Source::LoadColumns(b + v * Source::kVectorBytes, columns[v]);
      });
      ForEach<kPairs>([&](size_t p) VK_INLINE_LAMBDA {
        const Words rows = LoadRows(a + p * a_stride);
        ForEach<kVectors>([&](size_t v) VK_INLINE_LAMBDA { Multiply(p, v, rows, columns[v], a); });
      });
    }
  }

 private:
  // Nothing at `next` is read before: compilers would read ahead, into more registers than there
  // are.
  HWY_INLINE void Multiply(size_t pair, size_t vector, Words rows, const Words (&columns)[2],
                           const char*& next) {
    for (size_t i = 0; i < 2; ++i) {
      typename Product::Sums& sum = At(pair, vector, i);
      sum = Product::Multiply(sum, rows, columns[i]);
      asm("" : "+r"(next) : "w"(sum));
    }
  }
};

template <class Product, class Source, size_t kPairs>
void MultiplyPairs(const GemmBlock& block, size_t pair, Fetcher& fetcher) {
  constexpr size_t kVectors = VectorsFor(kPairs);
  for (size_t v = 0; v < kPanelVectors; v += kVectors) {
    const char* a = block.a + pair * block.a_group_stride;
    const char* b = block.b + v * Source::kVectorBytes;
    char* to = static_cast<char*>(block.sums) + pair * 2 * kSumsRowBytes + v * kWordsBytes;
    Tile<Product, kPairs, kVectors> tile;
    tile.Load(to, block.first);
    for (size_t s = 0; s < block.steps; ++s, a += kPairStepBytes, b += Source::kStepBytes) {
      fetcher.Fetch();
      tile.template Add<Source>(a, block.a_group_stride, b);
    }
    tile.Store(to);
  }
}

// One row would leave half of a matrix instruction idle, and zipping would cost as much as it
// saves. Lanes of A take the place of repeated values. A function that benchmarks.loops finds.
template <class Product, class Source>
HWY_NOINLINE void MultiplyRow(const GemmBlock& block, Fetcher& fetcher) {
  const char* a = block.a;
  const char* b = block.b;
  char* to = static_cast<char*>(block.sums);
  typename Product::Sums sums[kPanelVectors];
  ForEach<kPanelVectors>([&](size_t v) VK_INLINE_LAMBDA {
    sums[v] = Product::FromWords(block.first ? ZeroWords() : LoadWords(to + v * kWordsBytes));
  });
  for (size_t s = 0; s < block.steps; ++s, a += kPairStepBytes, b += Source::kStepBytes) {
    fetcher.Fetch();
    const Words row = LoadRows(a);
    ForEach<kPanelVectors>([&](size_t v) VK_INLINE_LAMBDA {
      Words units[2];
      Source::Load(b + v * Source::kVectorBytes, units);
      sums[v] = Product::template Dot<0>(sums[v], row, units[0]);
      sums[v] = Product::template Dot<1>(sums[v], row, units[1]);
    });
  }
  ForEach<kPanelVectors>([&](size_t v) VK_INLINE_LAMBDA {
    StoreWords(Product::ToWords(sums[v]), to + v * kWordsBytes);
  });
}

size_t StripsOf(const GemmBlock& block) { return CeilDiv(block.rows, 2 * kMaxPairs); }

template <class Product, class Source>
void MultiplyStrips(const GemmBlock& block, Fetcher fetcher) {
  using Pairs = void(const GemmBlock&, size_t, Fetcher&);
  static constexpr Pairs* kPairs[kMaxPairs] = {
      MultiplyPairs<Product, Source, 1>, MultiplyPairs<Product, Source, 2>,
      MultiplyPairs<Product, Source, 3>, MultiplyPairs<Product, Source, 4>,
      MultiplyPairs<Product, Source, 5>, MultiplyPairs<Product, Source, 6>};
  size_t pair = 0;
  for (size_t left = StripsOf(block); left > 0; --left) {
    // Strips of nearly equal height: the fewer rows, the more often B is read for each.
    const size_t pairs = CeilDiv(CeilDiv(block.rows, size_t{2}) - pair, left);
    kPairs[pairs - 1](block, pair, fetcher);
    pair += pairs;
  }
}

// `b_bytes`: what a part of B takes in memory. One row reads a panel once: what it reads soon is
// fetched, on into the next panel. For more rows the next part is fetched.
Fetcher MakeFetcher(const GemmBlock& block, size_t b_bytes) {
  if (block.near) return Fetcher(nullptr, 0, 0);
  if (block.rows == 1) return Fetcher(block.b + kFetchAhead, b_bytes, block.steps);
  const size_t calls = StripsOf(block) * (kPanelVectors / VectorsFor(kMaxPairs)) * block.steps;
  return Fetcher(block.b_next, b_bytes, calls);
}

// A part of a panel, which stays in the L1 cache while all rows are multiplied with it.
constexpr size_t kPartSteps = 64;
// Where more strips than this share a part, zipping it once costs less than in each.
constexpr size_t kDirectStrips = 3;

template <class Product, class Source>
void MultiplyZipped(const GemmBlock& block) {
  alignas(64) char columns[kPartSteps * Zipped::kStepBytes];
  char* to = columns;
  for (size_t s = 0; s < block.steps; ++s) {
    const char* b = block.b + s * Source::kStepBytes;
    for (size_t v = 0; v < kPanelVectors; ++v, to += Zipped::kVectorBytes) {
      Words vector[2];
      Source::LoadColumns(b + v * Source::kVectorBytes, vector);
      StoreWords(vector[0], to);
      StoreWords(vector[1], to + kWordsBytes);
    }
  }
  GemmBlock zipped = block;
  zipped.b = columns;
  MultiplyStrips<Product, Zipped>(zipped, MakeFetcher(block, block.steps * Source::kStepBytes));
}

template <class Product, class Source>
void Multiply(const GemmBlock& block) {
  if (StripsOf(block) > kDirectStrips) return MultiplyZipped<Product, Source>(block);
  Fetcher fetcher = MakeFetcher(block, block.steps * Source::kStepBytes);
  if (block.rows == 1) return MultiplyRow<Product, Source>(block, fetcher);
  MultiplyStrips<Product, Source>(block, fetcher);
}

// A missing row of the last pair keeps whatever the memory held: it only reaches sums that are
// never read.
template <class Product>
void PackRow(char* to, size_t group_stride, size_t row, const void* from, size_t depth) {
  constexpr size_t kBytes = kPairStepBytes / 2;
  to += row / 2 * group_stride + row % 2 * kBytes;
  const char* in = static_cast<const char*>(from);
  size_t bytes = depth * Product::kValueBytes;
  for (; bytes >= kBytes; bytes -= kBytes, in += kBytes, to += kPairStepBytes) {
    std::memcpy(to, in, kBytes);
  }
  if (bytes == 0) return;
  std::memset(to, 0, kBytes);
  std::memcpy(to, in, bytes);
}

template <class Product, class Source>
constexpr GemmKernel MakeKernel() {
  return {Product::kDepth,           2, kPairStepBytes, kPartSteps, 1, 0, PackRow<Product>,
          Multiply<Product, Source>, 0, kPartSteps / 2};
}

}  // namespace

const GemmKernel gemm_mmla_bf16 = MakeKernel<MmlaBf16, PackedUnits>();
const GemmKernel gemm_mmla_i8 = MakeKernel<MmlaI8, PackedUnits>();
const GemmKernel gemm_mmla_u4 = MakeKernel<MmlaI8, PackedNibbles>();

}  // namespace vk::VK_TIER
#endif  // VK_GEMM_MMLA
