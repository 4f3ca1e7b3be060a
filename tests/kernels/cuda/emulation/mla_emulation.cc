// Random problems through the kernels of csrc/cuda/mla on an emulated GPU, against float64.
// mla_emulation SEED COUNT: prints what differs; exit status 1 then.
#include "device.h"
#include "seeded.h"

#include "cuda/mla/cuts.cuh"
#include "cuda/mla/kernel.cuh"

VK_EMULATED_SHARED("_ZN2vk4cuda3mla9unalignedE");
VK_EMULATED_SHARED("_ZN2vk4cuda9unalignedE");

namespace {

using namespace emulation::seeded;
using namespace vk::cuda;
using namespace vk::cuda::mla;

// A warp a row, a block a row, or a few blocks for a row.
template <class T, class Works>
void Merge(const Problem& p, int rows, int entries) {
  const unsigned y = static_cast<unsigned>(entries), all = static_cast<unsigned>(rows);
  if (Chance(3)) {
    emulation::Launch({all, y, kMergeWarps}, kMergeThreads,
                      [&] { MergeKernel<T, Works, MergeBy::kResults>(p); });
  } else if (Chance(2)) {
    emulation::Launch({all, y, 1}, kMergeThreads,
                      [&] { MergeKernel<T, Works, MergeBy::kColumns>(p); });
  } else {
    emulation::Launch({(all + kMergeWarps - 1) / kMergeWarps, y, 1}, kMergeThreads,
                      [&] { MergeKernel<T, Works, MergeBy::kWarp>(p); });
  }
}

// What no query selects is NaN.
struct Case {
  bool quantized;
  int batch, queries, heads, blocks, topk;
  static constexpr int kBlockSlots = 16;
  std::vector<BFloat16> query, out;
  std::vector<char> cache;
  std::vector<int> indices, lengths;
  std::vector<float> sink, lse, max_logits, partial_out, partial_lse;
  Problem p{};

  explicit Case(bool from_quantized) : quantized(from_quantized) {
    batch = Number(1, 2);
    queries = Number(1, 2);
    const int sizes[] = {1, 16, 64, 65, 128};
    heads = sizes[Number(0, 4)];
    blocks = Number(1, 30);
    topk = Chance(4) ? 0 : Number(1, 5) * 64 - Number(0, 63);
    query.resize(static_cast<size_t>(batch) * queries * heads * kHead);
    for (BFloat16& x : query) x = FromFloat<BFloat16>(Normal());
    DrawKeys();
    out.assign(static_cast<size_t>(batch) * queries * heads * kLatent, FromFloat<BFloat16>(NAN));
    lse.assign(static_cast<size_t>(batch) * queries * heads, NAN);
    max_logits = lse;
    if (Chance(2)) {
      for (int i = 0; i < heads; ++i) sink.push_back(Normal());
    }
    FillProblem();
  }

  int slot_bytes() const { return quantized ? kQuantizedKeyBytes : 2 * kHead; }

  void DrawKeys() {
    const int slots = blocks * kBlockSlots;
    cache.assign(static_cast<size_t>(slots) * slot_bytes(), static_cast<char>(0xff));
    for (int i = 0; i < batch; ++i) lengths.push_back(Chance(3) ? Number(0, topk) : topk);
    for (int i = 0; i < batch * queries * topk; ++i) {
      // Few repeat; some are none, or outside.
      const int index = Chance(10) ? (Chance(2) ? -1 : slots) : Number(0, slots - 1);
      indices.push_back(index);
      const int entry = i / topk / queries;
      if (index < 0 || index >= slots || i % topk >= lengths[entry]) continue;
      Fill(&cache[static_cast<size_t>(index) * slot_bytes()]);
    }
  }

  void Fill(char* key) const {
    if (!quantized) {
      for (int i = 0; i < kHead; ++i)
        reinterpret_cast<BFloat16*>(key)[i] = FromFloat<BFloat16>(Normal());
      return;
    }
    for (int i = 0; i < kLatent; ++i) reinterpret_cast<E4M3*>(key)[i] = E4M3(Normal());
    for (int i = 0; i < 4; ++i) {
      reinterpret_cast<float*>(key + kLatent)[i] = std::exp(Normal() / 3);
    }
    BFloat16* rope = reinterpret_cast<BFloat16*>(key + kLatent + 16);
    for (int i = 0; i < kRope; ++i) rope[i] = FromFloat<BFloat16>(Normal());
  }

  double Key(int index, int column) const {
    const char* key = &cache[static_cast<size_t>(index) * slot_bytes()];
    if (!quantized) return ToFloat(reinterpret_cast<const BFloat16*>(key)[column]);
    if (column >= kLatent) {
      return ToFloat(reinterpret_cast<const BFloat16*>(key + kLatent + 16)[column - kLatent]);
    }
    const float scale = reinterpret_cast<const float*>(key + kLatent)[column / kScaleGroup];
    return RoundTo<BFloat16>(ToFloat(reinterpret_cast<const E4M3*>(key)[column]) * scale);
  }

  void FillProblem() {
    p.query = query.data();
    p.query_head_stride = kHead;
    p.query_token_stride = int64_t{heads} * kHead;
    p.query_batch_stride = queries * p.query_token_stride;
    p.cache = cache.data();
    p.slot_stride = static_cast<uint32_t>(slot_bytes() / 16);
    p.block_stride = kBlockSlots * p.slot_stride;
    p.slots = blocks * kBlockSlots;
    p.block_shift = 4;
    p.indices = indices.data();
    p.index_token_stride = topk;
    p.index_batch_stride = int64_t{queries} * topk;
    p.topk = topk;
    p.lengths = lengths.data();
    p.sink = sink.empty() ? nullptr : sink.data();
    p.out = out.data();
    p.out_head_stride = kLatent;
    p.out_token_stride = int64_t{heads} * kLatent;
    p.out_batch_stride = queries * p.out_token_stride;
    p.lse = lse.data();
    p.max_logits = max_logits.data();
    p.batch = batch, p.queries = queries, p.heads = heads;
    p.scale_log2 = 1.4426950408889634f / std::sqrt(static_cast<float>(kHead));
    const int pairs = std::max(1, (topk + kPairKeys - 1) / kPairKeys);
    p.pairs = Number(1, pairs);
    p.splits = (pairs + p.pairs - 1) / p.pairs;
    const size_t tiles = static_cast<size_t>(heads + kRows - 1) / kRows;
    p.works = static_cast<int>(p.splits * tiles * batch * queries);
    const size_t rows = static_cast<size_t>(p.works) * kRows;
    partial_out.assign(rows * kLatent, NAN);
    partial_lse.assign(2 * rows, NAN);
    p.partial_out = partial_out.data();
    p.partial_lse = partial_lse.data();
  }

  void Run() {
    const unsigned grid = static_cast<unsigned>(Number(1, p.works));
    const int threads = quantized ? kThreads<DequantizeProducer> : kThreads<CopyProducer>;
    emulation::Launch({grid, 1, 1}, threads, [&] {
      if (quantized) {
        AttentionKernel<BFloat16, DequantizeProducer, SparseWorks>(p, {});
      } else {
        AttentionKernel<BFloat16, CopyProducer, SparseWorks>(p, {});
      }
    });
    if (p.splits == 1) return;
    Merge<BFloat16, SparseWorks>(p, batch * queries * heads, 1);
  }

  // Largest error; infinite where something is NaN.
  double Error() const {
    double worst = 0;
    const auto compare = [&](double got, double want) {
      if (got == want) return;
      const double error = std::abs(got - want);
      worst = std::max(worst, error >= 0 ? error : INFINITY);
    };
    for (int token = 0; token < batch * queries; ++token) {
      for (int head = 0; head < heads; ++head) CompareRow(token, head, compare);
    }
    return worst;
  }

  template <class Compare>
  void CompareRow(int token, int head, const Compare& compare) const {
    const int entry = token / queries;
    const size_t row = static_cast<size_t>(token) * heads + head;
    std::vector<int> keys;
    std::vector<double> logits;
    double top = -INFINITY;
    for (int i = 0; i < lengths[entry]; ++i) {
      const int index = indices[static_cast<size_t>(token) * topk + i];
      if (index < 0 || index >= p.slots) continue;
      double x = 0;
      for (int j = 0; j < kHead; ++j) {
        x += double{ToFloat(query[row * kHead + j])} * Key(index, j);
      }
      keys.push_back(index);
      logits.push_back(x / std::sqrt(double{kHead}));
      top = std::max(top, logits.back());
    }
    double total = 0;
    for (double& x : logits) total += x = std::exp(x - top);
    const size_t at = (static_cast<size_t>(entry) * heads + head) * queries + token % queries;
    compare(lse[at], keys.empty() ? INFINITY : top + std::log(total));
    compare(max_logits[at], top);
    if (!sink.empty() && !keys.empty()) total += std::exp(sink[head] - top);
    for (int j = 0; j < kLatent; ++j) {
      double want = 0;
      for (size_t i = 0; i < keys.size(); ++i) want += logits[i] / total * Key(keys[i], j);
      compare(ToFloat(out[row * kLatent + j]), want);
    }
  }
};

// Dense attention: batches of any lengths, in parts of equal cost.
template <class T>
struct DenseCase {
  int batch, queries, heads, blocks, table_width;
  int shift;
  std::vector<T> query, cache;
  std::vector<Result<T>> out;
  std::vector<int> table, lengths;
  std::vector<float> lse, partial_out, partial_lse;
  std::vector<Cut> schedule;
  int parts;
  float scales[2] = {0.75f, 1.25f};
  Problem p{};

  DenseCase() {
    batch = Number(1, 4);
    queries = Number(1, 3);
    shift = Chance(3) ? 4 : Number(6, 7);
    const int sizes[] = {1, 16, 40, 64, 128};
    heads = sizes[Number(0, 4)];
    table_width = Number(1, 480 / slots());
    blocks = batch * table_width;
    parts = Chance(4) ? 1 : Number(2, 6);
    std::vector<int> order(static_cast<size_t>(blocks));
    for (int i = 0; i < blocks; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), generator);
    table = order;
    for (int i = 0; i < batch; ++i) {
      lengths.push_back(Chance(6) ? 0 : Number(1, table_width * slots()));
    }
    query.resize(static_cast<size_t>(batch) * queries * heads * kHead);
    for (T& x : query) x = Drawn();
    cache.assign(static_cast<size_t>(blocks) * slots() * kHead, FromFloat<T>(NAN));
    for (int entry = 0; entry < batch; ++entry) {
      for (int key = 0; key < lengths[entry]; ++key) {
        for (int i = 0; i < kHead; ++i) cache[Slot(entry, key) * kHead + i] = Drawn();
      }
    }
    out.assign(static_cast<size_t>(batch) * queries * heads * kLatent, FromFloat<Result<T>>(NAN));
    lse.assign(static_cast<size_t>(batch) * queries * heads, NAN);
    schedule.resize(static_cast<size_t>(parts) + 1);
    FillProblem();
  }

  static T Drawn() { return FromFloat<T>(Normal()); }
  int slots() const { return 1 << shift; }
  int tiles() const { return (queries * heads + kRows - 1) / kRows; }
  size_t Slot(int entry, int key) const {
    const int block = table[static_cast<size_t>(entry) * table_width + key / slots()];
    return static_cast<size_t>(block) * slots() + key % slots();
  }

  void FillProblem() {
    p.query = query.data();
    p.query_head_stride = kHead;
    p.query_token_stride = int64_t{heads} * kHead;
    p.query_batch_stride = queries * p.query_token_stride;
    p.cache = reinterpret_cast<const char*>(cache.data());
    p.slot_stride = sizeof(T) * kHead / 16;
    p.block_stride = slots() * p.slot_stride;
    p.slots = blocks * slots();
    p.block_shift = shift;
    p.indices = table.data();
    p.index_batch_stride = table_width;
    p.topk = table_width * slots();
    p.lengths = lengths.data();
    p.causal = queries > 1 && !Chance(3);
    p.out = out.data();
    p.out_head_stride = kLatent;
    p.out_token_stride = int64_t{heads} * kLatent;
    p.out_batch_stride = queries * p.out_token_stride;
    p.lse = lse.data();
    p.batch = batch, p.queries = queries, p.heads = heads;
    p.scale_log2 = 1.4426950408889634f / std::sqrt(static_cast<float>(kHead));
    if (kFloat8<T> && !Chance(4)) p.query_scale = &scales[0], p.cache_scale = &scales[1];
    p.schedule = schedule.data();
    p.parts = parts;
    p.whole_stages = shift >= kKeyShift;
    const size_t rows = static_cast<size_t>(2 * parts * tiles()) * kRows;
    partial_out.assign(rows * kLatent, NAN);
    partial_lse.assign(2 * rows, NAN);
    p.partial_out = partial_out.data();
    p.partial_lse = partial_lse.data();
  }

  void Run() {
    emulation::Launch({1, 1, 1}, kScheduleThreads, [&] {
      ScheduleKernel(PairsOf{lengths.data(), p.topk}, batch, parts, schedule.data());
    });
    using Producer = std::conditional_t<kFloat8<T>, Float8Producer, CopyProducer>;
    const unsigned y = static_cast<unsigned>(parts);
    const int64_t slot_bytes = int64_t{16} * p.slot_stride;
    const CUtensorMap map = emulation::Encode({p.cache,
                                               3,
                                               sizeof(T),
                                               {kHead, slots(), blocks, 1},
                                               {slot_bytes, slots() * slot_bytes, 0},
                                               {128 / sizeof(T), kKeys, 1, 1}});
    emulation::Launch({static_cast<unsigned>(tiles()), y, 1}, kThreads<Producer>,
                      [&] { AttentionKernel<T, Producer, DenseWorks>(p, map); });
    if (parts == 1) return;
    Merge<Result<T>, DenseWorks>(p, queries * heads, std::min(batch, parts));
  }

  double QueryScale() const { return p.query_scale == nullptr ? 1 : *p.query_scale; }
  double CacheScale() const { return p.cache_scale == nullptr ? 1 : *p.cache_scale; }

  double Error() const {
    double worst = 0;
    for (int row = 0; row < batch * queries * heads; ++row) {
      const int entry = row / (queries * heads), token = row / heads % queries, head = row % heads;
      const int seen = lengths[entry] - (p.causal ? queries - 1 - token : 0);
      std::vector<double> weights;
      double top = -INFINITY, total = 0;
      for (int key = 0; key < seen; ++key) {
        double x = 0;
        for (int i = 0; i < kHead; ++i) {
          x += double{ToFloat(query[static_cast<size_t>(row) * kHead + i])} *
               ToFloat(cache[Slot(entry, key) * kHead + i]);
        }
        weights.push_back(x * QueryScale() * CacheScale() / std::sqrt(double{kHead}));
        top = std::max(top, weights.back());
      }
      for (double& x : weights) total += x = std::exp(x - top);
      const auto compare = [&](double got, double want) {
        const double error = got == want ? 0 : std::abs(got - want);
        worst = std::max(worst, error >= 0 ? error : INFINITY);
      };
      compare(lse[(static_cast<size_t>(entry) * heads + head) * queries + token],
              weights.empty() ? INFINITY : top + std::log(total));
      for (int i = 0; i < kLatent; ++i) {
        double want = 0;
        for (size_t key = 0; key < weights.size(); ++key) {
          want += weights[key] / total * CacheScale() *
                  ToFloat(cache[Slot(entry, static_cast<int>(key)) * kHead + i]);
        }
        compare(ToFloat(out[static_cast<size_t>(row) * kLatent + i]), want);
      }
    }
    return worst;
  }
};

template <class T>
bool CheckDense() {
  DenseCase<T> one;
  one.Run();
  const double error = one.Error();
  // Weights of float8 have four bits.
  if (error < (kFloat8<T> ? 0.2 : 0.03)) return true;
  std::printf(
      "dense, %d bytes: error %g; batch %d, queries %d, heads %d, table %d, causal %d, parts %d\n",
      static_cast<int>(sizeof(T)), error, one.batch, one.queries, one.heads, one.table_width,
      one.p.causal, one.parts);
  return false;
}

bool Check(bool quantized) {
  Case one(quantized);
  one.Run();
  const double error = one.Error();
  if (error < 0.03) return true;
  std::printf(
      "quantized %d: error %g; batch %d, queries %d, heads %d, slots %d, topk %d, sink %d, "
      "splits %d\n",
      quantized, error, one.batch, one.queries, one.heads, one.p.slots, one.topk, !one.sink.empty(),
      one.p.splits);
  return false;
}

}  // namespace

int main(int count, char** arguments) {
  return Repeat(count, arguments, [] {
    bool good = Check(false);
    good = Check(true) && good;
    good = CheckDense<E4M3>() && good;
    return CheckDense<BFloat16>() && good;
  });
}
