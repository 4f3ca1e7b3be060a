// Between the checks (activation.cc) and the kernels (*.cu).
#ifndef VLLM_KERNELS_CUDA_ACTIVATION_LAUNCH_H_
#define VLLM_KERNELS_CUDA_ACTIVATION_LAUNCH_H_

#include <type_traits>

#include "cuda/common/fast_div.h"
#include "cuda/common/launch.h"
#include "cuda/common/rows.h"

namespace vk::cuda::activation {

// What a kernel is told; passed by value. Strides count elements.
struct Problem {
  const void* input;
  void* out;
  const float* scale;     // of silu_and_mul_quant
  const float* scale_ub;  // null: none
  float* scales;          // of silu_and_mul_per_block_quant
  RowMap input_rows, out_rows;
  int64_t rows, width;  // of out
  int64_t up;           // columns from the first half to the second; 0: not gated
  FastDiv vectors;      // vectors of input elements that a row of out has
  uint32_t count;       // vectors of all rows
  int64_t scale_row_stride, scale_group_stride;
  int32_t group_size;
  float limit, alpha, beta;           // parameters of the activation
  float inverse_alpha, inverse_beta;  // of kSitu
  const int32_t* counts;              // of masked activations: used rows of each expert
  int64_t expert_rows;                // rows of each expert, used and not
};

struct Launch {
  const char* op;
  int32_t dtype;      // vk_dtype of input
  int32_t out_dtype;  // vk_dtype of out
  bool aligned;       // all rows start at, and have, whole 16-byte vectors of input elements
  cudaStream_t stream;
};

constexpr int kMaskedGroup = 128;     // columns that share a scale
constexpr int kMaskedExperts = 1024;  // at most

// What persistent_masked_m_silu_mul_quant writes as scales: float32, float32 powers of two, or
// their exponents, four in an int32.
enum class MaskedScale { kFloat, kPower, kPacked };

// Of [experts, rows, columns] each; strides count elements.
struct MaskedProblem {
  const void* input;
  void *out, *scales;
  const int32_t* counts;
  int64_t input_expert, input_row, out_expert, out_row;
  int64_t scale_expert, scale_row, scale_group;
  int64_t width;   // of out
  FastDiv groups;  // of a row
  int32_t experts, rows;
};

// How many rows situ_and_mul_quant has to do: a number on the device times a factor.
struct ValidRows {
  const void* tokens;  // int32, or int64; null: all
  bool wide;           // int64
  int64_t factor;
};

enum class Gate {
  kSilu,
  kSiluOfUp,
  kGelu,
  kGeluTanh,
  kFatrelu,
  kSiluClamp,
  kSwigluOai,
  kSitu,
  kSwigluStep
};
enum class Unary { kGeluTanh, kGeluQuick, kReluSquared, kSilu, kGelu };

// body(std::integral_constant<Gate, gate>())
template <class Body>
void DispatchGate(Gate gate, const Body& body) {
  switch (gate) {
    case Gate::kSilu:
      return body(std::integral_constant<Gate, Gate::kSilu>());
    case Gate::kSiluOfUp:
      return body(std::integral_constant<Gate, Gate::kSiluOfUp>());
    case Gate::kGelu:
      return body(std::integral_constant<Gate, Gate::kGelu>());
    case Gate::kGeluTanh:
      return body(std::integral_constant<Gate, Gate::kGeluTanh>());
    case Gate::kFatrelu:
      return body(std::integral_constant<Gate, Gate::kFatrelu>());
    case Gate::kSiluClamp:
      return body(std::integral_constant<Gate, Gate::kSiluClamp>());
    case Gate::kSwigluOai:
      return body(std::integral_constant<Gate, Gate::kSwigluOai>());
    case Gate::kSitu:
      return body(std::integral_constant<Gate, Gate::kSitu>());
    case Gate::kSwigluStep:
      return body(std::integral_constant<Gate, Gate::kSwigluStep>());
  }
}

// body(std::integral_constant<Unary, unary>())
template <class Body>
void DispatchUnary(Unary unary, const Body& body) {
  switch (unary) {
    case Unary::kGeluTanh:
      return body(std::integral_constant<Unary, Unary::kGeluTanh>());
    case Unary::kGeluQuick:
      return body(std::integral_constant<Unary, Unary::kGeluQuick>());
    case Unary::kReluSquared:
      return body(std::integral_constant<Unary, Unary::kReluSquared>());
    case Unary::kSilu:
      return body(std::integral_constant<Unary, Unary::kSilu>());
    case Unary::kGelu:
      return body(std::integral_constant<Unary, Unary::kGelu>());
  }
}

void LaunchGated(Gate gate, const Problem& problem, const Launch& launch);
void LaunchUnary(Unary unary, const Problem& problem, const Launch& launch);
void LaunchSoftCap(const Problem& problem, const Launch& launch);  // alpha tanh(x limit)
void LaunchMaskedGate(Gate gate, const Problem& problem, const Launch& launch);
void LaunchMaskedUnary(Unary unary, const Problem& problem, const Launch& launch);
void LaunchSituQuant(const Problem& problem, const ValidRows& valid, const Launch& launch);
void LaunchSiluQuant(const Problem& problem, const Launch& launch);
void LaunchSiluGroupQuant(const Problem& problem, const Launch& launch);
void LaunchMasked(const MaskedProblem& problem, MaskedScale scale, const Launch& launch);

}  // namespace vk::cuda::activation
#endif  // VLLM_KERNELS_CUDA_ACTIVATION_LAUNCH_H_
