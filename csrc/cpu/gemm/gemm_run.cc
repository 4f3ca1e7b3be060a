#include "cpu/gemm/gemm_run.h"

#include <algorithm>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/gemm/gemm_onednn.h"
#include "cpu/gemm/gemm_table.h"
#include "cpu/parallel.h"

namespace vk {
namespace {

// Rows of A that pass by while a part of a panel stays in a near cache.
constexpr size_t kChunkRows = 256;
// Panels whose sums are kept while K goes by in parts, so that they stay in the L2 cache.
constexpr size_t kGroupPanels = 16;
// Packed A up to this size is read again from the L2 cache for every panel; above, by groups.
constexpr size_t kNearBytes = 512 << 10;
// Packed A of one pass: bounds the scratch memory.
constexpr size_t kPassBytes = size_t{16} << 20;

size_t DivideUp(size_t value, size_t divisor) { return (value + divisor - 1) / divisor; }

// Memory that lives as long as the calling thread and only grows: allocating megabytes for every
// call would spend more time on page faults than on small products.
char* Scratch(size_t size) {
  thread_local Bytes memory;
  thread_local size_t capacity = 0;
  if (size > capacity) {
    capacity = 0;
    memory.reset();
    memory = AllocateBytes(size);
    capacity = size;
  }
  return memory.get();
}

// How one pass (rows that are packed together) is cut into items for threads: chunks of rows times
// groups of panels, numbered with the groups of a chunk in a row.
struct Plan {
  size_t steps;         // whole K
  size_t block_steps;   // a part of K
  size_t group_stride;  // packed A, bytes between the groups of one part
  size_t part_stride;   // packed A, bytes between parts
  size_t pass_rows;     // at most
  size_t chunk_rows;
  size_t groups;
  size_t slots;       // threads
  size_t sums_bytes;  // per slot

  size_t parts() const { return std::max<size_t>(1, DivideUp(steps, block_steps)); }
};

Plan MakePlan(const GemmWeights& weights, const GemmKernel& kernel, size_t rows) {
  Plan plan;
  plan.steps = DivideUp(weights.depth, kernel.step);
  plan.block_steps =
      rows <= kernel.few_rows ? plan.steps : std::min(plan.steps, kernel.block_steps);
  plan.block_steps = std::max<size_t>(1, plan.block_steps);
  // Rows at a power-of-two distance would all fall into one set of the L1 cache.
  const size_t pad = kernel.group == 1 ? 64 : 0;
  plan.group_stride = plan.block_steps * kernel.group_step_bytes + pad;
  const size_t chunk_bytes = kChunkRows / kernel.group * plan.group_stride * plan.parts();
  plan.pass_rows = std::min(rows, std::max<size_t>(1, kPassBytes / chunk_bytes) * kChunkRows);
  plan.part_stride = DivideUp(plan.pass_rows, kernel.group) * plan.group_stride;
  plan.chunk_rows = std::min(plan.pass_rows, kChunkRows);

  const size_t threads = omp_in_parallel() ? 1 : omp_get_max_threads();
  const size_t row_chunks = DivideUp(plan.pass_rows, plan.chunk_rows);
  // As many items as fill all threads equally.
  size_t items = row_chunks * DivideUp(weights.panels, kGroupPanels);
  items = DivideUp(items, threads) * threads;
  plan.groups = std::min(weights.panels, DivideUp(items, row_chunks));
  plan.slots = std::min(threads, row_chunks * plan.groups);
  const size_t group_panels = DivideUp(weights.panels, plan.groups);
  const size_t padded_rows = DivideUp(plan.chunk_rows, kernel.group) * kernel.group;
  plan.sums_bytes = padded_rows * kPanel * sizeof(float) * group_panels;
  return plan;
}

class Runner {
 public:
  explicit Runner(const GemmCall& call)
      : call_(call),
        weights_(call.weights),
        table_(*Kernels().gemm),
        kernel_(*table_.kernel[call.weights.dtype]),
        plan_(MakePlan(weights_, kernel_, call.c.shape[0])),
        part_bytes_(plan_.block_steps * kernel_.step * kPanel * DtypeSize(weights_.dtype)) {
    const size_t a_bytes = DivideUp(plan_.parts() * plan_.part_stride, 4096) * 4096;
    packed_a_ = Scratch(a_bytes + plan_.slots * plan_.sums_bytes);
    sums_ = packed_a_ + a_bytes;
  }

  void Run() const {
    const size_t rows = call_.c.shape[0];
    for (size_t row = 0; row < rows; row += plan_.pass_rows) {
      const size_t count = std::min(plan_.pass_rows, rows - row);
      PackA(row, count);
      const size_t items = DivideUp(count, plan_.chunk_rows) * plan_.groups;
      const size_t slots = std::min(plan_.slots, items);
      ParallelFor(slots, 1, [&](int64_t begin, int64_t end) {
        for (int64_t slot = begin; slot < end; ++slot) {
          const size_t last = items * (slot + 1) / slots;
          for (size_t item = items * slot / slots; item < last; ++item) {
            RunItem(row, count, item, sums_ + slot * plan_.sums_bytes);
          }
        }
      });
    }
  }

 private:
  // Part by part, so that what a chunk of rows needs of one part lies together.
  void PackA(size_t first, size_t count) const {
    const size_t value_bytes = DtypeSize(call_.a.dtype);
    const size_t part_depth = plan_.block_steps * kernel_.step;
    const char* a = static_cast<const char*>(call_.a.data);
    const int64_t stride = call_.a.stride[0] * static_cast<int64_t>(value_bytes);
    ParallelFor(count, GrainFor(weights_.depth * value_bytes), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const char* from = a + static_cast<int64_t>(first + row) * stride;
        char* to = packed_a_;
        for (size_t k = 0; k < weights_.depth; k += part_depth, to += plan_.part_stride) {
          kernel_.pack_row(to, plan_.group_stride, row, from + k * value_bytes,
                           std::min(part_depth, weights_.depth - k));
        }
      }
    });
  }

  // One chunk of rows times one group of panels. `first` is the first row of the pass.
  void RunItem(size_t first, size_t count, size_t item, char* sums) const {
    const size_t chunk = item / plan_.groups * plan_.chunk_rows;
    const size_t rows = std::min(plan_.chunk_rows, count - chunk);
    const size_t group = item % plan_.groups;
    const size_t begin = weights_.panels * group / plan_.groups;
    const size_t end = weights_.panels * (group + 1) / plan_.groups;
    const char* a = packed_a_ + chunk / kernel_.group * plan_.group_stride;
    const size_t a_bytes = rows * plan_.group_stride / kernel_.group * plan_.parts();
    const bool near = a_bytes <= kNearBytes;
    // Panels of the group that take turns on one part of K.
    const size_t together = near ? 1 : end - begin;
    for (size_t panel = begin; panel < end; panel += together) {
      RunPanels(a, first + chunk, rows, panel, panel + together, sums);
    }
  }

  void RunPanels(const char* a, size_t row, size_t rows, size_t begin, size_t end,
                 char* sums) const {
    const size_t padded_rows = DivideUp(rows, kernel_.group) * kernel_.group;
    const size_t sums_bytes = padded_rows * kPanel * sizeof(float);
    const size_t parts = plan_.parts();
    for (size_t part = 0; part < parts; ++part) {
      const size_t step = part * plan_.block_steps;
      const size_t steps = std::min(plan_.block_steps, plan_.steps - step);
      for (size_t panel = begin; panel < end; ++panel) {
        char* panel_sums = sums + (panel - begin) * sums_bytes;
        GemmBlock block{a + part * plan_.part_stride,
                        plan_.group_stride,
                        weights_.panel(panel) + part * part_bytes_,
                        NextPart(panel, part, begin, end),
                        panel_sums,
                        rows,
                        steps,
                        part == 0};
        kernel_.multiply(block);
        if (part + 1 == parts) Finish(row, rows, panel, panel_sums);
      }
    }
  }

  // What RunPanels will read after part `part` of `panel`; null where that is not known.
  const char* NextPart(size_t panel, size_t part, size_t begin, size_t end) const {
    if (panel + 1 < end) return weights_.panel(panel + 1) + part * part_bytes_;
    if (part + 1 < plan_.parts()) return weights_.panel(begin) + (part + 1) * part_bytes_;
    return panel + 1 < weights_.panels ? weights_.panel(panel + 1) : nullptr;
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
  const size_t part_bytes_;  // of a panel, per part of K
  char* packed_a_;
  char* sums_;
};

}  // namespace

void RunGemm(const GemmCall& call) {
  if (call.c.shape[0] == 0 || call.c.shape[1] == 0) return;
  if (!RunOnednn(call)) Runner(call).Run();
}

}  // namespace vk
