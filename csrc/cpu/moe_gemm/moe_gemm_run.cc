#include "cpu/moe_gemm/moe_gemm_run.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/packed/packed_rows.h"
#include "cpu/parallel.h"
#include "cpu/round.h"
#include "cpu/rows.h"
#include "cpu/scratch.h"

namespace vk {
namespace {

// The most rows of one expert that share a pass over a panel; more are cut into equal chunks.
constexpr size_t kChunkRows = 128, kRowMultiple = 32;
// Bound on scratch memory: more tokens than fit go in passes, which read the weights again.
constexpr size_t kScratchBytes = size_t{256} << 20;
// Work items for each thread, enough that threads held up by the system delay the others little.
constexpr size_t kItemsPerThread = 4;
// Panels of sums that a thread keeps.
constexpr size_t kThreadPanels = 4;
// Bytes of rows that are worth waking a thread for.
constexpr size_t kBytesPerThread = 128 << 10;

// Rows of one expert: `rows` from row `first` on of the pass, which is sorted by expert.
struct Chunk {
  size_t expert, first, rows;
};

// Some tokens of a call, through both products.
class Pass {
 public:
  Pass(const MoeCall& call, size_t first, size_t tokens)
      : call_(call),
        table_(*Kernels().moe_gemm),
        first_(first),
        tokens_(tokens),
        slots_(call.topk_id.shape[1]),
        value_bytes_(DtypeSize(call.input.dtype)),
        inner_(call.w2.depth()) {
    Sort();
    PlaceScratch();
  }

  void Run() const {
    PackRows(call_.w13, up_at_, [&](size_t row) { return Input(token_of_[row]); });
    // Interleaved pairs of gate and up lie in one panel, else they are `inner_` columns apart.
    const bool pairs = call_.act == kMoeSwigluOai;
    ForItems(
        pairs ? call_.w13.panels() : CeilDiv(inner_, kPanel),
        [&](const Chunk& chunk, const char* area, size_t begin, size_t end, float* sums) {
          pairs ? GatePairs(chunk, area, begin, end, sums)
                : GateHalves(chunk, area, begin, end, sums);
        },
        up_at_);
    PackRows(call_.w2, down_at_, [&](size_t row) { return Activated(row); });
    ForItems(
        call_.w2.panels(),
        [&](const Chunk& chunk, const char* area, size_t begin, size_t end, float* sums) {
          Down(chunk, area, begin, end, sums);
        },
        down_at_);
    Combine();
  }

 private:
  // Counting sort of the tokens' slots by expert, then chunks of rows.
  void Sort() {
    const size_t experts = call_.w13.experts();
    std::vector<size_t> begin(experts + 1);
    for (size_t i = 0; i < tokens_ * slots_; ++i) ++begin[ExpertOf(i) + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    for (size_t e = 0; e < experts; ++e) AddChunks(e, begin[e], begin[e + 1]);
    token_of_.resize(tokens_ * slots_);
    row_of_.resize(tokens_ * slots_);
    for (size_t i = 0; i < tokens_ * slots_; ++i) {
      const size_t row = begin[ExpertOf(i)]++;
      token_of_[row] = i / slots_;
      row_of_[i] = row;
    }
  }

  size_t ExpertOf(size_t i) const {
    return MoeExpert(call_.topk_id, first_ + i / slots_, i % slots_);
  }

  void AddChunks(size_t expert, size_t begin, size_t end) {
    if (begin == end) return;
    const size_t chunks = CeilDiv(end - begin, kChunkRows);
    const size_t rows =
        chunks == 1 ? end - begin : RoundUp(CeilDiv(end - begin, chunks), kRowMultiple);
    for (size_t row = begin; row < end; row += rows) {
      chunks_.push_back({expert, row, std::min(rows, end - row)});
    }
  }

  // Both products' packed rows, what comes out of each, and the sums of each thread.
  void PlaceScratch() {
    size_t size = 0;
    const auto place = [&](size_t bytes) {
      const size_t at = size;
      size += RoundUp(bytes, 64);
      return at;
    };
    std::vector<size_t> up_at, down_at;
    for (const Chunk& chunk : chunks_) {
      up_at.push_back(place(Rows(call_.w13, chunk).bytes()));
      down_at.push_back(place(Rows(call_.w2, chunk).bytes()));
    }
    const size_t rows = tokens_ * slots_;
    const size_t activated = place(rows * inner_ * value_bytes_);
    const size_t down = place(rows * call_.w2.columns() * sizeof(float));
    const size_t threads = omp_in_parallel() ? 1 : omp_get_max_threads();
    // A thread keeps one panel of gates and two of ups, and one before it is scaled.
    panel_sums_ = kChunkRows * kPanel;
    const size_t sums = place(threads * kThreadPanels * panel_sums_ * sizeof(float));
    char* scratch = ThreadScratch(size);
    for (size_t at : up_at) up_at_.push_back(scratch + at);
    for (size_t at : down_at) down_at_.push_back(scratch + at);
    activated_ = scratch + activated;
    down_sums_ = reinterpret_cast<float*>(scratch + down);
    sums_ = reinterpret_cast<float*>(scratch + sums);
    threads_ = threads;
  }

  const char* Input(size_t token) const {
    const int64_t row = static_cast<int64_t>(first_ + token) * call_.input.stride[0];
    return static_cast<const char*>(call_.input.data) + row * static_cast<int64_t>(value_bytes_);
  }
  char* Activated(size_t row) const { return activated_ + row * inner_ * value_bytes_; }
  float* DownSums(size_t row) const { return down_sums_ + row * call_.w2.columns(); }

  PackedRows Rows(const PackedWeights& weights, const Chunk& chunk) const {
    return PackedRows(weights, call_.input.dtype, chunk.rows);
  }

  template <class Source>
  void PackRows(const PackedWeights& weights, const std::vector<char*>& at,
                const Source& source) const {
    std::vector<size_t> chunk_of;
    for (size_t i = 0; i < chunks_.size(); ++i) {
      chunk_of.resize(chunk_of.size() + chunks_[i].rows, i);
    }
    const size_t row_bytes = std::max<size_t>(1, weights.depth() * value_bytes_);
    ParallelFor(chunk_of.size(), CeilDiv(kBytesPerThread, row_bytes),
                [&](int64_t begin, int64_t end) {
                  for (int64_t row = begin; row < end; ++row) {
                    const Chunk& chunk = chunks_[chunk_of[row]];
                    Rows(weights, chunk).Pack(at[chunk_of[row]], row - chunk.first, source(row));
                  }
                });
  }

  // Calls body(chunk, its packed rows, begin, end, sums) so that every chunk meets all of `units`.
  template <class Body>
  void ForItems(size_t units, const Body& body, const std::vector<char*>& at) const {
    if (units == 0 || chunks_.empty()) return;
    const size_t groups =
        std::clamp<size_t>(CeilDiv(threads_ * kItemsPerThread, chunks_.size()), 1, units);
    const size_t items = chunks_.size() * groups;
    std::atomic<size_t> next{0};
    ParallelFor(std::min(threads_, items), 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        float* sums = sums_ + slot * kThreadPanels * panel_sums_;
        for (size_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) {
          const size_t chunk = item / groups, group = item % groups;
          body(chunks_[chunk], at[chunk], units * group / groups, units * (group + 1) / groups,
               sums);
        }
      }
    });
  }

  // One panel of a product, bias included. `sums` is one of the panels that start at `all_sums`.
  void MultiplyPanel(const PackedWeights& weights, const vk_tensor* bias, const Chunk& chunk,
                     const char* area, size_t panel, float* all_sums, float* sums) const {
    const bool last = panel + 1 == weights.panels();
    const char* next = last ? nullptr : weights.Panel(chunk.expert, panel + 1);
    Rows(weights, chunk)
        .Multiply(area, chunk.expert, panel, next, sums,
                  all_sums + (kThreadPanels - 1) * panel_sums_);
    if (bias == nullptr) return;
    const size_t first = chunk.expert * weights.columns() + panel * kPanel;
    Kernels().packed->add_bias[bias->dtype](
        sums, kPanel, chunk.rows,
        static_cast<const char*>(bias->data) + first * DtypeSize(bias->dtype),
        weights.Width(panel));
  }

  void UpPanel(const Chunk& chunk, const char* area, size_t panel, float* all_sums,
               float* sums) const {
    MultiplyPanel(call_.w13, call_.w13_bias, chunk, area, panel, all_sums, sums);
  }

  // `count` values from column `column` on of the activated rows.
  void Activate(const Chunk& chunk, size_t column, size_t count, const float* gate,
                const float* up) const {
    const auto activate = table_.activate[call_.act][call_.input.dtype];
    for (size_t row = 0; row < chunk.rows; ++row) {
      activate(Activated(chunk.first + row) + column * value_bytes_, gate + row * kPanel,
               up + row * kPanel, count, call_.swiglu);
    }
  }

  void GatePairs(const Chunk& chunk, const char* area, size_t begin, size_t end,
                 float* sums) const {
    for (size_t panel = begin; panel < end; ++panel) {
      UpPanel(chunk, area, panel, sums, sums);
      Activate(chunk, panel * kPanel / 2, call_.w13.Width(panel) / 2, sums, sums);
    }
  }

  // The gates of a panel meet the ups of one panel, or of two where `inner_` is not whole panels.
  void GateHalves(const Chunk& chunk, const char* area, size_t begin, size_t end,
                  float* sums) const {
    float* ups[2] = {sums + panel_sums_, sums + 2 * panel_sums_};
    constexpr size_t kNone = ~size_t{0};
    size_t held[2] = {kNone, kNone};
    const auto up_panel = [&](size_t panel) {
      if (held[panel % 2] != panel) UpPanel(chunk, area, panel, sums, ups[panel % 2]);
      held[panel % 2] = panel;
      return ups[panel % 2];
    };
    for (size_t panel = begin; panel < end; ++panel) {
      UpPanel(chunk, area, panel, sums, sums);
      const size_t last = std::min(inner_, (panel + 1) * kPanel);
      for (size_t column = panel * kPanel; column < last;) {
        const size_t at = inner_ + column;
        const size_t count = std::min(last - column, kPanel - at % kPanel);
        Activate(chunk, column, count, sums + column % kPanel, up_panel(at / kPanel) + at % kPanel);
        column += count;
      }
    }
  }

  void Down(const Chunk& chunk, const char* area, size_t begin, size_t end, float* sums) const {
    for (size_t panel = begin; panel < end; ++panel) {
      MultiplyPanel(call_.w2, call_.w2_bias, chunk, area, panel, sums, sums);
      for (size_t row = 0; row < chunk.rows; ++row) {
        std::memcpy(DownSums(chunk.first + row) + panel * kPanel, sums + row * kPanel,
                    call_.w2.Width(panel) * sizeof(float));
      }
    }
  }

  void Combine() const {
    const size_t columns = call_.w2.columns();
    const auto combine = table_.combine[call_.output.dtype];
    const int64_t grain = GrainFor(slots_ * columns * sizeof(float));
    std::vector<const float*> rows(tokens_ * slots_);
    std::vector<float> weights(tokens_ * slots_);
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i] = DownSums(row_of_[i]);
      weights[i] = Weight(i / slots_, i % slots_);
    }
    ParallelFor(tokens_, grain, [&](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token) {
        const int64_t at = (static_cast<int64_t>(first_) + token) * call_.output.stride[0];
        char* to = static_cast<char*>(call_.output.data) + at * static_cast<int64_t>(value_bytes_);
        combine(to, rows.data() + token * slots_, weights.data() + token * slots_, slots_, columns);
      }
    });
  }

  float Weight(size_t token, size_t slot) const {
    if (call_.skip_weighted) return 1.0f;
    const vk_tensor& weights = call_.topk_weights;
    const int64_t at = static_cast<int64_t>(first_ + token) * weights.stride[0] +
                       static_cast<int64_t>(slot) * weights.stride[1];
    return static_cast<const float*>(weights.data)[at];
  }

  const MoeCall& call_;
  const MoeGemmTable& table_;
  const size_t first_, tokens_, slots_, value_bytes_, inner_;
  std::vector<Chunk> chunks_;
  std::vector<size_t> token_of_;        // by row
  std::vector<size_t> row_of_;          // by token and slot
  std::vector<char*> up_at_, down_at_;  // packed rows, by chunk
  char* activated_;
  float *sums_, *down_sums_;
  size_t panel_sums_, threads_;
};

}  // namespace

int64_t MoeExpert(const vk_tensor& topk_id, int64_t token, int64_t slot) {
  return Integers(topk_id)[token * topk_id.stride[0] + slot * topk_id.stride[1]];
}

void RunMoe(const MoeCall& call) {
  const size_t tokens = call.input.shape[0], slots = call.topk_id.shape[1];
  if (tokens == 0 || call.w2.columns() == 0) return;
  const int32_t dtype = call.input.dtype;
  const PackedRows up(call.w13, dtype, kRowMultiple), down(call.w2, dtype, kRowMultiple);
  const size_t row_bytes = (up.bytes() + down.bytes()) / kRowMultiple +
                           call.w2.depth() * DtypeSize(dtype) + call.w2.columns() * sizeof(float);
  const size_t most = std::max<size_t>(1, kScratchBytes / std::max<size_t>(1, slots * row_bytes));
  // Equal passes, so that no pass reads all weights for a few tokens.
  const size_t passes = CeilDiv(tokens, most), share = CeilDiv(tokens, passes);
  for (size_t first = 0; first < tokens; first += share) {
    Pass(call, first, std::min(share, tokens - first)).Run();
  }
}

}  // namespace vk
