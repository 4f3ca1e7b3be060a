// Packed weights whose memory is a tensor's: each matrix [N, K] of a linear layer or of an expert
// as panels of 64 columns of its transpose, as in gemm_table.h but without padding, because engines
// allocate just the size of the weights: [N/64][K/unit][64][unit]. The last panel may be narrower.
// Where K is no multiple of `unit`, the last rows of a panel hold single values.
//
// Weights of 8 or 4 bits are decoded part by part into what gemm's kernels read, without rounding;
// their scales, shared by some columns and some values of K, multiply sums in float32. Integers of
// 4 bits stay what they are, and meet activations of int8 (packed_rows.h).
#ifndef VLLM_KERNELS_CPU_PACKED_PACKED_WEIGHTS_H_
#define VLLM_KERNELS_CPU_PACKED_PACKED_WEIGHTS_H_

#include <cstddef>
#include <cstdint>

#include "core/abi.h"
#include "cpu/gemm/gemm_table.h"
#include "cpu/packed/packed.h"
#include "cpu/round.h"

namespace vk {

// Decoded together; scales are shared by a multiple of as many values of K, or by all.
constexpr size_t kPackedGroupMultiple = 32;

// Where the scale of a column and a group of K lies: column n in block n / block_columns.
struct PackedScales {
  const void* data = nullptr;
  int32_t dtype = VK_F32;  // VK_U8: powers of two, with a bias of 127 (E8M0)
  size_t group_size = 0;   // values of K
  size_t block_columns = 1;
  int64_t expert_stride = 0, block_stride = 0, column_stride = 0, group_stride = 0;
};

// Integers of 4 bits, whose panels are as gemm_table.h has them, with a scale and a zero point for
// each column and group of K: [N/64][groups][64], the last panel narrower as well.
struct PackedInt4 {
  uint8_t* words;
  float* scales;
  int8_t* zeros;
  size_t experts, columns, depth, groups;  // N a multiple of 32, K / groups one of kWordValues

  size_t group_size() const { return groups == 0 ? 1 : depth / groups; }
};
constexpr size_t kWordValues = 8;  // of K

// Memory that a packed copy takes; of an expanded matrix it is more than its own. Refuses what the
// machine does not have.
size_t CheckPackedBytes(const char* op, const char* name, const vk_tensor& weight);

// All experts' matrices of one layer; a linear layer has one.
class PackedWeights {
 public:
  // Contiguous [experts, N, K] or [N, K]; the last dimension is half of K for floats of 4 bits.
  PackedWeights(const vk_tensor& packed, PackedCoding coding, const PackedScales& scales = {});
  explicit PackedWeights(const PackedInt4& int4);

  size_t experts() const { return experts_; }
  size_t columns() const { return columns_; }
  size_t depth() const { return depth_; }
  size_t panels() const { return CeilDiv(columns_, kPanel); }
  PackedCoding coding() const { return coding_; }
  const PackedInt4& int4() const { return int4_; }  // of kCodedI4
  size_t Width(size_t panel) const;
  char* Panel(size_t expert, size_t panel) const;

  // Fills one panel from `weight`, of the packed tensor's shape and any strides.
  void PackPanel(const vk_tensor& weight, size_t expert, size_t panel) const;
  // All of them, on all threads.
  void Pack(const vk_tensor& weight) const;

  // One panel, values [k, k + depth) of K, times `rows` rows of A that are packed at `a` from there
  // on. k must be a multiple of the kernel's step and of kPackedGroupMultiple; sums start at zero
  // where k is 0. `next` is a hint what will be read after this, or null. `more_sums`: room for as
  // many again.
  struct Part {
    const char* a;
    size_t a_group_stride, rows, k, depth;
    const char* next;
    float* sums;
    float* more_sums;
  };
  void Multiply(const GemmKernel& kernel, int32_t dtype, size_t expert, size_t panel,
                const Part& part) const;
  // Stored values [k, k + count) of a panel as kernels want them: 64 columns, zeros from the end
  // on.
  void Expand(const char* panel, size_t width, size_t k, size_t count, char* to) const;

 private:
  void MultiplyPlain(const GemmKernel& kernel, size_t expert, size_t panel, const Part& part) const;
  void MultiplyCoded(const GemmKernel& kernel, int32_t dtype, size_t expert, size_t panel,
                     const Part& part) const;
  // Where the scale of a column lies, and how many columns from it on are in its block.
  int64_t ScaleAt(size_t expert, size_t column, size_t group) const;
  size_t BlockRest(size_t column) const;
  // Scales of a panel's columns at value `k` of K; returns where others begin.
  size_t ReadScales(size_t expert, size_t panel, size_t k, float* scales) const;
  bool SameScales(size_t expert, size_t panel, size_t group) const;

  char* data_;
  size_t experts_, columns_, depth_;
  PackedCoding coding_;
  PackedScales scales_ = {};
  PackedInt4 int4_ = {};
  size_t values_, stored_depth_;  // values of K in a stored one, stored ones
  size_t value_bytes_, unit_;     // of stored ones
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_PACKED_PACKED_WEIGHTS_H_
