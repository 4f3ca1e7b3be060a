// Random batches through the kernels of csrc/cuda/attention on an emulated GPU, against float64.
// attention_emulation SEED COUNT: prints what differs; exit status 1 then.
#include "device.h"
#include "seeded.h"

#include <climits>
#include <numeric>

#include "cuda/attention/decode.cuh"
#include "cuda/attention/decode_merge.cuh"
#include "cuda/attention/hopper.cuh"
#include "cuda/attention/prefill.cuh"

VK_EMULATED_SHARED("_ZN2vk4cuda9attention6sharedE");
VK_EMULATED_SHARED("_ZN2vk4cuda9attention9unalignedE");

namespace {

using namespace emulation::seeded;
using namespace vk::cuda;
using namespace vk::cuda::attention;

enum class Kind { kDecode, kPrefill, kHopper };

struct Lengths {
  int queries, keys;
};

// A batch with everything the kernels get; what no query sees is NaN.
template <class T, class KV, int kHead>
struct Batch {
  Kind kind;
  std::vector<Lengths> requests;
  int group, kv_heads, head_size, value_head_size, block_size;
  bool paged, causal, dynamic;
  int window_left, window_right;
  std::vector<int> query_start{0}, key_start{0}, seq_lens, table;
  std::vector<uint8_t> dynamic_causal;
  int pages = 0, blocks = 0;
  std::vector<T> query, out;
  std::vector<KV> key, value;
  std::vector<float> lse, alibi, sinks, partial_out, partial_lse;
  float k_scale = 1, v_scale = 1;
  int counter = 0;
  Problem p{};

  explicit Batch(Kind which) : kind(which) {
    group = Number(1, 6);
    kv_heads = Number(1, 2);
    head_size = Chance(2) ? kHead : Number(1, kHead / 8) * 8;
    if (kind != Kind::kHopper && Chance(5)) head_size = Number(1, kHead);
    value_head_size = Chance(3) ? Number(1, kHead / 8) * 8 : head_size;
    const int sizes[] = {16, 16, 32, 48, 64, 128, 1, 7};
    block_size = sizes[Number(0, kind == Kind::kHopper ? 5 : 7)];
    paged = !Chance(4);
    causal = !Chance(4);
    dynamic = Chance(5);
    window_left = Chance(3) ? Number(0, 40) : INT_MAX;
    window_right = Chance(3) ? Number(0, 20) : INT_MAX;
    DrawLengths();
    DrawTensors();
    FillProblem();
  }

  int heads() const { return group * kv_heads; }
  int tokens() const { return query_start.back(); }

  void DrawLengths() {
    const int count = Number(1, 3);
    int longest = 0;
    for (int i = 0; i < count; ++i) {
      int queries = Chance(3) ? Number(1, 3) : 1;
      if (kind == Kind::kPrefill) queries = Number(1, 120 / group);
      if (kind == Kind::kHopper) queries = Number(1, 500 / group);
      if (Chance(8)) queries = 0;
      const int before = Number(0, kind == Kind::kDecode ? 400 : 150);
      const int keys = Chance(9) ? Number(0, queries) : queries + before;
      requests.push_back({queries, keys});
      query_start.push_back(query_start.back() + queries);
      key_start.push_back(key_start.back() + keys);
      seq_lens.push_back(keys);
      dynamic_causal.push_back(Chance(2));
      longest = std::max(longest, keys);
    }
    pages = (longest + block_size - 1) / block_size + 1;
    blocks = paged ? pages * count + 1 : 1;
    std::vector<int> order(static_cast<size_t>(pages * count + 1));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), generator);
    table.assign(order.begin(), order.begin() + pages * count);
    if (paged && Chance(4)) DrawWild();
  }

  // A length beyond the table's row; and numbers of no block, which count as the nearest one. Copy
  // engines give zeros for them instead.
  void DrawWild() {
    const auto request = static_cast<size_t>(Number(0, static_cast<int>(requests.size()) - 1));
    requests[request].keys = pages * block_size;
    seq_lens[request] = Chance(2) ? INT_MAX : requests[request].keys + Number(1, 100);
    if (kind == Kind::kHopper) return;
    for (int& block : table) {
      const int wild[] = {-1, INT_MIN, blocks, INT_MAX};
      if (Chance(3)) block = wild[Number(0, 3)];
    }
  }

  size_t Slot(size_t request, int position) const {
    if (!paged) return static_cast<size_t>(key_start[request] + position);
    const int named = table[request * static_cast<size_t>(pages) + position / block_size];
    const int block = std::clamp(named, 0, blocks - 1);
    return static_cast<size_t>(block) * block_size + position % block_size;
  }

  bool Visible(size_t request, int token, int position) const {
    const bool is_causal = dynamic ? dynamic_causal[request] != 0 : causal;
    const int64_t distance =
        int64_t{position} - (requests[request].keys - requests[request].queries + token);
    return distance >= -int64_t{window_left} &&
           distance <= (is_causal ? std::min(window_right, 0) : window_right);
  }

  void DrawTensors() {
    const size_t slots = paged ? static_cast<size_t>(blocks) * block_size : key_start.back() + 1;
    query.resize(static_cast<size_t>(tokens()) * heads() * head_size);
    out.assign(static_cast<size_t>(tokens()) * heads() * value_head_size, FromFloat<T>(NAN));
    key.assign(slots * kv_heads * head_size, FromFloat<KV>(NAN));
    value.assign(slots * kv_heads * value_head_size, FromFloat<KV>(NAN));
    for (T& x : query) x = FromFloat<T>(Normal());
    for (size_t i = 0; i < requests.size(); ++i) {
      for (int position = 0; position < requests[i].keys; ++position) {
        bool seen = false;
        for (int token = 0; token < requests[i].queries; ++token) {
          seen = seen || Visible(i, token, position);
        }
        if (!seen) continue;
        const size_t row = Slot(i, position) * static_cast<size_t>(kv_heads);
        for (int j = 0; j < kv_heads * head_size; ++j) {
          key[row * head_size + j] = FromFloat<KV>(Normal());
        }
        for (int j = 0; j < kv_heads * value_head_size; ++j) {
          value[row * value_head_size + j] = FromFloat<KV>(Normal());
        }
      }
    }
    lse.assign(static_cast<size_t>(tokens()) * heads(), NAN);
    if (Chance(3)) {
      for (int i = 0; i < heads(); ++i) alibi.push_back(0.1f * Normal());
    }
    if (Chance(3)) {
      for (int i = 0; i < heads(); ++i) sinks.push_back(Normal());
    }
    if (sizeof(KV) == 1) k_scale = 0.7f, v_scale = 1.3f;
  }

  void FillProblem() {
    p.query = query.data();
    p.key = key.data();
    p.value = value.data();
    p.out = out.data();
    p.lse = lse.data();
    p.query_start = query_start.data();
    p.seq_lens = seq_lens.data();
    p.key_start = paged ? nullptr : key_start.data();
    p.block_table = paged ? table.data() : nullptr;
    p.dynamic_causal = dynamic ? dynamic_causal.data() : nullptr;
    p.alibi = alibi.empty() ? nullptr : alibi.data();
    p.sinks = sinks.empty() ? nullptr : sinks.data();
    p.sinks_are_float = true;
    p.k_scale = sizeof(KV) == 1 ? &k_scale : nullptr;
    p.v_scale = sizeof(KV) == 1 ? &v_scale : nullptr;
    p.query_token_stride = heads() * head_size;
    p.query_head_stride = head_size;
    p.out_token_stride = heads() * value_head_size;
    p.out_head_stride = value_head_size;
    const auto strides = [&](int size) {
      const int64_t head = static_cast<int64_t>(sizeof(KV)) * size, slot = kv_heads * head;
      return CacheStrides{paged ? block_size * slot : 0, slot, head};
    };
    p.key_strides = strides(head_size);
    p.value_strides = strides(value_head_size);
    p.table_stride = p.pages = pages;
    p.lse_head_stride = p.tokens = tokens();
    p.requests = static_cast<int32_t>(requests.size());
    p.heads = heads();
    p.kv_heads = kv_heads;
    p.group = group;
    p.head_size = head_size;
    p.value_head_size = value_head_size;
    p.blocks = blocks;
    if (paged) {
      const Reciprocal page(static_cast<uint32_t>(block_size));
      p.block_size = block_size;
      p.page_factor = page.factor;
      p.page_shift = page.shift;
    }
    p.window_left = window_left;
    p.window_right = window_right;
    p.scale = 1 / std::sqrt(static_cast<float>(head_size));
    p.softcap = Chance(4) ? 3.0f : 0.0f;
    p.causal = causal;
    const auto whole = [](int elements, size_t item) { return elements * item % 16 == 0; };
    p.query_vector = whole(head_size, 2);
    p.out_vector = whole(value_head_size, 2);
    p.kv_vector = whole(head_size, sizeof(KV)) && whole(value_head_size, sizeof(KV));
    int longest = 0;
    for (const Lengths& one : requests) longest = std::max(longest, one.queries);
    p.decode_query_len = kind == Kind::kDecode ? longest : Chance(2) ? std::max(1, 16 / group) : 0;
    p.decode_rows = p.decode_query_len * group;
    p.splits = Chance(3) ? Number(6, kMaxSplits) : Number(1, 5);
    p.min_split_tiles = Number(1, 4);
    const size_t rows = static_cast<size_t>(p.requests) * kv_heads * p.decode_rows * p.splits;
    partial_out.assign(rows * value_head_size, NAN);
    partial_lse.assign(rows * 2, NAN);
    p.partial_out = partial_out.data();
    p.partial_lse = partial_lse.data();
  }

  template <bool kFast>
  void Run() {
    if (kind == Kind::kHopper) {
      if constexpr (sizeof(KV) == 2) RunHopper();
    } else if (kind == Kind::kPrefill) {
      const int stages = Number(1, 2);
      const int64_t tiles =
          TileCount(p.tokens, p.requests, group, PrefillTraits<T, KV, kHead>::kRows);
      emulation::Launch({static_cast<unsigned>(tiles), static_cast<unsigned>(kv_heads), 1}, 128,
                        [&] { PrefillKernel<T, KV, kHead, kFast>(p, stages); });
    }
    if (p.decode_rows == 0) return;
    const unsigned row_tiles = static_cast<unsigned>((p.decode_rows + 15) / 16);
    emulation::Launch(
        {kv_heads * row_tiles, static_cast<unsigned>(p.requests), static_cast<unsigned>(p.splits)},
        32 << Number(0, 2), [&] { DecodeKernel<T, KV, kHead, kFast>(p); });
    if (p.splits == 1) return;
    if (Chance(2)) {
      Merge<1>();
    } else {
      Merge<8>();
    }
  }

  template <int kTeam>
  void Merge() {
    constexpr int kRows = MergeRows(kTeam);
    emulation::Launch({static_cast<unsigned>(kv_heads * p.decode_rows + kRows - 1) / kRows,
                       static_cast<unsigned>(p.requests), 1},
                      32 * kTeam * kRows, [&] {
                        constexpr int kKeys = DecodeTraits<T, KV, kHead>::kKeys;
                        if (value_head_size % 4 == 0) {
                          DecodeMergeKernel<T, kTeam, 4>(p, kKeys);
                        } else {
                          DecodeMergeKernel<T, kTeam, 1>(p, kKeys);
                        }
                      });
  }

  void RunHopper() {
    HopperPlan plan{};
    const int keys = HopperKeys(kHead), tile_tokens = HopperRows(kHead) / group;
    plan.tile_rows = tile_tokens * group;
    plan.group = FastDiv(static_cast<uint32_t>(group));
    plan.tiles = static_cast<int32_t>(TileCount(p.tokens, p.requests, group, plan.tile_rows));
    plan.box_keys = paged ? std::gcd(block_size, keys) : keys;
    plan.section_heads = Number(1, kv_heads);
    plan.counter = &counter;
    const int64_t slots = paged ? block_size : static_cast<int64_t>(key_start.back()) + 1;
    const uint32_t box = static_cast<uint32_t>(plan.box_keys);
    const CUtensorMap maps[3] = {
        emulation::Encode(
            {reinterpret_cast<const char*>(query.data()),
             3,
             2,
             {head_size, heads(), tokens(), 1},
             {2 * p.query_head_stride, 2 * p.query_token_stride, 0},
             {64, static_cast<uint32_t>(group), static_cast<uint32_t>(tile_tokens), 1}}),
        emulation::Encode({reinterpret_cast<const char*>(key.data()),
                           4,
                           2,
                           {head_size, kv_heads, slots, blocks},
                           {p.key_strides.head, p.key_strides.slot, p.key_strides.block},
                           {64, 1, box, 1}}),
        emulation::Encode({reinterpret_cast<const char*>(value.data()),
                           4,
                           2,
                           {value_head_size, kv_heads, slots, blocks},
                           {p.value_strides.head, p.value_strides.slot, p.value_strides.block},
                           {64, 1, box, 1}})};
    const unsigned grid = static_cast<unsigned>(std::min(plan.tiles * kv_heads, Number(1, 4)));
    const bool extras = p.alibi != nullptr || p.softcap > 0;
    emulation::Launch({grid, 1, 1}, HopperTraits<kHead>::kThreads, [&] {
      if (extras) {
        HopperKernel<T, kHead, true>(p, plan, maps[0], maps[1], maps[2]);
      } else {
        HopperKernel<T, kHead, false>(p, plan, maps[0], maps[1], maps[2]);
      }
    });
  }

  // Largest error of the output and of the log-sum-exp; infinite where one is NaN.
  double Error() const {
    double worst = 0;
    const auto compare = [&](double got, double want) {
      if (got == want) return;
      const double error = std::abs(got - want);
      worst = std::max(worst, error >= 0 ? error : INFINITY);
    };
    for (size_t i = 0; i < requests.size(); ++i) {
      for (int token = 0; token < requests[i].queries; ++token) {
        for (int head = 0; head < heads(); ++head) {
          const size_t row = static_cast<size_t>(query_start[i] + token) * heads() + head;
          CompareRow(i, token, head, row, compare);
        }
      }
    }
    return worst;
  }

  template <class Compare>
  void CompareRow(size_t request, int token, int head, size_t row, const Compare& compare) const {
    const int keys = requests[request].keys;
    const int position = keys - requests[request].queries + token;
    std::vector<double> weights(static_cast<size_t>(keys), -INFINITY);
    double top = sinks.empty() ? -INFINITY : sinks[head];
    for (int k = 0; k < keys; ++k) {
      if (!Visible(request, token, k)) continue;
      const size_t at = (Slot(request, k) * kv_heads + head / group) * head_size;
      double x = 0;
      for (int d = 0; d < head_size; ++d) {
        x += double{ToFloat(query[row * head_size + d])} * ToFloat(key[at + d]);
      }
      x *= double{p.scale} * k_scale;
      if (p.softcap > 0) x = p.softcap * std::tanh(x / p.softcap);
      if (!alibi.empty()) x += alibi[head] * (k - position);
      weights[k] = x;
      top = std::max(top, x);
    }
    double total = 0;
    if (top > -INFINITY) {
      for (double& x : weights) total += x = std::exp(x - top);
      if (!sinks.empty()) total += std::exp(sinks[head] - top);
    }
    compare(lse[static_cast<size_t>(head) * tokens() + query_start[request] + token],
            total > 0 ? top + std::log(total) : -INFINITY);
    for (int d = 0; d < value_head_size; ++d) {
      double want = 0;
      for (int k = 0; k < keys && total > 0; ++k) {
        const size_t at = (Slot(request, k) * kv_heads + head / group) * value_head_size;
        if (weights[k] > 0) want += weights[k] / total * ToFloat(value[at + d]) * v_scale;
      }
      compare(ToFloat(out[row * value_head_size + d]), want);
    }
  }
};

template <class T, class KV, int kHead>
bool Check(Kind kind) {
  Batch<T, KV, kHead> batch(kind);
  if (batch.tokens() == 0) return true;
  const Problem& p = batch.p;
  const bool fast = p.query_vector && p.kv_vector && p.block_size % 16 == 0;
  if (fast) {
    batch.template Run<true>();
  } else {
    batch.template Run<false>();
  }
  const double error = batch.Error();
  if (error < 0.03) return true;
  std::printf(
      "kernel %d, head %d, %zu-byte cache: error %g; group %d, kv_heads %d, sizes %d %d, blocks of "
      "%d, paged %d, causal %d, dynamic %d, window %d %d, cap %g, alibi %d, sinks %d, splits %d\n",
      static_cast<int>(kind), kHead, sizeof(KV), error, p.group, p.kv_heads, p.head_size,
      p.value_head_size, p.block_size, batch.paged, batch.causal, batch.dynamic, p.window_left,
      p.window_right, p.softcap, p.alibi != nullptr, p.sinks != nullptr, p.splits);
  return false;
}

}  // namespace

int main(int count, char** arguments) {
  return Repeat(count, arguments, [] {
    bool good = true;
    for (const Kind kind : {Kind::kDecode, Kind::kPrefill, Kind::kHopper}) {
      good = Check<vk::cuda::Half, vk::cuda::Half, 64>(kind) && good;
      good = Check<BFloat16, BFloat16, 128>(kind) && good;
      good = Check<vk::cuda::Half, vk::cuda::Half, 192>(kind) && good;
      good = Check<BFloat16, BFloat16, 256>(kind) && good;
      if (kind == Kind::kHopper) continue;
      good = Check<BFloat16, E4M3, 64>(kind) && good;
      good = Check<vk::cuda::Half, E4M3, 128>(kind) && good;
      good = Check<vk::cuda::Half, E4M3, 256>(kind) && good;
    }
    return good;
  });
}
