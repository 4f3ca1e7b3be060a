// What a tier offers for matrix multiplication, and the memory layout that all tiers share.
//
// Packed weights: panels of kPanel columns, [N / 64][K / unit][64][unit], where `unit` values of K
// that one dot-product instruction consumes lie together: 1 (f32, f16), 2 (bf16), 4 (int8). This
// is oneDNN's BA16a64b{unit}a too, so that oneDNN can multiply with the same copy. K and N are
// padded with zeros. Weights of 4 bits, from 0 to 15: [N / 64][K / 8][64] words of 32 bits, whose
// byte i holds value i of K in its lower half and value i + 4 in its upper one.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_TABLE_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_TABLE_H_

#include <cstddef>
#include <cstdint>

namespace vk {

constexpr size_t kPanel = 64;  // columns

// Compact weights: bfloat16 in 12 bits, without loss. Of the 256 exponents a matrix of weights uses
// few; the 16 most frequent get codes of 4 bits, and a value with another one is kept aside. A row
// is two values of K times one panel, 128 values in the order of the packed layout. Its bytes are
// the signs and mantissas of the first 64 values, those of the others, and the codes of both, the
// others' in the upper halves. Values of the first and the second 32 of each 64 take turns, eight
// at a time, so that no step of expanding crosses a block of 16 bytes.
constexpr size_t kCompactRowValues = 2 * kPanel;
constexpr size_t kCompactRowBytes = kCompactRowValues * 12 / 8;
constexpr size_t kCompactRowMultiple = 16;  // rows of a panel: K is padded

// What a code stands for: the upper byte of a bfloat16 without the sign, and bit 7 of the lower.
struct GemmCodes {
  uint8_t upper[16], lower[16];
};

// A value whose exponent has no code, by its place in the panel.
struct GemmRare {
  uint32_t at;
  uint16_t value;
};

// Some rows of a compact panel.
struct GemmCompact {
  const char* data;
  size_t row;  // that `data` starts with
  const GemmCodes* codes;
  const GemmRare* rare;  // the first at or after `row`; one past every place ends a panel
};

// One panel times some rows of packed A, over a part of K.
struct GemmBlock {
  const char* a;          // packed, this part
  size_t a_group_stride;  // bytes between groups of `GemmKernel::group` rows
  const char* b;          // the panel, at the first step of this part
  const char* b_next;     // what will be read after it (a hint for prefetching), or null
  void* sums;             // [rows rounded up to `group`][kPanel] float, or int32 for int8
  size_t rows;
  size_t steps;       // of `GemmKernel::step` values of K
  bool first;         // sums start at zero instead of their present content
  bool near = false;  // b is in a near cache: nothing to prefetch
  // Compact rows to expand meanwhile, a multiple of 16; null: none. GemmKernel::expands_next only.
  const GemmCompact* next = nullptr;
  char* next_to = nullptr;
  size_t next_rows = 0;
};

// How one tier multiplies one dtype.
struct GemmKernel {
  size_t step;              // values of K that one step consumes
  size_t group;             // rows that are packed together
  size_t group_step_bytes;  // packed bytes of such a group per step
  size_t block_steps;       // steps per part of K where many rows share the panel
  size_t few_rows;          // up to here the panel is read once: K is not split
  int32_t a_shift;          // what packing adds to int8 a; the caller subtracts it times sum_k b
  // Packs row `row` (of `to`, in group row / group) of `depth` values; pads up to whole steps.
  void (*pack_row)(char* to, size_t group_stride, size_t row, const void* from, size_t depth);
  void (*multiply)(const GemmBlock& block);
  // Compact weights: up to how many rows `multiply_compact` is there for (whole K, `b` unused); the
  // steps that are expanded together where other rows are few; whether
  // `multiply` expands what comes next; whether such weights pay on this tier.
  size_t compact_rows = 0, compact_steps = 0;
  void (*multiply_compact)(const GemmBlock& block, const GemmCompact& b) = nullptr;
  bool expands_next = false, prefers_compact = false;
  // Packed bytes of one row's values of a step, where they lie value after value; else 0.
  size_t row_step_bytes = 0;
};

// From sums to rows of c: (sums - a_shift * b_sums) * b_scales - azp * azp_adj, times a_scale, plus
// bias for int8; sums + bias for floats.
struct GemmFinish {
  const void* sums;  // [rows][kPanel]
  void* c;
  size_t c_stride;  // elements
  size_t rows, columns;
  const void* bias;  // dtype of c, or null
  // The rest for int8 only; pointers are at this panel's first column, or at the first row.
  int32_t a_shift;
  const int32_t* b_sums;
  const float* b_scales;
  const float* a_scales;
  size_t a_scale_stride;  // 0: one scale for all rows
  const int32_t* azp;     // or null
  size_t azp_stride;
  const float* azp_adj;
};

struct GemmTable {
  const GemmKernel* kernel[4];  // by vk_dtype of a: float32, bfloat16, float16, int8
  // int8 a times weights of 4 bits, sums int32: for few rows, and for many. K is whole steps.
  const GemmKernel* nibbles[2];
  void (*expand)(const GemmCompact& from, size_t rows, char* to);  // to packed bfloat16
  void (*finish[3])(const GemmFinish& finish);         // by vk_dtype of c, sums are float
  void (*finish_scaled[3])(const GemmFinish& finish);  // sums are int32
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_TABLE_H_
