// What the checks (moe.cc, rows.cc) hand to the launchers (*.cu).
#ifndef VLLM_KERNELS_CUDA_MOE_ROUTING_LAUNCH_H_
#define VLLM_KERNELS_CUDA_MOE_ROUTING_LAUNCH_H_

#include "cuda/common/launch.h"

namespace vk::cuda::moe_routing {

constexpr int32_t kMaxExperts = 1024;

enum class Scoring { kNone, kSoftmax, kSigmoid, kSoftplusSqrt };

// The best experts of each token.
struct TopK {
  const void* scores;  // [tokens, experts]
  int64_t score_stride;
  const void* bias;  // [experts] or null
  float* weights;    // [tokens, topk], as the next two
  void* indices;
  int32_t* source_rows;  // null: not wanted
  int64_t tokens;
  int32_t experts, topk;
  int32_t groups, group_topk;  // groups 1: no choice of groups
  bool renormalize;
  float factor;
  const void* token_ids;  // [tokens] or null
  const void* table;      // [table_rows, topk] or null
  int64_t table_rows;
};

struct TopKTypes {
  const char* op;
  Scoring scoring;
  int32_t scores, bias, indices, token_ids, table;  // dtypes
  cudaStream_t stream;
};

void LaunchTopK(const TopK& problem, const TopKTypes& types);
void LaunchTable(const TopK& problem, const TopKTypes& types);

// Sizes of each expert's two products, [experts, 3] each: tokens, columns, k; or columns, tokens,
// k.
struct ProductSizes {
  int32_t *first, *second;
  int32_t first_columns, n, k;  // of the model: the second product gives k columns from n
  bool swapped;
};

// A stable counting sort of entries by expert.
struct Sort {
  const void* ids;  // [entries], int32 or int64
  bool wide_ids;
  int64_t entries;
  int32_t experts;
  int64_t first_expert;  // what ids are counted from
  const int32_t* map;    // [experts] or null
  int32_t buckets;       // local experts; with `tail` one more for what is left out
  int32_t* workspace;    // [segments, buckets + tail] where there are many segments

  // Aligned to blocks: expert's shares padded to block_size.
  int32_t block_size;
  int32_t* sorted;  // [capacity]
  int32_t capacity;
  int32_t* block_experts;  // [blocks]
  int32_t blocks;
  int32_t* total;
  int32_t* scatter;  // of LaunchMark(): [entries], the entry itself, or -1 where it is left out

  // Adapters: one sort for each, of the tokens that are the adapter's.
  const int32_t* token_adapters;  // [entries / topk]
  const int32_t* adapters;        // [slots], or null: no adapters
  const int32_t* enabled;         // [max_adapters]
  int32_t slots, max_adapters, topk;

  // Permutation.
  const int32_t* values;  // [entries]
  int64_t* first_rows;    // [buckets + 1]
  int32_t* row_of_entry;  // [entries]
  int32_t* entry_of_row;  // [entries]

  // Grouped products: tokens of the rows instead of entries.
  int32_t* offsets;         // [buckets + 1]
  int32_t* padded_offsets;  // [buckets + 1] or null: the same of counts rounded up to 128
  int32_t* token_of_row;    // [entries]
  ProductSizes sizes;
};

// Parts of the entries that blocks of threads sort; 1: no workspace.
int32_t SortSegments(int64_t entries);
void LaunchAlign(const char* op, const Sort& sort, cudaStream_t stream);
void LaunchMark(const char* op, const Sort& sort, cudaStream_t stream);
void LaunchPermutation(const char* op, const Sort& sort, cudaStream_t stream);
void LaunchGrouping(const char* op, const Sort& sort, cudaStream_t stream);
// Those of one segment (sort_by_expert.cu).
void LaunchAlignByExpert(const char* op, const Sort& sort, cudaStream_t stream);
void LaunchPermutationByExpert(const char* op, const Sort& sort, cudaStream_t stream);
void LaunchGroupingByExpert(const char* op, const Sort& sort, cudaStream_t stream);

// Sizes of products whose tokens lie by expert already.
struct Experts {
  const int64_t* first_rows;  // [experts + 1], or
  const int32_t* counts;      // [experts], of shares of padded_rows each
  int32_t* offsets;           // [experts]; with counts
  int32_t experts, padded_rows;
  ProductSizes sizes;
};
void LaunchSizes(const char* op, const Experts& experts, cudaStream_t stream);

struct BatchedAlign {
  const int32_t* counts;  // [experts]
  int32_t experts, max_tokens, block_size;
  int32_t *sorted, *block_experts, *total;
  int64_t capacity, blocks;
};
void LaunchBatchedAlign(const char* op, const BatchedAlign& align, cudaStream_t stream);

// Local numbers of experts as global ones, in place; -1 for those of other ranks, and of tokens
// from the received ones on.
struct Globalize {
  int64_t* ids;          // [entries]
  const void* received;  // [ranks], int32 or int64: tokens of this rank and those before; the last
                         // is all of them
  bool wide_received;
  int64_t ranks, entries;
  int32_t topk;
  int64_t first_expert, experts;  // of the rank; of all
};
void LaunchGlobalize(const char* op, const Globalize& globalize, cudaStream_t stream);

// Copies of rows, in units of bytes.
struct Copy {
  const char* input;
  char* output;
  int64_t input_stride, output_stride, bytes;
  int64_t rows;          // of output (gather) or input (scatter)
  const int32_t* index;  // [rows] of the source (gather), [rows, fan] of the target (scatter)
  int32_t fan;           // 0: gather
  const int64_t* end;    // scatter: targets from *end on are left out; or null
  int64_t input_rows;    // gather: sources outside are left out
};
void LaunchCopy(const char* op, const Copy& copy, cudaStream_t stream);

// Weighted sums of topk rows.
struct Reduce {
  const void* input;
  void* output;
  int64_t tokens;
  int32_t topk;
  int64_t width;
  int64_t token_stride, entry_stride, column_stride;  // of input
  int64_t output_stride;
  // Sum of a token's own entries.
  const void* ids;
  bool wide_ids;
  int64_t id_token_stride, id_entry_stride;
  const int32_t* map;
  int64_t map_size;
  // Sum of the rows that an index names.
  const int32_t* rows;   // [tokens, topk] or null
  const float* weights;  // [tokens, topk]
  const int64_t* end;
  int64_t input_rows;
};
void LaunchReduce(const char* op, int32_t dtype, bool aligned, const Reduce& reduce,
                  cudaStream_t stream);

// output = a b^T
struct SmallGemm {
  const void *a, *b;
  void* output;
  int64_t a_stride, b_stride, output_stride;
  int32_t m, n, k;
};
void LaunchSmallGemm(const char* op, bool float_output, const SmallGemm& gemm, cudaStream_t stream);

}  // namespace vk::cuda::moe_routing
#endif  // VLLM_KERNELS_CUDA_MOE_ROUTING_LAUNCH_H_
