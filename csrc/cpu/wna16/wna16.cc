#include "cpu/wna16/wna16.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/gemm/gemm_rows.h"
#include "cpu/gemm/gemm_weights.h"
#include "cpu/parallel.h"
#include "cpu/round.h"
#include "cpu/rows.h"
#include "cpu/scratch.h"

namespace vk {
namespace {

constexpr const char* kOp = "cpu_gemm_wna16";
constexpr size_t kPanelBlocks = kPanel / kWna16Columns;
// Rows that share the part of a panel that one thread expands (for the L2 cache), and the values
// that it expands at once (for the L1 cache).
constexpr size_t kChunkRows = 256, kExpandBytes = 32768;

struct Call {
  const vk_tensor &input, &weights, &output, &scales;
  const vk_tensor *zeros, *g_idx, *bias;
};

class Product {
 public:
  explicit Product(const Call& call)
      : call_(call),
        table_(*Kernels().wna16),
        dtype_(call.input.dtype),
        rows_(call.input.shape[0]),
        depth_(call.input.shape[1]),
        columns_(call.output.shape[1]),
        panels_(CeilDiv(columns_, kPanel)),
        group_size_(std::max<size_t>(1, depth_ / std::max<int64_t>(1, call.scales.shape[0]))),
        threads_(omp_in_parallel() ? 1 : omp_get_max_threads()) {}

  void Run() const { rows_ <= table_.few_rows ? RunFew() : RunMany(); }

 private:
  Wna16Panel Panel(size_t index) const {
    Wna16Panel panel{};
    panel.block_stride = 2 * depth_;
    panel.weights = static_cast<const uint32_t*>(call_.weights.data) +
                    index * kPanelBlocks * panel.block_stride;
    panel.blocks = std::min(kPanelBlocks, columns_ / kWna16Columns - index * kPanelBlocks);
    panel.scales = RowAt(call_.scales, 0) + index * kPanel * DtypeSize(dtype_);
    panel.scales_stride = call_.scales.stride[0];
    if (call_.zeros != nullptr) {
      panel.zeros = static_cast<const uint32_t*>(call_.zeros->data) + index * kPanel / 8;
      panel.zeros_stride = call_.zeros->stride[0];
    }
    if (call_.g_idx != nullptr) panel.groups = static_cast<const int32_t*>(call_.g_idx->data);
    panel.group_size = group_size_;
    return panel;
  }

  // Threads take the next item whenever they are ready, so one that the system holds up delays the
  // others little.
  template <class Body>
  void ForItems(size_t items, const Body& body) const {
    std::atomic<size_t> next{0};
    ParallelFor(std::min(threads_, items), 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        for (size_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) {
          body(slot, item);
        }
      }
    });
  }

  // Few rows: the weights are read once, in memory order, and dequantised in registers.
  void RunFew() const {
    const Wna16Few& few = Few();
    const size_t row_stride = RoundUp(few.row_bytes(depth_, group_size_), 64) + 64;
    char* packed = ThreadScratch(rows_ * row_stride + 64);
    for (size_t row = 0; row < rows_; ++row) {
      few.pack(packed + row * row_stride, RowAt(call_.input, row), depth_, group_size_);
    }
    ForItems(panels_, [&](size_t, size_t panel) {
      alignas(64) float sums[kMostFewRows * kPanel];
      few.multiply(Panel(panel), packed, row_stride, rows_, depth_, sums);
      Finish(0, rows_, panel, sums);
    });
  }

  const Wna16Few& Few() const {
    const Wna16Few& by_group = table_.by_group[dtype_];
    const bool fits = call_.g_idx == nullptr && group_size_ % by_group.group_multiple == 0;
    return fits ? by_group : table_.by_value[dtype_];
  }

  // Many rows: one part of a panel after another is expanded into the layout of the gemm family's
  // kernels.
  void RunMany() const {
    const GemmKernel& kernel = *Kernels().gemm->kernel[dtype_];
    const size_t chunks = CeilDiv(rows_, kChunkRows);
    const size_t chunk_rows = RoundUp(CeilDiv(rows_, chunks), 32);
    const GemmRows whole(kernel, depth_, std::min(chunk_rows, rows_));
    const size_t chunk_bytes = RoundUp(whole.bytes(), 64);
    const size_t sums_bytes = RoundUp(whole.rows(), kernel.group) * kPanel * sizeof(float);
    char* scratch = ThreadScratch(chunks * chunk_bytes + threads_ * (sums_bytes + kExpandBytes));
    char* threads_scratch = scratch + chunks * chunk_bytes;
    const auto rows_of = [&](size_t chunk) {
      return GemmRows(kernel, depth_, std::min(chunk_rows, rows_ - chunk * chunk_rows));
    };
    const size_t value_bytes = DtypeSize(dtype_);
    ParallelFor(rows_, GrainFor(depth_ * value_bytes), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const size_t chunk = row / chunk_rows;
        rows_of(chunk).Pack(scratch + chunk * chunk_bytes, row % chunk_rows,
                            RowAt(call_.input, row), value_bytes);
      }
    });
    ForItems(chunks * panels_, [&](size_t slot, size_t item) {
      const size_t chunk = item / panels_, panel = item % panels_;
      char* expanded = threads_scratch + slot * (sums_bytes + kExpandBytes);
      float* sums = reinterpret_cast<float*>(expanded + kExpandBytes);
      const GemmRows rows = rows_of(chunk);
      Multiply(rows, Panel(panel), scratch + chunk * chunk_bytes, expanded, sums);
      Finish(chunk * chunk_rows, rows.rows(), panel, sums);
    });
  }

  void Multiply(const GemmRows& rows, const Wna16Panel& panel, const char* area, char* expanded,
                float* sums) const {
    const GemmKernel& kernel = rows.kernel();
    const size_t step_bytes = kernel.step * kPanel * DtypeSize(dtype_);
    const size_t piece = std::min(kernel.block_steps, kExpandBytes / step_bytes);
    bool first = true;
    if (depth_ == 0) std::fill_n(sums, rows.rows() * kPanel, 0.0f);
    for (size_t part = 0; part < depth_; part += rows.part_depth(), area += rows.part_stride()) {
      const size_t depth = std::min(rows.part_depth(), depth_ - part);
      const size_t steps = CeilDiv(depth, kernel.step);
      for (size_t done = 0; done < steps; done += piece) {
        const size_t count = std::min(piece, steps - done);
        table_.expand[dtype_](panel, part + done * kernel.step, count * kernel.step, depth_,
                              expanded);
        kernel.multiply({area + done * kernel.group_step_bytes, rows.group_stride(), expanded,
                         nullptr, sums, rows.rows(), count, first});
        first = false;
      }
    }
  }

  void Finish(size_t row, size_t rows, size_t panel, const float* sums) const {
    const size_t column = panel * kPanel, value_bytes = DtypeSize(dtype_);
    GemmFinish finish{};
    finish.sums = sums;
    finish.c = const_cast<char*>(RowAt(call_.output, row)) + column * value_bytes;
    finish.c_stride = call_.output.stride[0];
    finish.rows = rows;
    finish.columns = std::min(kPanel, columns_ - column);
    if (call_.bias != nullptr) {
      finish.bias = static_cast<const char*>(call_.bias->data) + column * value_bytes;
    }
    Kernels().gemm->finish[dtype_](finish);
  }

  static constexpr size_t kMostFewRows = 16;

  const Call& call_;
  const Wna16Table& table_;
  const int32_t dtype_;
  const size_t rows_, depth_, columns_, panels_, group_size_, threads_;
};

void CheckGroups(const vk_tensor* g_idx, int64_t depth, int64_t groups) {
  if (g_idx == nullptr) {
    VK_CHECK(groups > 0 && depth % groups == 0,
             "%s: scales has %lld groups for %lld input columns, want groups of equal size", kOp,
             static_cast<long long>(groups), static_cast<long long>(depth));
    return;
  }
  Arg(kOp, "g_idx", g_idx).Dtype({VK_I32}).Dims(1).Size(0, depth).Contiguous();
  const int32_t* index = static_cast<const int32_t*>(g_idx->data);
  for (int64_t k = 0; k < depth; ++k) {
    VK_CHECK(index[k] >= 0 && index[k] < groups,
             "%s: g_idx[%lld] is %d, want a group from 0 to %lld", kOp, static_cast<long long>(k),
             index[k], static_cast<long long>(groups - 1));
  }
}

void CheckHints(int64_t pack_factor, const char* isa_hint) {
  VK_CHECK(pack_factor == 8, "%s: pack_factor is %lld, want 8 (4-bit weights)", kOp,
           static_cast<long long>(pack_factor));
  for (const char* known : {"amx", "vec", "neon"}) {
    if (isa_hint != nullptr && std::strcmp(isa_hint, known) == 0) return;
  }
  Fail(VK_INVALID_ARGUMENT, "%s: isa_hint is '%s', want amx, vec or neon", kOp,
       isa_hint == nullptr ? "" : isa_hint);
}

}  // namespace
}  // namespace vk

extern "C" vk_status vk_cpu_gemm_wna16(const vk_tensor* input, const vk_tensor* q_weight,
                                       const vk_tensor* output, const vk_tensor* scales,
                                       const vk_tensor* zeros, const vk_tensor* g_idx,
                                       const vk_tensor* bias, int64_t pack_factor,
                                       const char* isa_hint) {
  using vk::Arg;
  using vk::kOp;
  return vk::Guard([&] {
    const Arg in(kOp, "input", input), out(kOp, "output", output), scale(kOp, "scales", scales);
    in.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    out.SameDtype(in).Dims(2).Size(0, in.size(0)).LastDimContiguous();
    const int64_t depth = in.size(1), columns = out.size(1);
    VK_CHECK(columns % static_cast<int64_t>(vk::kWna16Columns) == 0,
             "%s: output has %lld columns, want a multiple of 16", kOp,
             static_cast<long long>(columns));
    const Arg weights(kOp, "q_weight", q_weight);
    weights.Dtype({VK_I32}).Dims(2).Size(0, columns / 16).Size(1, 2 * depth).Contiguous();
    scale.SameDtype(in).Dims(2).Size(1, columns).LastDimContiguous();
    if (zeros != nullptr) {
      const Arg zero(kOp, "zeros", zeros);
      zero.Dtype({VK_I32}).Dims(2).Size(0, scale.size(0)).Size(1, columns / 8).LastDimContiguous();
    }
    vk::CheckGroups(g_idx, depth, scale.size(0));
    if (bias != nullptr) {
      Arg(kOp, "bias", bias).SameDtype(in).Dims(1).Size(0, columns).Contiguous();
    }
    vk::CheckHints(pack_factor, isa_hint);
    if (in.size(0) == 0 || columns == 0) return;
    const vk::Call call{*input, *q_weight, *output, *scales, zeros, g_idx, bias};
    vk::Product(call).Run();
  });
}
