// GEMMs of 4-bit and 8-bit weights with 16-bit activations (W4A16, W8A16), for GPTQ, AWQ, FP8 and
// FP4 (MXFP4, NVFP4) checkpoints, on GPUs of compute capability 8.0 and newer.
//
// Weights are repacked once for tensor cores (marlin_*; Frantar et al., "MARLIN: Mixed-Precision
// Auto-Regressive Parallel Inference on Large Language Models", 2024) or used as the checkpoint
// holds them (gptq_*, awq_*; Frantar et al., "GPTQ: Accurate Post-Training Quantization for
// Generative Pre-trained Transformers", 2022; Lin et al., "AWQ: Activation-aware Weight
// Quantization for LLM Compression and Acceleration", 2023).
//
// Tensors are device memory; nothing synchronizes or allocates, so every call can be captured in a
// CUDA graph. `stream` is a cudaStream_t. Optional tensors may be null or have no elements. Formats
// that the engine knows and these kernels do not are refused with VK_UNSUPPORTED.
#ifndef VLLM_KERNELS_CUDA_WNA16_WNA16_H_
#define VLLM_KERNELS_CUDA_WNA16_WNA16_H_

#include "core/abi.h"

extern "C" {

// Repacks GPTQ weights, packed along K, into the layout of vk_cuda_marlin_gemm.
//   out: [size_k / 16, size_n * 16 / pack], int32, contiguous, 16-byte aligned;
//        pack = 32 / num_bits
//   b_q_weight: [size_k / pack, size_n], int32, contiguous: row k is element k % pack, from the low
//               bits up, of the words of row k / pack
//   perm: [size_k], int32, contiguous, or null: row k is taken from row perm[k]
//   num_bits: 4 | 8;  size_k and size_n: multiples of 64
VK_EXPORT vk_status vk_cuda_gptq_marlin_repack(const vk_tensor* out, const vk_tensor* b_q_weight,
                                               const vk_tensor* perm, int64_t size_k,
                                               int64_t size_n, int64_t num_bits, void* stream);

// As vk_cuda_gptq_marlin_repack for AWQ weights, which are packed along N.
//   b_q_weight: [size_k, size_n / pack], int32, contiguous; the elements of a word, from the low
//               bits up, are columns 0 2 4 6 1 3 5 7 (4 bits) or 0 2 1 3 (8 bits)
VK_EXPORT vk_status vk_cuda_awq_marlin_repack(const vk_tensor* out, const vk_tensor* b_q_weight,
                                              int64_t size_k, int64_t size_n, int64_t num_bits,
                                              void* stream);

// What vk_cuda_marlin_gemm takes; `a`, `b_q_weight` and `b_type_id` also serve the queries.
typedef struct vk_marlin_problem {
  const vk_tensor* a;           // [M, K], float16 | bfloat16, last dimension contiguous
  const vk_tensor* b_q_weight;  // [K / 16, N * 16 / pack], int32, repacked
  const vk_tensor* bias;        // [N], dtype of a, permuted as scales per channel, or null
  const vk_tensor* scales;      // [groups, N], dtype of a, permuted by the engine; groups divides K
                                // into 32 or a multiple of 64 each, or is 1: per channel. Those of
                                // FP8 weights bring the factor 2^8 (float16) or 2^120 (bfloat16).
                                // Of FP4, permuted besides as layout.h says: MXFP4 [K / 32, N],
                                // e8m0; NVFP4 [K / 16, N], bits 14 to 7 of the scale times 2^7 in
                                // float16, which is at least 2 or 0, given as e4m3
  const vk_tensor* global_scale;  // NVFP4: one float32, with the factor 2^7 (float16) or 2^119
                                  // (bfloat16); else null
  const vk_tensor* zeros;         // [groups, N / 8], int32: for uint4 without bias, else null
  const vk_tensor* g_idx;  // [K], int32: group of each row of K, ascending (act_order), or null
  const vk_tensor* perm;   // [K], int32: column of a for each row of K, or null
  int64_t b_type_id;       // the engine's ScalarType id: uint4, uint4b8, uint8b128, e4m3 or e2m1
  int64_t m, n, k;
  int32_t is_k_full;  // g_idx names every group, each K / groups times: it then need not be read
  // W4A8, with uint4b8 and bfloat16: float32, M and N elements, factors of the result; or null.
  // Where the plan does not say that they are applied, the product leaves them to the caller.
  const vk_tensor *token_scales, *channel_scales;
} vk_marlin_problem;

// How a GEMM is best computed.
typedef struct vk_marlin_plan {
  int32_t dequantize;  // by vk_cuda_marlin_dequantize and a 16-bit GEMM of the caller's: for many
                       // tokens, and where vk_cuda_marlin_gemm has no kernel
  int64_t scratch_bytes;  // else by vk_cuda_marlin_gemm, with this much scratch memory, 16-byte
                          // aligned, or none
  int32_t scales_result;  // vk_cuda_marlin_gemm applies the scales of tokens and channels
} vk_marlin_plan;

// On the current device, with a workspace of `locks` int32.
VK_EXPORT vk_status vk_cuda_marlin_plan(const vk_marlin_problem* problem, int64_t locks,
                                        vk_marlin_plan* plan);

// c = a[:, perm] @ ((q - zero) * scale) + bias. Weights are exact (but for rounding to 16 bits by
// large_m from 128 tokens on, and for those of MXFP4 that the type does not hold; in bfloat16, with
// scales above 2^41, they are infinite), sums are float32, rounded once at the end, and added in
// the same order in every run.
//   c: [M, N], dtype of a, contiguous, 16-byte aligned
//   workspace: int32, contiguous, at least one; zeros before the call, and after it
//   scratch: uint8, as vk_cuda_marlin_plan says; contents of no meaning
// With perm, or where rows of `a` are not 16-byte aligned, `a` is copied to the scratch memory
// first. g_idx without is_k_full is VK_UNSUPPORTED: use vk_cuda_marlin_dequantize.
VK_EXPORT vk_status vk_cuda_marlin_gemm(const vk_tensor* c, const vk_marlin_problem* problem,
                                        const vk_tensor* workspace, const vk_tensor* scratch,
                                        void* stream);

// The operands of the equivalent 16-bit GEMM.
//   weight: [N, K], dtype of a, contiguous, 16-byte aligned: (q - zero) * scale, rounded once; with
//           g_idx, of the group of row k. It is to be multiplied with a[:, perm].
//   bias: [N], dtype of a, contiguous: the problem's without its permutation; null without one
VK_EXPORT vk_status vk_cuda_marlin_dequantize(const vk_tensor* weight, const vk_tensor* bias,
                                              const vk_marlin_problem* problem, void* stream);

// Which expert takes which row, as moe_align_block_size orders them: the numbers are trusted to be
// those of rows, tiles and experts that there are, or to say that there is none.
typedef struct vk_marlin_experts {
  const vk_tensor* sorted_token_ids;  // [places], int32: row of c for each place, tile by tile;
                                      // M * top_k and above: none
  const vk_tensor* expert_ids;        // [places / block], int32: of each tile; -1: not here
  const vk_tensor* num_tokens_past_padded;  // one int32: places in use
  const vk_tensor* topk_weights;            // M * top_k float32, factors of the rows of c, or null
  int64_t block;                            // places in a tile: 1 to 64
  int64_t top_k;
} vk_marlin_experts;

// Bytes of scratch memory (16-byte aligned) that vk_cuda_moe_marlin_gemm wants with a workspace of
// `locks` int32, on the current device.
VK_EXPORT vk_status vk_cuda_moe_marlin_scratch(const vk_marlin_problem* problem,
                                               const vk_marlin_experts* experts, int64_t locks,
                                               int64_t* bytes);

// c[r] = (a[r / top_k] @ ((q - zero) * scale) + bias) * topk_weights[r] with the weights of the
// expert of row r. Rows without an expert are not written.
//   c: [M * top_k, N];  problem: as of vk_cuda_marlin_gemm, but b_q_weight, bias, scales and zeros
//         have one more dimension in front, of experts, as many numbers are in global_scale, and
//         there is no g_idx
VK_EXPORT vk_status vk_cuda_moe_marlin_gemm(const vk_tensor* c, const vk_marlin_problem* problem,
                                            const vk_marlin_experts* experts,
                                            const vk_tensor* workspace, const vk_tensor* scratch,
                                            void* stream);

// For benchmarks: forces block shape, pipeline stages, blocks, and steps whose weights are
// prefetched before the kernel's dependencies are met (-2: no programmatic dependent launch) of the
// products that follow; -1: as planned. Returns the number of block shapes.
VK_EXPORT int32_t vk_cuda_marlin_force(int32_t shape, int32_t stages, int32_t blocks,
                                       int32_t prefetch);

// c[m, j] = a[m, perm[j]].
//   c, a: [M, K], one 16-bit dtype (float16 | bfloat16); c contiguous, a's last dimension
//   contiguous perm: [K], int32, contiguous, values in [0, K)
VK_EXPORT vk_status vk_cuda_permute_cols(const vk_tensor* c, const vk_tensor* a,
                                         const vk_tensor* perm, void* stream);

// Whether dequantized weights and a dense product are faster than vk_cuda_gptq_gemm and
// vk_cuda_awq_gemm with that many tokens.
VK_EXPORT int32_t vk_cuda_unpacked_prefers_dequantize(int64_t m);

// Bytes of scratch memory that vk_cuda_gptq_gemm and vk_cuda_awq_gemm want.
VK_EXPORT int64_t vk_cuda_unpacked_scratch(int64_t m, int64_t n, int64_t k);

// Puts the rows of K of GPTQ weights into the order `perm`; vk_cuda_gptq_gemm with use_exllama
// wants them so. out and q_weight must not overlap.
//   out, q_weight: [K * bit / 32, N], int32, contiguous;  perm: [K], int32;  bit: 2 | 3 | 4 | 8
VK_EXPORT vk_status vk_cuda_gptq_shuffle(const vk_tensor* out, const vk_tensor* q_weight,
                                         const vk_tensor* perm, int64_t bit, void* stream);

// GPTQ weights as in a checkpoint.
typedef struct vk_gptq_weights {
  const vk_tensor* q_weight;  // [K * bit / 32, N], int32: rows of K packed, low bits first
  const vk_tensor* qzeros;    // [groups, N * bit / 32], int32: zero points packed along N
  const vk_tensor* scales;    // [groups, N], float16 | bfloat16, contiguous
  const vk_tensor* g_idx;     // [K], int32, or null: with use_exllama the order of K that
                              // vk_cuda_gptq_shuffle was given, else the group of each row
  int32_t use_exllama;
  int32_t use_v2_format;  // zero points are stored as they are, not minus 1
  int64_t bit;            // 2 | 3 | 4 | 8
} vk_gptq_weights;

// c = a @ ((q - zero) * scale), summed in float32.
//   c: [M, N], a: [M, K], dtype of the scales; c contiguous, a's last dimension contiguous
//   K: a multiple of 32;  scratch: uint8, vk_cuda_unpacked_scratch(M, N, K)
VK_EXPORT vk_status vk_cuda_gptq_gemm(const vk_tensor* c, const vk_tensor* a,
                                      const vk_gptq_weights* weights, const vk_tensor* scratch,
                                      void* stream);

// weight[k, n] = (q - zero) * scale, rounded once, with K in the order of the activations.
//   weight: [K, N], dtype of the scales, contiguous
VK_EXPORT vk_status vk_cuda_gptq_dequantize(const vk_tensor* weight, const vk_gptq_weights* weights,
                                            void* stream);

// c = a @ ((q - zero) * scale) with AWQ weights of 4 bits as in a checkpoint, summed in float32.
//   c: [M, N], a: [M, K], float16 | bfloat16; c contiguous, a's last dimension contiguous
//   kernel: [K, N / 8], int32: columns 0 2 4 6 1 3 5 7 of a word, low bits first
//   scales: [groups, N], dtype of a;  zeros: [groups, N / 8], int32, packed as kernel
//   scratch: uint8, vk_cuda_unpacked_scratch(M, N, K)
VK_EXPORT vk_status vk_cuda_awq_gemm(const vk_tensor* c, const vk_tensor* a,
                                     const vk_tensor* kernel, const vk_tensor* scales,
                                     const vk_tensor* zeros, const vk_tensor* scratch,
                                     void* stream);

// weight[k, n] = (q - zero) * scale, rounded once, of AWQ weights.
//   weight: [K, N], dtype of scales, contiguous, 16-byte aligned
VK_EXPORT vk_status vk_cuda_awq_dequantize(const vk_tensor* weight, const vk_tensor* kernel,
                                           const vk_tensor* scales, const vk_tensor* zeros,
                                           void* stream);

// output[e] = input[e / top_k] @ ((q - zero) * scale)[expert of e] * topk_weights[e] for the
// entries e that vk_cuda_moe_align_block_size() sorted; all others are 0. Weights are rounded to
// the dtype of input, sums are float32. For a few entries an expert.
//   input: [tokens, K], float16 | bfloat16, rows aligned to 16 bytes, last dimension contiguous
//   output: [..., N] of tokens * top_k rows, dtype of input, contiguous
//   b_qweight: [experts, N, K / 2], uint8, contiguous: element 2 i in the low bits of byte i
//   b_scales: [experts, N, groups], dtype of input, contiguous; K / groups a multiple of 32
//   b_qzeros: [experts, N / 2, groups], uint8, contiguous: row 2 i in the low bits; or null: 8
//   topk_weights: float32, tokens * top_k elements, or null
//   sorted_token_ids, expert_ids, num_tokens_post_pad: int32, of blocks of block_size_m; what is no
//     whole block below num_tokens_post_pad is not used
//   bit: 4
VK_EXPORT vk_status vk_cuda_moe_wna16_gemm(const vk_tensor* input, const vk_tensor* output,
                                           const vk_tensor* b_qweight, const vk_tensor* b_scales,
                                           const vk_tensor* b_qzeros, const vk_tensor* topk_weights,
                                           const vk_tensor* sorted_token_ids,
                                           const vk_tensor* expert_ids,
                                           const vk_tensor* num_tokens_post_pad, int64_t top_k,
                                           int64_t block_size_m, int64_t bit, void* stream);

// Weights of 4 bits, signed, with float8 activations (W4A8): out[m, n] = token_scales[m] *
// channel_scales[n] * sum over k of a[m, k] q[k, n] s[k / group, n], s in float8. Computed as a
// product of bfloat16 activations with repacked weights: there all factors of the sum are exact.
// The result is rounded before its scales of tokens and channels (experts: between them), and
// after; of up to 16 tokens on a 9.0 once, behind them.

// Weights as vk_cuda_marlin_gemm takes them.
//   b: int32, words of 8 along K, low bits first, of any strides: [K / 8, N], or with `strides`
//     [experts, N, K / 8];  K and N: multiples of 64
//   out: b's shape, contiguous: each matrix as [K / 16, N * 2]
//   strides: int64 [experts], written: words of a matrix; or null
VK_EXPORT vk_status vk_cuda_w4a8_encode(const char* op, const vk_tensor* out,
                                        const vk_tensor* strides, const vk_tensor* b, void* stream);

// Their scales, as bfloat16 in the order of vk_cuda_marlin_gemm.
//   scales: float8_e4m3fn [..., groups, N], contiguous;  out: float8_e4m3fn [..., groups, 2 N]
VK_EXPORT vk_status vk_cuda_w4a8_pack_scales(const char* op, const vk_tensor* out,
                                             const vk_tensor* scales, void* stream);

// out = a in bfloat16; and zeros in `locks`, the workspace of the product.
//   a: float8_e4m3fn [M, K], rows aligned to 16 bytes, K a multiple of 16;  out: contiguous
VK_EXPORT vk_status vk_cuda_w4a8_widen(const char* op, const vk_tensor* out, const vk_tensor* a,
                                       const vk_tensor* locks, void* stream);

// c[m, n] *= token_scales[m] * channel_scales[n];  c: bfloat16;  scales: float32, M and N elements
VK_EXPORT vk_status vk_cuda_w4a8_rescale(const char* op, const vk_tensor* c,
                                         const vk_tensor* token_scales,
                                         const vk_tensor* channel_scales, void* stream);

// Rows by expert as vk_marlin_experts wants them.
typedef struct vk_w4a8_experts {
  const vk_tensor* expert_offsets;  // int64 [experts], 1024 at most: first row of each
  const vk_tensor* problem_sizes;   // int32 [experts, 3]: the second is its number of rows
  const vk_tensor* sorted;          // int32 [tiles * block], written: rows, or `rows` for none
  const vk_tensor* owners;          // int32 [tiles], written: expert of each tile, or -1
  const vk_tensor* padded;          // one int32, written: places in use
  int64_t block, rows;              // of a tile; of all
} vk_w4a8_experts;
VK_EXPORT vk_status vk_cuda_w4a8_expert_tiles(const char* op, const vk_w4a8_experts* experts,
                                              void* stream);

// c[r, n] *= channel_scales[e, n] for the rows r of each expert e, as the tiles say
VK_EXPORT vk_status vk_cuda_w4a8_rescale_experts(const char* op, const vk_tensor* c,
                                                 const vk_w4a8_experts* experts,
                                                 const vk_tensor* channel_scales, void* stream);

}  // extern "C"

#endif  // VLLM_KERNELS_CUDA_WNA16_WNA16_H_
