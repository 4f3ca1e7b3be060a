#include "cpu/packed/packed_run.h"

#include <algorithm>
#include <atomic>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/packed/packed_rows.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "cpu/scratch.h"

namespace vk {
namespace {

// Rows that share what one thread expands of a panel: they stay in the L2 cache.
constexpr size_t kChunkRows = 256, kRowMultiple = 32;

class Product {
 public:
  explicit Product(const PackedCall& call)
      : call_(call),
        rows_(call.input.shape[0]),
        threads_(omp_in_parallel() ? 1 : omp_get_max_threads()) {
    const size_t chunks = CeilDiv(rows_, kChunkRows);
    chunk_rows_ = std::min(rows_, RoundUp(CeilDiv(rows_, chunks), kRowMultiple));
    chunks_ = CeilDiv(rows_, chunk_rows_);
    const PackedRows chunk = RowsOf(chunk_rows_);
    chunk_bytes_ = RoundUp(chunk.bytes(), kCacheLine);
    sums_ = chunk.sums();
  }

  void Run() const {
    char* packed = ThreadScratch(chunks_ * chunk_bytes_ + threads_ * 2 * sums_ * sizeof(float));
    float* sums = reinterpret_cast<float*>(packed + chunks_ * chunk_bytes_);
    const size_t row_bytes = call_.weights.depth() * DtypeSize(call_.input.dtype);
    ParallelFor(rows_, GrainFor(row_bytes), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const size_t chunk = row / chunk_rows_;
        Rows(chunk).Pack(packed + chunk * chunk_bytes_, row % chunk_rows_, RowAt(call_.input, row));
      }
    });
    // Threads take the next item whenever they are ready, so one that the system holds up delays
    // the others little.
    const size_t panels = call_.weights.panels(), items = chunks_ * panels;
    std::atomic<size_t> next{0};
    ParallelFor(std::min(threads_, items), 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        for (size_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) {
          const size_t chunk = item / panels;
          Multiply(chunk, item % panels, packed + chunk * chunk_bytes_, sums + slot * 2 * sums_);
        }
      }
    });
  }

 private:
  PackedRows RowsOf(size_t count) const {
    return PackedRows(call_.weights, call_.input.dtype, count);
  }
  PackedRows Rows(size_t chunk) const {
    return RowsOf(std::min(chunk_rows_, rows_ - chunk * chunk_rows_));
  }

  void Multiply(size_t chunk, size_t panel, const char* area, float* sums) const {
    const PackedRows rows = Rows(chunk);
    const bool last = panel + 1 == call_.weights.panels();
    const char* next = last ? nullptr : call_.weights.Panel(0, panel + 1);
    rows.Multiply(area, 0, panel, next, sums, sums + sums_);
    Finish(chunk * chunk_rows_, rows.rows(), panel, sums);
  }

  void Finish(size_t row, size_t rows, size_t panel, float* sums) const {
    const size_t column = panel * kPanel;
    GemmFinish finish{};
    finish.sums = sums;
    finish.c = const_cast<char*>(RowAt(call_.out, row)) + column * DtypeSize(call_.out.dtype);
    finish.c_stride = call_.out.stride[0];
    finish.rows = rows;
    finish.columns = call_.weights.Width(panel);
    if (const vk_tensor* bias = call_.bias) {
      const char* values = static_cast<const char*>(bias->data) + column * DtypeSize(bias->dtype);
      Kernels().packed->add_bias[bias->dtype](sums, kPanel, rows, values, finish.columns);
    }
    Kernels().gemm->finish[call_.out.dtype](finish);
  }

  const PackedCall& call_;
  const size_t rows_, threads_;
  size_t chunk_rows_, chunks_, chunk_bytes_, sums_;
};

}  // namespace

void RunPacked(const PackedCall& call) { Product(call).Run(); }

}  // namespace vk
