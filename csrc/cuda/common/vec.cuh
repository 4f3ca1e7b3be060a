// Vectors of elements: one load or store instruction of up to 16 bytes each.
#ifndef VLLM_KERNELS_CUDA_COMMON_VEC_CUH_
#define VLLM_KERNELS_CUDA_COMMON_VEC_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/common/dtype.cuh"

namespace vk::cuda {

template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T data[N];
  __device__ __forceinline__ T& operator[](int i) { return data[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return data[i]; }
};

// Elements of one 16-byte access.
template <class T>
inline constexpr int kVecSize = 16 / sizeof(T);

namespace internal {

template <int kBytes>
struct WordOf {
  using type = std::conditional_t<
      kBytes == 1, uint8_t,
      std::conditional_t<kBytes == 2, uint16_t, std::conditional_t<kBytes == 4, uint32_t, uint2>>>;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

}  // namespace internal

// `from` is aligned to the vector's size.
template <int N, class T>
__device__ __forceinline__ Vec<T, N> LoadVec(const T* from) {
  using Word = typename internal::WordOf<sizeof(T) * N>::type;
  return BitCast<Vec<T, N>>(*reinterpret_cast<const Word*>(from));
}

template <int N, class T>
__device__ __forceinline__ void StoreVec(T* to, const Vec<T, N>& vec) {
  using Word = typename internal::WordOf<sizeof(T) * N>::type;
  *reinterpret_cast<Word*>(to) = BitCast<Word>(vec);
}

// Two at a time where the hardware converts pairs: float8 from 8.9 on, bfloat16 from 8.0 on.
template <class T, int N>
__device__ __forceinline__ Vec<T, N> FromFloats(const float (&x)[N]) {
  Vec<T, N> out;
  if constexpr (N % 2 == 0 && (std::is_same_v<T, E4M3> || std::is_same_v<T, E5M2>)) {
    constexpr __nv_fp8_interpretation_t kind = std::is_same_v<T, E4M3> ? __NV_E4M3 : __NV_E5M2;
    // As words: bytes put together one by one cost more than the conversion.
    using Word = std::conditional_t<N % 4 == 0, uint32_t, uint16_t>;
    constexpr int kStep = sizeof(Word);
    struct Words {
      Word data[N / kStep];
    } words;
#pragma unroll
    for (int i = 0; i < N; i += kStep) {
      Word word = __nv_cvt_float2_to_fp8x2(make_float2(x[i], x[i + 1]), __NV_SATFINITE, kind);
      if constexpr (kStep == 4) {
        const float2 next = make_float2(x[i + 2], x[i + 3]);
        word |= static_cast<Word>(__nv_cvt_float2_to_fp8x2(next, __NV_SATFINITE, kind)) << 16;
      }
      words.data[i / kStep] = word;
    }
    out = BitCast<Vec<T, N>>(words);
  } else if constexpr (N % 2 == 0 && std::is_same_v<T, BFloat16>) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(x[i], x[i + 1]);
      out[i] = pair.x;
      out[i + 1] = pair.y;
    }
  } else if constexpr (N % 2 == 0 && std::is_same_v<T, Half>) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const __half2 pair = __floats2half2_rn(x[i], x[i + 1]);
      out[i] = __low2half(pair);
      out[i + 1] = __high2half(pair);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = FromFloat<T>(x[i]);
  }
  return out;
}

template <class T, int N>
__device__ __forceinline__ void ToFloats(const Vec<T, N>& vec, float (&x)[N]) {
  if constexpr (N % 2 == 0 && std::is_same_v<T, BFloat16>) {
    // As words: the upper half of one is a float but for a mask.
    struct Words {
      uint32_t data[N / 2];
    };
    const Words words = BitCast<Words>(vec);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      x[2 * i] = __uint_as_float(words.data[i] << 16);
      x[2 * i + 1] = __uint_as_float(words.data[i] & 0xFFFF0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = ToFloat(vec[i]);
  }
}

// `x` as it is after a store and a load of T; pairs are converted at once, unlike by RoundTo.
template <class T, int N>
__device__ __forceinline__ void RoundAll(float (&x)[N]) {
  if constexpr (!std::is_same_v<T, float>) ToFloats(FromFloats<T>(x), x);
}

namespace internal {

// Two neighbours of a vector in one register, where the hardware has arithmetic of pairs.
template <class T>
struct PairOf;
template <>
struct PairOf<BFloat16> {
  using type = __nv_bfloat162;
};
template <>
struct PairOf<Half> {
  using type = __half2;
};

}  // namespace internal

// a * b, rounded to T.
template <class T, int N>
__device__ __forceinline__ Vec<T, N> Product(const Vec<T, N>& a, const Vec<T, N>& b) {
  Vec<T, N> out;
  if constexpr (std::is_same_v<T, float> || N % 2 != 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = FromFloat<T>(ToFloat(a[i]) * ToFloat(b[i]));
  } else {
    using Pair = typename internal::PairOf<T>::type;
    struct Pairs {
      Pair data[N / 2];
    };
    Pairs x = BitCast<Pairs>(a);
    const Pairs y = BitCast<Pairs>(b);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) x.data[i] = __hmul2(x.data[i], y.data[i]);
    out = BitCast<Vec<T, N>>(x);
  }
  return out;
}

// The largest of `before` and |x|; a NaN is left out.
template <class T, int N>
__device__ __forceinline__ float AbsMax(float before, const Vec<T, N>& x) {
  if constexpr (std::is_same_v<T, float> || N % 2 != 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) before = fmaxf(before, fabsf(ToFloat(x[i])));
    return before;
  } else {
    using Pair = typename internal::PairOf<T>::type;
    struct Pairs {
      Pair data[N / 2];
    };
    const Pairs pairs = BitCast<Pairs>(x);
    Pair most = __habs2(pairs.data[0]);
#pragma unroll
    for (int i = 1; i < N / 2; ++i) most = __hmax2(most, __habs2(pairs.data[i]));
    return fmaxf(before, fmaxf(ToFloat(most.x), ToFloat(most.y)));
  }
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_VEC_CUH_
