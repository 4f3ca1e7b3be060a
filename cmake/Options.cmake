# Every knob of the build, in one table. AUTO means: on where compiler and target allow it.
# Each can also be given as an environment variable of the same name, as upstream vLLM allows. It
# counts at each configure; -D of the same configure wins.

# vllm_option(NAME DEFAULT HELP [CHOICES...]): a cache entry whose value must be one of CHOICES.
function(vllm_option name default help)
  set(choices ${ARGN})
  if(DEFINED ENV{${name}})
    # A value that is not the last configure's was given by -D.
    if(DEFINED CACHE{VLLM_LAST_${name}} AND "$CACHE{${name}}" STREQUAL "$CACHE{VLLM_LAST_${name}}")
      unset(${name} CACHE)
    endif()
    if(NOT DEFINED CACHE{${name}})
      set(default "$ENV{${name}}")
    endif()
  endif()
  set(${name} "${default}" CACHE STRING "${help}")
  vllm_check_choice(${name} ${choices})
  set(last "$CACHE{VLLM_LAST_${name}}")
  if(DEFINED CACHE{VLLM_LAST_${name}} AND NOT "$CACHE{${name}}" STREQUAL last)
    message(STATUS "vllm-kernels: ${name}=$CACHE{${name}}, where it was \"${last}\"")
  endif()
  set(VLLM_LAST_${name} "$CACHE{${name}}" CACHE INTERNAL "")
endfunction()

# vllm_check_choice(NAME [CHOICES...]): a switch is spelt as CMake does afterwards.
function(vllm_check_choice name)
  set(choices ${ARGN})
  if(NOT choices)
    return()
  endif()
  set_property(CACHE ${name} PROPERTY STRINGS ${choices})
  set(value "${${name}}")
  # Upstream spells its switches 1/0 and true/false; CMake users write ON/OFF.
  if("ON" IN_LIST choices)
    string(TOUPPER "${value}" value)
    if(value MATCHES "^(1|TRUE|YES|Y)$")
      set(value ON)
    elseif(value MATCHES "^(0|FALSE|NO|N|)$")
      set(value OFF)
    endif()
  endif()
  if(NOT value IN_LIST choices)
    list(JOIN choices ", " expected)
    set(refused "${${name}}")
    # Or the next configure would find it in the cache.
    if(DEFINED CACHE{VLLM_LAST_${name}})
      set_property(CACHE ${name} PROPERTY VALUE "$CACHE{VLLM_LAST_${name}}")
    else()
      unset(${name} CACHE)
    endif()
    message(FATAL_ERROR "vllm-kernels: ${name}=${refused} is not one of: ${expected}")
  endif()
  set_property(CACHE ${name} PROPERTY VALUE "${value}")
endfunction()

#            name                      default  help                                                      choices
# general
vllm_option(VLLM_TARGET_DEVICE        auto     "kernels: device library to build"                        cpu cuda rocm empty auto)
vllm_option(VLLM_COMPONENTS           all      "kernels: components to build"                            all core cpu cuda deepgemm flashmla rocm)
vllm_option(VLLM_PYTHON_EXECUTABLE    ""       "kernels: Python whose PyTorch the bindings compile against")
vllm_option(VLLM_INSTALL_LAYOUT       wheel    "kernels: conda = lib/vllm_kernels, wheel = in the package" conda wheel)
vllm_option(VLLM_PYTHON_SITE          ""       "kernels: site-packages folder of the conda layout")
# build machine
vllm_option(MAX_JOBS                  ""       "kernels: parallel compile jobs; empty = min(cores, memory)")
vllm_option(NVCC_THREADS              ""       "cuda: architectures that one nvcc compiles at once; empty = 1")
vllm_option(VLLM_COMPILER_CACHE       AUTO     "kernels: sccache or ccache where found"                  ON OFF AUTO)
vllm_option(VLLM_WARNINGS_AS_ERRORS   ON       "kernels: -Werror for our own C++"                        ON OFF)
vllm_option(VLLM_SANITIZE             OFF      "kernels: AddressSanitizer and UBSan"                     ON OFF)
# instruction set
vllm_option(VLLM_CPU_LEVEL            ""       "cpu: microarch level of common code; empty = the lowest in targets.toml")
vllm_option(VLLM_CPU_DISABLE_AVX512   OFF      "cpu: leave out every AVX-512 and AMX tier"               ON OFF AUTO)
vllm_option(VLLM_CPU_AVX512BF16       AUTO     "cpu: tier avx512_bf16"                                   ON OFF AUTO)
vllm_option(VLLM_CPU_AVX512VNNI       AUTO     "cpu: VNNI instructions in tiers avx512_bf16 and amx"     ON OFF AUTO)
vllm_option(VLLM_CPU_AMXBF16          AUTO     "cpu: tier amx"                                           ON OFF AUTO)
vllm_option(VLLM_CPU_ONEDNN           AUTO     "cpu: oneDNN for large products; AUTO = x86-64 only"       ON OFF AUTO)
# CUDA
vllm_option(VLLM_CUDA_ARCHS           ""       "cuda: architectures, as 8.0;9.0a;12.0+PTX; empty = TORCH_CUDA_ARCH_LIST, CUDAARCHS, targets.toml")
vllm_option(VLLM_CUDA_FAMILIES        ""       "cuda: kernel families to build; empty = all that can be")
vllm_option(VLLM_CUTLASS_SRC_DIR      ""       "cuda: CUTLASS's folder; empty = searched in the prefix")
# ROCm
vllm_option(VLLM_ROCM_ARCHS           ""       "rocm: gfx targets, as gfx90a;gfx942; empty = PYTORCH_ROCM_ARCH, targets.toml; native = this machine's, never for packages")
vllm_option(VLLM_ROCM_FAMILIES        ""       "rocm: kernel families to build; empty = all that can be")

if(VLLM_TARGET_DEVICE STREQUAL "auto")
  set(vllm_device cpu)
else()
  set(vllm_device ${VLLM_TARGET_DEVICE})
endif()
