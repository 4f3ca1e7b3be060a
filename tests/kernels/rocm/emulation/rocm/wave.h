// Waves of 32 or 64 lanes: stands for csrc/rocm/wave.h. A lane may read those of its own half
// of a wave of 64 only: the other half may be somewhere else in the kernel.
#ifndef VLLM_KERNELS_TESTS_ROCM_WAVE_H_
#define VLLM_KERNELS_TESTS_ROCM_WAVE_H_

#include "rocm/qualifiers.h"

namespace vk::rocm {

inline unsigned WaveLane() { return static_cast<unsigned>(emulation::current % vk_emulated_wave); }

inline uint32_t FromLane(unsigned lane, uint32_t value) {
  if (lane >= static_cast<unsigned>(vk_emulated_wave)) emulation::Fail("there is no such lane");
  if (lane / emulation::kHalf != WaveLane() / emulation::kHalf) {
    emulation::Fail("a lane of the wave's other half is read");
  }
  const int first = emulation::current / vk_emulated_wave * vk_emulated_wave;
  emulation::slots[static_cast<size_t>(emulation::current)] = value;
  emulation::MeetWarp();
  const uint32_t found = emulation::slots[static_cast<size_t>(first) + lane];
  emulation::MeetWarp();
  return found;
}

inline void WaveBarrier() { emulation::MeetWarp(); }
inline void BlockBarrier() {
  emulation::Meet(emulation::all, static_cast<int>(emulation::block_size.x));
}
inline float Exp2(float x) { return std::exp2(x); }
inline float Reciprocal(float x) { return 1.0f / x; }
inline int AtomicAdd(int* at, int value) {
  const int before = *at;
  *at += value;
  return before;
}
inline int AtomicMax(int* at, int value) {
  const int before = *at;
  *at = std::max(*at, value);
  return before;
}

}  // namespace vk::rocm
#endif  // VLLM_KERNELS_TESTS_ROCM_WAVE_H_
