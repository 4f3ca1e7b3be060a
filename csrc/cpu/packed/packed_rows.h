// Rows of activations as one product with packed weights reads them. Where these are integers of 4
// bits each row is rounded to int8: its scale, and its sums over each group of K, with which zero
// points are taken off afterwards, lie behind the packed rows.
#ifndef VLLM_KERNELS_CPU_PACKED_PACKED_ROWS_H_
#define VLLM_KERNELS_CPU_PACKED_PACKED_ROWS_H_

#include "cpu/gemm/gemm_rows.h"
#include "cpu/packed/packed_weights.h"

namespace vk {

class PackedRows {
 public:
  // `rows` rows of a dtype. `weights` must live as long.
  PackedRows(const PackedWeights& weights, int32_t dtype, size_t rows);

  size_t rows() const { return rows_.rows(); }
  // Of the area that holds them, which starts at a cache line.
  size_t bytes() const;
  // Floats of the sums of one panel.
  size_t sums() const { return RoundUp(rows(), rows_.kernel().group) * kPanel; }

  // Row `row`, whose values lie at `from`, into the area.
  void Pack(char* area, size_t row, const char* from) const;

  // sums[row][64] = the rows times one panel. `more_sums`: room for as many again. `next`: what
  // will be read after the panel (a hint), or null.
  void Multiply(const char* area, size_t expert, size_t panel, const char* next, float* sums,
                float* more_sums) const;

 private:
  bool rounded() const { return weights_.coding() == kCodedI4; }
  size_t scales_at() const { return RoundUp(rows_.bytes(), size_t{64}); }
  size_t row_sums_at() const { return scales_at() + rows() * sizeof(float); }
  void PackRounded(char* area, size_t row, const char* from) const;
  void MultiplyRounded(const char* area, size_t expert, size_t panel, const char* next, float* sums,
                       int32_t* products) const;

  const PackedWeights& weights_;
  int32_t dtype_;
  GemmRows rows_;
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_PACKED_PACKED_ROWS_H_
