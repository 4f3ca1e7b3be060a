// What the programs NAME_emulation SEED COUNT share: random numbers, and problems as many as COUNT.
#ifndef VLLM_KERNELS_TESTS_EMULATION_SEEDED_H_
#define VLLM_KERNELS_TESTS_EMULATION_SEEDED_H_

#include <cstdlib>
#include <random>

namespace emulation::seeded {

inline std::mt19937 generator;

inline int Number(int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(generator);
}
inline bool Chance(int one_in) { return Number(1, one_in) == 1; }
inline float Normal() { return std::normal_distribution<float>()(generator); }

// COUNT; numbers are those of SEED from here on.
inline int Begin(char** arguments) {
  generator.seed(static_cast<unsigned>(std::atoi(arguments[1])));
  return std::atoi(arguments[2]);
}

// main(): `check`, called COUNT times or until it says that something was wrong.
template <class Check>
int Repeat(int argument_count, char** arguments, const Check& check) {
  if (argument_count != 3) return 2;
  for (int i = Begin(arguments); i > 0; --i) {
    if (!check()) return 1;
  }
  return 0;
}

}  // namespace emulation::seeded
#endif  // VLLM_KERNELS_TESTS_EMULATION_SEEDED_H_
