// Random problems through the kernels of csrc/cuda/mqa_logits on an emulated GPU, against float64.
// mqa_logits_emulation SEED COUNT: prints what differs; exit status 1 then.
#include "device.h"
#include "seeded.h"

#include "cuda/mqa_logits/contiguous.cuh"
#include "cuda/mqa_logits/cuts.cuh"
#include "cuda/mqa_logits/kernel.cuh"
#include "cuda/mqa_logits/paged.cuh"

VK_EMULATED_SHARED("_ZN2vk4cuda10mqa_logits9unalignedE");
VK_EMULATED_SHARED("_ZN2vk4cuda9unalignedE");

namespace {

using namespace emulation::seeded;
using namespace vk::cuda;
using namespace vk::cuda::mqa_logits;

E4M3 Value() { return E4M3(Normal()); }

constexpr float kUntouched = 12345.0f;

// Queries, weights and logits, all with rows that are farther apart than they are long.
template <int kHeads>
struct Rows {
  int rows, columns;
  std::vector<E4M3> query;
  std::vector<float> weights, logits;
  std::vector<double> wanted;
  int64_t query_stride = kHeads * kDepth + 16, weights_stride = kHeads + 4;

  Rows(int count, int width) : rows(count), columns(width) {
    query.resize(static_cast<size_t>(rows * query_stride));
    for (E4M3& x : query) x = Value();
    weights.resize(static_cast<size_t>(rows * weights_stride));
    for (float& x : weights) x = Normal();
    logits.assign(static_cast<size_t>(rows) * (columns + 3), kUntouched);
    wanted.assign(logits.size(), kUntouched);
  }

  void Fill(Problem& p) {
    p.logits = logits.data();
    p.logits_stride = columns + 3;
    p.columns = columns;
    p.weights = weights.data();
    p.weights_stride = weights_stride;
    p.rows = rows;
  }

  CUtensorMap Map(int queries) const {
    return emulation::Encode({reinterpret_cast<const char*>(query.data()),
                              3,
                              1,
                              {kDepth, kHeads, rows, 1},
                              {kDepth, query_stride, 0},
                              {kDepth, kHeads, static_cast<uint32_t>(queries), 1}});
  }

  void Want(int row, int column, const E4M3* key, float scale) {
    double logit = 0;
    for (int head = 0; head < kHeads; ++head) {
      double product = 0;
      for (int i = 0; i < kDepth; ++i) {
        product += double{ToFloat(query[row * query_stride + head * kDepth + i])} * ToFloat(key[i]);
      }
      logit += weights[row * weights_stride + head] * std::max(product, 0.0);
    }
    wanted[static_cast<size_t>(row) * (columns + 3) + column] = scale * logit;
  }

  double Error() const {
    double worst = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double error = std::abs(logits[i] - wanted[i]) / (1 + std::abs(wanted[i]));
      worst = std::max(worst, error >= 0 ? error : INFINITY);
    }
    return worst;
  }
};

template <int kHeads>
bool CheckContiguous() {
  constexpr int kQueries = kMostColumns / kHeads;
  Contiguous p{};
  p.keys = Number(1, 300);
  p.from_start = Chance(2);
  p.chunk = Number(1, 3);
  Rows<kHeads> rows(Number(1, 2 * kQueries), Chance(3) ? Number(1, p.keys) : p.keys);
  rows.Fill(p);
  std::vector<E4M3> keys(static_cast<size_t>(p.keys) * kDepth);
  for (E4M3& x : keys) x = Value();
  std::vector<float> scales;
  for (int i = 0; i < p.keys; ++i) scales.push_back(0.01f * static_cast<float>(Number(1, 100)));
  std::vector<int> starts, ends;
  for (int row = 0; row < rows.rows; ++row) {
    const int start = Number(-2, p.keys),
              end = Chance(5) ? Number(0, start + 2) : Number(start, p.keys + 2);
    starts.push_back(start);
    ends.push_back(end);
    const int first = std::max(0, start), origin = p.from_start ? first : 0;
    for (int key = first; key < std::min(end, p.keys); ++key) {
      if (key - origin >= rows.columns) break;
      rows.Want(row, key - origin, &keys[static_cast<size_t>(key) * kDepth], scales[key]);
    }
  }
  p.key_scales = scales.data();
  p.starts = starts.data();
  p.ends = ends.data();
  const CUtensorMap query_map = rows.Map(kQueries);
  const CUtensorMap key_map = emulation::Encode({reinterpret_cast<const char*>(keys.data()),
                                                 2,
                                                 1,
                                                 {kDepth, p.keys, 1, 1},
                                                 {kDepth, 0, 0},
                                                 {kDepth, kKeys, 1, 1}});
  emulation::Launch({static_cast<unsigned>(Number(1, 3)), 1, 1}, kThreads, [&] {
    LogitsKernel<ContiguousWorks<kQueries>, kQueries, kHeads>(p, query_map, key_map);
  });
  const double error = rows.Error();
  if (error < 1e-4) return true;
  std::printf("contiguous: error %g; heads %d, rows %d, keys %d, columns %d, chunk %d, start %d\n",
              error, kHeads, rows.rows, p.keys, rows.columns, p.chunk, p.from_start);
  return false;
}

template <int kQueries, int kHeads>
bool CheckPaged() {
  Paged p{};
  p.slots = 8 << Number(0, 3);
  p.batch = Number(1, 5);
  p.queries = kQueries == 4 ? Number(3, 6) : kQueries;
  p.table_width = Number(1, 400 / p.slots);
  p.pages = p.batch * p.table_width;
  const int most = p.table_width * p.slots, parts = Number(1, 5);
  Rows<kHeads> rows(p.batch * p.queries, Chance(3) ? Number(1, most) : most);
  rows.Fill(p);
  p.page_bytes = int64_t{p.slots} * (kDepth + 4) + 16 * Number(0, 2);
  // What no entry sees is NaN.
  std::vector<char> cache(static_cast<size_t>(p.pages) * p.page_bytes, static_cast<char>(0xff));
  std::vector<int> table(static_cast<size_t>(p.pages)), lengths;
  for (int i = 0; i < p.pages; ++i) table[i] = i;
  std::shuffle(table.begin(), table.end(), generator);
  const bool one_length = Chance(3);
  for (int entry = 0; entry < p.batch; ++entry) {
    int longest = 0;
    for (int query = 0; query < (one_length ? 1 : p.queries); ++query) {
      lengths.push_back(Chance(6) ? 0 : Number(1, most));
      longest = std::max(longest, lengths.back());
    }
    for (int key = 0; key < longest; ++key) {
      char* page = &cache[table[entry * p.table_width + key / p.slots] * p.page_bytes];
      E4M3* values = reinterpret_cast<E4M3*>(page) + key % p.slots * kDepth;
      for (int i = 0; i < kDepth; ++i) values[i] = Value();
      const float scale = 0.01f * static_cast<float>(Number(1, 100));
      reinterpret_cast<float*>(page + p.slots * kDepth)[key % p.slots] = scale;
      for (int query = 0; query < p.queries; ++query) {
        const int length = lengths[one_length ? entry : entry * p.queries + query];
        if (key < length && key < rows.columns) {
          rows.Want(entry * p.queries + query, key, values, scale);
        }
      }
    }
  }
  p.cache = cache.data();
  p.context_lens = lengths.data();
  p.entry_stride = one_length ? 1 : p.queries;
  p.query_stride = one_length ? 0 : 1;
  p.block_table = table.data();
  p.table_stride = p.table_width;
  p.splits = Number(1, 2);
  std::vector<Cut> schedule(static_cast<size_t>(parts) + 1);
  p.schedule = schedule.data();
  const TilesOf tiles{{p.context_lens, p.entry_stride, p.query_stride, one_length ? 1 : p.queries}};
  emulation::Launch({1, 1, 1}, kCutThreads,
                    [&] { CutKernel(tiles, p.batch, parts, schedule.data()); });
  const CUtensorMap query_map = rows.Map(kQueries);
  const CUtensorMap key_map = emulation::Encode({cache.data(),
                                                 3,
                                                 1,
                                                 {kDepth, p.slots, p.pages, 1},
                                                 {kDepth, p.page_bytes, 0},
                                                 {kDepth, static_cast<uint32_t>(p.slots), 1, 1}});
  const unsigned query_tiles = static_cast<unsigned>((p.queries + kQueries - 1) / kQueries);
  emulation::Launch({static_cast<unsigned>(parts * p.splits), query_tiles, 1}, kThreads, [&] {
    LogitsKernel<PagedWorks<kQueries>, kQueries, kHeads>(p, query_map, key_map);
  });
  const double error = rows.Error();
  if (error < 1e-4) return true;
  std::printf(
      "paged: error %g; heads %d, batch %d, queries %d, slots %d, table %d, parts %d x %d\n", error,
      kHeads, p.batch, p.queries, p.slots, p.table_width, parts, p.splits);
  return false;
}

}  // namespace

int main(int count, char** arguments) {
  return Repeat(count, arguments, [] {
    return CheckContiguous<64>() && CheckContiguous<32>() && CheckPaged<1, 64>() &&
           CheckPaged<2, 64>() && CheckPaged<4, 64>() && CheckPaged<1, 32>() &&
           CheckPaged<2, 32>() && CheckPaged<4, 32>();
  });
}
