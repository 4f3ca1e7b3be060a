#include "cpu/gemm/gemm_run.h"

#include <algorithm>
#include <atomic>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/gemm/gemm_onednn.h"
#include "cpu/gemm/gemm_table.h"
#include "cpu/parallel.h"
#include "cpu/round.h"
#include "cpu/scratch.h"

namespace vk {
namespace {

// Rows of A that are multiplied with a part of a panel while it stays in a near cache: the most,
// and the fewest that are worth a thread's reading all of B.
constexpr size_t kChunkRows = 256, kOwnChunkRows = 128;
// Chunks of equal height are rounded to whole pairs of tiles.
constexpr size_t kRowMultiple = 32;
// Panels whose sums are kept while K is processed in parts, few enough to stay in the L2 cache.
constexpr size_t kGroupPanels = 16;
// Packed A up to this size stays in the L2 cache as a whole; groups then only serve to share work.
constexpr size_t kNearBytes = 512 << 10, kNearGroupPanels = 8;
// Bound on packed A: scratch memory.
constexpr size_t kPackedBytes = size_t{16} << 20;
// One thread packs fewer bytes of A than this: waking another costs as much.
constexpr size_t kPackBytesPerThread = 128 << 10;

// How the work is cut into items for threads: chunks of rows times groups of panels, numbered with
// the groups of a chunk in a row. A is packed in one of two ways. `own`: there is a chunk for every
// thread, which packs what it works on, so that threads never wait for each other and read A from
// their own cache. Else in passes: all threads pack some rows, wait, and share them.
struct Plan {
  size_t steps;         // whole K
  size_t block_steps;   // a part of K
  size_t group_stride;  // packed A, bytes between the groups of one part
  size_t part_stride;   // packed A, bytes between parts
  bool own;
  bool near;         // a chunk's packed rows stay in the L2 cache
  size_t pass_rows;  // at most
  size_t chunk_rows;
  size_t groups;
  size_t slots;           // threads
  size_t a_bytes;         // packed A: per slot if `own`, else per pass
  size_t sums_bytes;      // per slot
  size_t part_bytes;      // of a packed panel
  bool whole;             // compact weights that the kernel reads itself, K not split
  size_t expanded_bytes;  // a part of compact weights that the kernel does not read itself

  size_t parts() const { return std::max<size_t>(1, CeilDiv(steps, block_steps)); }
  size_t slot_bytes() const { return sums_bytes + 2 * expanded_bytes; }
  size_t scratch_bytes() const { return a_bytes * (own ? slots : 1) + slot_bytes() * slots; }
};

// Rows of equal chunks, at most kChunkRows each, whose number is a multiple of `threads`.
size_t EqualChunks(size_t rows, size_t threads) {
  const size_t chunks = CeilDiv(rows, threads * kChunkRows) * threads;
  return RoundUp(CeilDiv(rows, chunks), kRowMultiple);
}

// Steps of a part of K.
size_t BlockSteps(const Plan& plan, const GemmKernel& kernel, size_t rows, bool compact) {
  size_t block = kernel.block_steps;
  if (plan.whole) {
    block = plan.steps;
  } else if (rows <= kernel.few_rows) {
    block = compact ? kernel.compact_steps : plan.steps;
  }
  return std::max<size_t>(1, std::min(plan.steps, block));
}

Plan MakePlan(const GemmWeights& weights, const GemmKernel& kernel, size_t rows) {
  Plan plan;
  plan.steps = CeilDiv(weights.depth, kernel.step);
  const bool compact = weights.codes != nullptr;
  plan.whole = compact && rows <= kernel.compact_rows;
  plan.block_steps = BlockSteps(plan, kernel, rows, compact);
  plan.part_bytes = plan.block_steps * kernel.step * kPanel * DtypeSize(weights.dtype);
  const size_t unit_bytes = kCompactRowMultiple * kCompactRowValues * sizeof(uint16_t);
  plan.expanded_bytes = compact && !plan.whole ? RoundUp(plan.part_bytes, unit_bytes) : 0;
  // Rows at a power-of-two distance would all fall into one set of the L1 cache.
  const size_t pad = kernel.group == 1 ? 64 : 0;
  plan.group_stride = plan.block_steps * kernel.group_step_bytes + pad;
  const size_t chunk_bytes = kChunkRows / kernel.group * plan.group_stride * plan.parts();

  const size_t threads = omp_in_parallel() ? 1 : omp_get_max_threads();
  plan.own = rows >= threads * kOwnChunkRows && threads * chunk_bytes <= kPackedBytes;
  const size_t passes_rows = std::max<size_t>(1, kPackedBytes / chunk_bytes) * kChunkRows;
  plan.pass_rows = plan.own ? rows : std::min(rows, passes_rows);
  plan.chunk_rows = std::min(plan.pass_rows, EqualChunks(plan.pass_rows, plan.own ? threads : 1));
  const size_t area_rows = plan.own ? plan.chunk_rows : plan.pass_rows;
  plan.part_stride = CeilDiv(area_rows, kernel.group) * plan.group_stride;
  plan.a_bytes = RoundUp(plan.parts() * plan.part_stride, 4096);

  // Enough items to fill all threads equally.
  const size_t chunks = CeilDiv(plan.pass_rows, plan.chunk_rows);
  plan.near = plan.chunk_rows * plan.group_stride / kernel.group * plan.parts() <= kNearBytes;
  const size_t group_panels = plan.near ? kNearGroupPanels : kGroupPanels;
  const size_t items = RoundUp(chunks * CeilDiv(weights.panels, group_panels), threads);
  plan.groups = std::min(weights.panels, CeilDiv(items, chunks));
  plan.slots = std::min(threads, chunks * plan.groups);
  const size_t kept_panels = plan.near ? 1 : CeilDiv(weights.panels, plan.groups);
  plan.sums_bytes = RoundUp(plan.chunk_rows, kernel.group) * kPanel * sizeof(float) * kept_panels;
  return plan;
}

// A part of a panel.
struct Place {
  size_t panel, part;
  bool operator==(const Place& other) const { return panel == other.panel && part == other.part; }
};
constexpr Place kNowhere{SIZE_MAX, SIZE_MAX};

// What a thread writes to: sums, and two parts of compact weights, one in use while the other is
// expanded.
struct Slot {
  char* sums;
  char* expanded[2];
  Place ready = kNowhere;  // in expanded[0]
};

class Runner {
 public:
  explicit Runner(const GemmCall& call)
      : call_(call),
        weights_(call.weights),
        table_(*Kernels().gemm),
        kernel_(*table_.kernel[call.weights.dtype]),
        plan_(MakePlan(weights_, kernel_, call.c.shape[0])) {
    scratch_ = ThreadScratch(plan_.scratch_bytes());
  }

  void Run() const {
    const size_t rows = call_.c.shape[0];
    for (size_t row = 0; row < rows; row += plan_.pass_rows) {
      const size_t count = std::min(plan_.pass_rows, rows - row);
      if (!plan_.own) PackShared(row, count);
      const size_t chunks = CeilDiv(count, plan_.chunk_rows);
      const size_t turns = plan_.own ? chunks : chunks * plan_.groups;
      // Threads take the next item whenever they are ready, so one that the system holds up delays
      // the others little.
      std::atomic<size_t> next{0};
      ParallelFor(std::min(plan_.slots, turns), 1, [&](int64_t begin, int64_t end) {
        for (int64_t index = begin; index < end; ++index) {
          Slot slot = SlotOf(index);
          for (size_t turn; (turn = next.fetch_add(1, std::memory_order_relaxed)) < turns;) {
            plan_.own ? RunChunk(row, count, slot, scratch_ + index * plan_.a_bytes, turn)
                      : RunItem(row, count, slot, turn);
          }
        }
      });
    }
  }

 private:
  // Packs rows [begin, end), counted from row `first` of A, part by part: what a chunk of rows
  // needs of one part lies together.
  void PackRows(char* area, size_t first, size_t begin, size_t end) const {
    const size_t value_bytes = DtypeSize(call_.a.dtype);
    const size_t part_depth = plan_.block_steps * kernel_.step;
    const char* a = static_cast<const char*>(call_.a.data);
    const int64_t stride = call_.a.stride[0] * static_cast<int64_t>(value_bytes);
    for (size_t row = begin; row < end; ++row) {
      const char* from = a + static_cast<int64_t>(first + row) * stride;
      char* to = area;
      for (size_t k = 0; k < weights_.depth; k += part_depth, to += plan_.part_stride) {
        kernel_.pack_row(to, plan_.group_stride, row, from + k * value_bytes,
                         std::min(part_depth, weights_.depth - k));
      }
    }
  }

  void PackShared(size_t first, size_t count) const {
    const size_t row_bytes = std::max<size_t>(1, weights_.depth * DtypeSize(call_.a.dtype));
    const int64_t grain = CeilDiv(kPackBytesPerThread, row_bytes);
    ParallelFor(count, grain,
                [&](int64_t begin, int64_t end) { PackRows(scratch_, first, begin, end); });
  }

  // A whole chunk of the rows, by one thread.
  void RunChunk(size_t first, size_t count, Slot& slot, char* a, size_t chunk) const {
    const size_t row = chunk * plan_.chunk_rows;
    const size_t rows = std::min(plan_.chunk_rows, count - row);
    PackRows(a, first + row, 0, rows);
    for (size_t group = 0; group < plan_.groups; ++group) {
      RunGroup(a, first + row, rows, group, slot);
    }
  }

  // One group of panels times one chunk of the rows that PackShared() packed.
  void RunItem(size_t first, size_t count, Slot& slot, size_t item) const {
    const size_t row = item / plan_.groups * plan_.chunk_rows;
    const size_t rows = std::min(plan_.chunk_rows, count - row);
    const char* a = scratch_ + row / kernel_.group * plan_.group_stride;
    RunGroup(a, first + row, rows, item % plan_.groups, slot);
  }

  Slot SlotOf(size_t index) const {
    char* sums =
        scratch_ + plan_.a_bytes * (plan_.own ? plan_.slots : 1) + index * plan_.slot_bytes();
    char* expanded = sums + plan_.sums_bytes;
    return {sums, {expanded, expanded + plan_.expanded_bytes}};
  }

  // `rows` rows from `row` on, packed at `a`.
  void RunGroup(const char* a, size_t row, size_t rows, size_t group, Slot& slot) const {
    const size_t begin = weights_.panels * group / plan_.groups;
    const size_t end = weights_.panels * (group + 1) / plan_.groups;
    // Panels of the group that take turns on one part of K.
    const size_t together = plan_.near ? 1 : end - begin;
    for (size_t panel = begin; panel < end; panel += together) {
      RunPanels(a, row, rows, panel, panel + together, slot);
    }
  }

  void RunPanels(const char* a, size_t row, size_t rows, size_t begin, size_t end,
                 Slot& slot) const {
    const size_t padded_rows = CeilDiv(rows, kernel_.group) * kernel_.group;
    const size_t sums_bytes = padded_rows * kPanel * sizeof(float);
    const size_t parts = plan_.parts();
    for (size_t part = 0; part < parts; ++part) {
      const size_t step = part * plan_.block_steps;
      const size_t steps = std::min(plan_.block_steps, plan_.steps - step);
      for (size_t panel = begin; panel < end; ++panel) {
        char* panel_sums = slot.sums + (panel - begin) * sums_bytes;
        GemmBlock block{a + part * plan_.part_stride,
                        plan_.group_stride,
                        nullptr,
                        nullptr,
                        panel_sums,
                        rows,
                        steps,
                        part == 0};
        const Place next = NextPlace({panel, part}, begin, end);
        if (weights_.codes) {
          MultiplyCompact(block, {panel, part}, next, slot);
        } else {
          block.b = PartOf({panel, part});
          block.b_next = next == kNowhere ? nullptr : PartOf(next);
          kernel_.multiply(block);
        }
        if (part + 1 == parts) Finish(row, rows, panel, panel_sums);
      }
    }
  }

  const char* PartOf(const Place& place) const {
    return weights_.panel(place.panel) + place.part * plan_.part_bytes;
  }

  // Rows of a part of compact weights, two values of K each.
  size_t CompactRows(size_t part) const {
    const size_t step = part * plan_.block_steps;
    const size_t depth = std::min(plan_.block_steps, plan_.steps - step) * kernel_.step;
    return RoundUp(CeilDiv(depth, 2), kCompactRowMultiple);
  }
  GemmCompact CompactPart(const Place& place) const {
    return weights_.compact_panel(place.panel, place.part * plan_.block_steps * kernel_.step / 2);
  }

  void MultiplyCompact(GemmBlock& block, const Place& place, const Place& next, Slot& slot) const {
    if (plan_.whole) return kernel_.multiply_compact(block, CompactPart(place));
    if (!(slot.ready == place)) {
      table_.expand(CompactPart(place), CompactRows(place.part), slot.expanded[0]);
    }
    block.b = slot.expanded[0];
    slot.ready = kNowhere;
    GemmCompact compact;
    if (!(next == kNowhere)) {
      compact = CompactPart(next);
      block.b_next = compact.data;
    }
    if (kernel_.expands_next) {
      block.near = true;
      if (!(next == kNowhere)) {
        block.next = &compact;
        block.next_rows = CompactRows(next.part);
        block.next_to = slot.expanded[1];
        slot.ready = next;
        std::swap(slot.expanded[0], slot.expanded[1]);
      }
    }
    kernel_.multiply(block);
  }

  // What RunPanels will read after `place`; kNowhere where that is not known.
  Place NextPlace(const Place& place, size_t begin, size_t end) const {
    if (place.panel + 1 < end) return {place.panel + 1, place.part};
    if (place.part + 1 < plan_.parts()) return {begin, place.part + 1};
    return place.panel + 1 < weights_.panels ? Place{place.panel + 1, 0} : kNowhere;
  }

  void Finish(size_t row, size_t rows, size_t panel, const char* sums) const {
    const size_t column = panel * kPanel;
    const size_t c_bytes = DtypeSize(call_.c.dtype);
    GemmFinish finish{};
    finish.sums = sums;
    finish.c_stride = call_.c.stride[0];
    finish.c = static_cast<char*>(call_.c.data) + (row * finish.c_stride + column) * c_bytes;
    finish.rows = rows;
    finish.columns = std::min(kPanel, weights_.columns - column);
    if (call_.bias != nullptr) {
      finish.bias = static_cast<const char*>(call_.bias) + column * c_bytes;
    }
    if (!weights_.scaled) {
      table_.finish[call_.c.dtype](finish);
      return;
    }
    finish.a_shift = kernel_.a_shift;
    finish.b_sums = weights_.sums.data() + column;
    finish.b_scales = weights_.scales.data() + column;
    finish.a_scales = call_.a_scales + row * call_.a_scale_stride;
    finish.a_scale_stride = call_.a_scale_stride;
    if (call_.azp != nullptr) {
      finish.azp = call_.azp + row * call_.azp_stride;
      finish.azp_stride = call_.azp_stride;
      finish.azp_adj = call_.azp_adj + column;
    }
    table_.finish_scaled[call_.c.dtype](finish);
  }

  const GemmCall& call_;
  const GemmWeights& weights_;
  const GemmTable& table_;
  const GemmKernel& kernel_;
  const Plan plan_;
  char* scratch_;
};

}  // namespace

void RunGemm(const GemmCall& call) {
  if (call.c.shape[0] == 0 || call.c.shape[1] == 0) return;
  if (!RunOnednn(call)) Runner(call).Run();
}

}  // namespace vk
