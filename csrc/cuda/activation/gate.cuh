// What gated activations make of a gate and of the other half.
#ifndef VLLM_KERNELS_CUDA_ACTIVATION_GATE_CUH_
#define VLLM_KERNELS_CUDA_ACTIVATION_GATE_CUH_

#include "cuda/activation/kernel.cuh"

namespace vk::cuda::activation {

// A function as a fraction: several of them cost one reciprocal, which is what SiTU is bound by.
struct Fraction {
  float numerator, denominator;
};

// The quotient of 1 - e^-2|x| and 1 + e^-2|x| cancels near 0, where five terms of the series hold
// to 6e-8.
template <class T>
__device__ __forceinline__ Fraction TanhFraction(float x) {
  const float size = fabsf(x), square = x * x;
  const float e = Exp<T>(-2.0f * size);
  float near = fmaf(square, 62.0f / 2835.0f, -17.0f / 315.0f);
  near = fmaf(near, square, 2.0f / 15.0f);
  near = fmaf(near, square, -1.0f / 3.0f);
  near = fmaf(near * square, x, x);
  const float far = x < 0.0f ? e - 1.0f : 1.0f - e;
  return {size < 0.3f ? near : far, size < 0.3f ? 1.0f : 1.0f + e};
}

// numerator / denominator, the latter from 1 on.
template <class T>
__device__ __forceinline__ float Quotient(const Fraction& x) {
  if constexpr (std::is_same_v<T, float>) return x.numerator / x.denominator;
  return x.numerator * FastReciprocal(x.denominator);
}

// beta tanh(gate / beta) sigmoid(gate), and times up or its soft limit.
template <class T>
__device__ __forceinline__ float SituAndMul(const Problem& problem, float gate, float up) {
  const float e = Exp<T>(-fabsf(gate));
  const Fraction bounded = TanhFraction<T>(gate * problem.inverse_alpha);
  Fraction y = {(gate < 0.0f ? e : 1.0f) * bounded.numerator, (1.0f + e) * bounded.denominator};
  float factor = problem.alpha;
  if (problem.beta > 0.0f) {
    const Fraction other = TanhFraction<T>(up * problem.inverse_beta);
    factor *= problem.beta;
    y = {y.numerator * other.numerator, y.denominator * other.denominator};
  } else {
    factor *= up;
  }
  return Quotient<T>(y) * factor;
}

// Whether the activated half is rounded before the product, as PyTorch does of two ops.
constexpr bool RoundsBetween(Gate gate) {
  return gate != Gate::kSitu && gate != Gate::kSwigluStep && gate != Gate::kSwigluOai;
}

// `x` limited from above. The comparison keeps a NaN, which fminf drops.
__device__ __forceinline__ float AtMost(float x, float limit) { return x > limit ? limit : x; }

// Of a limit below 0, the upper one holds.
__device__ __forceinline__ float Within(float x, float limit) {
  return AtMost(x < -limit ? -limit : x, limit);
}

// Of each pair what is activated, before it is rounded, and what it is multiplied by then.
template <Gate kGate, class T>
__device__ __forceinline__ void Activate(const Problem& problem, float& gate, float& up) {
  if constexpr (kGate == Gate::kSilu) {
    gate = Silu<T>(gate);
  } else if constexpr (kGate == Gate::kSiluOfUp) {
    const float activated = Silu<T>(up);
    up = gate;
    gate = activated;
  } else if constexpr (kGate == Gate::kGelu) {
    gate = gate * NormalCdf<T>(gate);
  } else if constexpr (kGate == Gate::kGeluTanh) {
    gate = GeluTanh<T>(gate);
  } else if constexpr (kGate == Gate::kFatrelu) {
    gate = gate <= problem.limit ? 0.0f : gate;  // so a NaN stays one
  } else if constexpr (kGate == Gate::kSitu) {
    gate = SituAndMul<T>(problem, gate, up);
    up = 1.0f;
  } else if constexpr (kGate == Gate::kSwigluStep) {
    gate = AtMost(Silu<T>(gate), problem.limit);
    up = Within(up, problem.limit);
  } else if constexpr (kGate == Gate::kSwigluOai) {
    const float g = AtMost(gate, problem.limit);
    gate = g * Sigmoid<T>(problem.alpha * g);
    up = Within(up, problem.limit) + 1.0f;
  } else {
    const float limit = problem.limit;
    const float g = gate > limit ? RoundTo<T>(limit) : gate;
    gate = g * Sigmoid<T>(problem.alpha * g);
    up = up < -limit ? RoundTo<T>(-limit) : up;  // of a limit below 0, what comes last holds
    up = up > limit ? RoundTo<T>(limit) : up;
    up += problem.beta;
  }
}

// gate = act(gate) * up
template <Gate kGate, class T, int N>
__device__ __forceinline__ void ActivateAndMultiply(const Problem& problem, float (&gate)[N],
                                                    float (&up)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) Activate<kGate, T>(problem, gate[i], up[i]);
  if constexpr (RoundsBetween(kGate)) RoundAll<T>(gate);
#pragma unroll
  for (int i = 0; i < N; ++i) gate[i] *= up[i];
}

// Of one vector of the output whose gates and other halves alternate: two of the input.
template <class T, bool kAligned, int N>
__device__ __forceinline__ void SwigluOaiAndMultiply(const Problem& problem, const T* row,
                                                     int64_t column, float (&y)[N]) {
  float pairs[2][N], up[N];
  LoadVector<kAligned>(row, 2 * column, 2 * problem.width, pairs[0]);
  if (kAligned || 2 * column + N < 2 * problem.width) {
    LoadVector<kAligned>(row, 2 * column + N, 2 * problem.width, pairs[1]);
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    y[i] = pairs[2 * i / N][2 * i % N];
    up[i] = pairs[2 * i / N][2 * i % N + 1];
  }
  ActivateAndMultiply<Gate::kSwigluOai, T>(problem, y, up);
}

}  // namespace vk::cuda::activation
#endif  // VLLM_KERNELS_CUDA_ACTIVATION_GATE_CUH_
