# ROCm: clang as CMake's HIP compiler, what is compiled for which gfx targets, and one library a
# kernel family, from the sources of csrc/cuda with csrc/rocm first on the include path. targets.toml
# ([rocm]) decides; src/vllm_cuda_plan/rocm.py computes it. ROCm's device libraries are not needed: the
# functions that kernels call are in csrc/rocm/functions.h.

include(Instances)
include(Planner)

find_path(VLLM_HIP_INCLUDE_DIR hip/hip_runtime_api.h HINTS $ENV{ROCM_PATH}/include
          PATHS /opt/rocm/include)
find_library(VLLM_HIP_LIBRARY amdhip64 HINTS $ENV{ROCM_PATH}/lib PATHS /opt/rocm/lib)
if(NOT VLLM_HIP_INCLUDE_DIR OR NOT VLLM_HIP_LIBRARY)
  message(FATAL_ERROR "vllm-kernels: HIP's run time (hip/hip_runtime_api.h and libamdhip64.so) is "
                      "missing; install libamdhip64-dev (Debian) or hip (conda), or set ROCM_PATH to "
                      "the prefix that holds it")
endif()

set(vllm_hip_version)
foreach(part MAJOR MINOR)
  file(STRINGS ${VLLM_HIP_INCLUDE_DIR}/hip/hip_version.h line REGEX "#define HIP_VERSION_${part} ")
  string(REGEX MATCH "[0-9]+$" number "${line}")
  list(APPEND vllm_hip_version ${number})
endforeach()
list(JOIN vllm_hip_version . vllm_hip_version)

# HIPCXX is CMake's own.
if(NOT CMAKE_HIP_COMPILER AND NOT DEFINED ENV{HIPCXX})
  find_program(vllm_hip_clang
               NAMES amdclang++ clang++-22 clang++-21 clang++-20 clang++-19 clang++-18 clang++-17
                     clang++
               HINTS $ENV{ROCM_PATH}/llvm/bin PATHS /opt/rocm/llvm/bin)
  if(NOT vllm_hip_clang)
    message(FATAL_ERROR "vllm-kernels: VLLM_TARGET_DEVICE=rocm needs clang, which is not on PATH; "
                        "install clang-19, clang-tools-19 and lld-19 (Debian), or set HIPCXX to its "
                        "clang++")
  endif()
  set(CMAKE_HIP_COMPILER ${vllm_hip_clang})
endif()
# Device code includes nothing of ROCm's, and links none of its libraries. CMake's test program, which
# clang links, needs no run time; a compile does not use that flag.
string(APPEND CMAKE_HIP_FLAGS
       " -nogpulib -nogpuinc -no-hip-rt -Wno-unused-command-line-argument")
set(vllm_rocm_requested "${CMAKE_HIP_ARCHITECTURES}")
set(CMAKE_HIP_ARCHITECTURES OFF)
set(CMAKE_HIP_PLATFORM amd)
# Said here, since CMake would ask clang and hipconfig, which find a whole ROCm alone.
get_filename_component(CMAKE_HIP_COMPILER_ROCM_ROOT ${VLLM_HIP_INCLUDE_DIR} DIRECTORY)
get_filename_component(CMAKE_HIP_COMPILER_ROCM_LIB ${VLLM_HIP_LIBRARY} DIRECTORY)
# CMake's test of the compiler loads the package hip-lang, which asks for the device libraries and for
# clang's own run time. Neither is used: the HIP run time is linked by name.
set(_CMAKE_HIP_DEVICE_RUNTIME_TARGET "")
set(CMAKE_HIP_COMPILER_FORCED TRUE)
enable_language(HIP)
if(NOT CMAKE_HIP_COMPILER_ID STREQUAL "Clang")
  message(FATAL_ERROR "vllm-kernels: HIP compiler ${CMAKE_HIP_COMPILER} is ${CMAKE_HIP_COMPILER_ID}, "
                      "not clang; set HIPCXX to a clang++")
endif()
execute_process(
  COMMAND ${CMAKE_HIP_COMPILER} --target=amdgcn-amd-amdhsa -nogpulib -print-supported-cpus
  OUTPUT_VARIABLE vllm_rocm_known ERROR_VARIABLE vllm_rocm_known_too)
string(REGEX MATCHALL "gfx[0-9a-f]+" vllm_rocm_known "${vllm_rocm_known}${vllm_rocm_known_too}")
list(JOIN vllm_rocm_known " " vllm_rocm_known)
if(NOT vllm_rocm_known)
  message(FATAL_ERROR "vllm-kernels: ${CMAKE_HIP_COMPILER} was built without AMD GPUs; set HIPCXX to "
                      "a clang++ with the target amdgcn")
endif()

# clang calls them, and names them without a path where they are not beside it.
foreach(vllm_rocm_tool ld.lld clang-offload-bundler)
  execute_process(
    COMMAND ${CMAKE_HIP_COMPILER} -print-prog-name=${vllm_rocm_tool}
    OUTPUT_VARIABLE vllm_rocm_path OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT EXISTS "${vllm_rocm_path}")
    message(FATAL_ERROR "vllm-kernels: ${CMAKE_HIP_COMPILER} finds no ${vllm_rocm_tool}, with which it "
                        "makes GPU code; install lld-19 and clang-tools-19 (Debian), or lld and "
                        "clang-tools (conda)")
  endif()
endforeach()

# vllm_rocm_request(OUT_TEXT OUT_SOURCE): the gfx targets asked for (empty: none), and what asks.
function(vllm_rocm_request out_text out_source)
  set(text "${VLLM_ROCM_ARCHS}")
  set(source VLLM_ROCM_ARCHS)
  if(NOT text AND vllm_rocm_requested)
    set(text "${vllm_rocm_requested}")
    set(source CMAKE_HIP_ARCHITECTURES)
  elseif(NOT text AND NOT "$ENV{PYTORCH_ROCM_ARCH}" STREQUAL "")
    set(text "$ENV{PYTORCH_ROCM_ARCH}")
    set(source PYTORCH_ROCM_ARCH)
  elseif(NOT text)
    set(source targets.toml)
  endif()
  string(REPLACE ";" " " text "${text}")
  if(text STREQUAL "native")
    vllm_rocm_native(text ${source})
  endif()
  set(${out_text} "${text}" PARENT_SCOPE)
  set(${out_source} "${source}" PARENT_SCOPE)
endfunction()

# vllm_rocm_native(OUT SOURCE): this machine's gfx targets, for developers who ask for them.
function(vllm_rocm_native out source)
  if(VLLM_INSTALL_LAYOUT STREQUAL "conda")
    message(FATAL_ERROR "vllm-kernels: ${source}=native would ask this machine's GPU, which no package "
                        "may depend on; name the gfx targets, such as gfx90a;gfx942")
  endif()
  get_filename_component(folder ${CMAKE_HIP_COMPILER} REALPATH)
  get_filename_component(folder ${folder} DIRECTORY)
  find_program(vllm_amdgpu_arch amdgpu-arch HINTS ${folder})
  if(vllm_amdgpu_arch)
    execute_process(COMMAND ${vllm_amdgpu_arch} OUTPUT_VARIABLE found ERROR_QUIET)
  endif()
  string(REGEX MATCHALL "gfx[0-9a-f]+" found "${found}")
  if(NOT found)
    message(FATAL_ERROR "vllm-kernels: ${source}=native, but amdgpu-arch (part of clang) finds no AMD "
                        "GPU here; name the gfx targets, such as gfx90a;gfx942")
  endif()
  list(REMOVE_DUPLICATES found)
  list(JOIN found " " found)
  set(${out} "${found}" PARENT_SCOPE)
endfunction()

vllm_rocm_request(vllm_rocm_text vllm_rocm_source)
string(REPLACE ";" " " vllm_rocm_wanted "${VLLM_ROCM_FAMILIES}")
set(VLLM_ROCM_SUMMARY ${PROJECT_BINARY_DIR}/rocm/rocm.json)
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/rocm)
vllm_plan(vllm_rocm_table vllm_cuda_plan.rocm
          --hip=${vllm_hip_version} --clang=${CMAKE_HIP_COMPILER_VERSION} --compiler=${CMAKE_HIP_COMPILER}
          "--known=${vllm_rocm_known}" "--archs=${vllm_rocm_text}" --archs-from=${vllm_rocm_source}
          "--families=${vllm_rocm_wanted}"
          --cmake=${PROJECT_BINARY_DIR}/rocm/plan.cmake --summary=${VLLM_ROCM_SUMMARY})
message(STATUS "vllm-kernels: gfx targets by ${vllm_rocm_source}; ${vllm_rocm_table}")
include(${PROJECT_BINARY_DIR}/rocm/plan.cmake)

add_library(vllm_rocm_compile INTERFACE)
target_link_libraries(vllm_rocm_compile INTERFACE vllm_compile)
# csrc/rocm has what CUDA's headers and csrc/cuda/ptx have.
target_include_directories(vllm_rocm_compile BEFORE INTERFACE ${PROJECT_SOURCE_DIR}/csrc/rocm)
target_include_directories(vllm_rocm_compile SYSTEM INTERFACE ${VLLM_HIP_INCLUDE_DIR})
target_compile_definitions(vllm_rocm_compile INTERFACE __HIP_PLATFORM_AMD__ __HIP_PLATFORM_HCC__)
# nvcc includes cuda_runtime.h by itself.
target_compile_options(vllm_rocm_compile INTERFACE
  "$<$<COMPILE_LANGUAGE:HIP>:SHELL:-include cuda_runtime.h>")
# HIP marks its errors [[nodiscard]], CUDA does not. After -Wall, so linked last.
add_library(vllm_rocm_warnings INTERFACE)
target_compile_options(vllm_rocm_warnings INTERFACE -Wno-unused-result)
if(TORCH_CPU_LIBRARY)
  target_link_options(vllm_rocm_compile INTERFACE -Wl,-z,defs)
  target_link_libraries(vllm_rocm_compile INTERFACE ${TORCH_CPU_LIBRARY})
endif()

# vllm_cuda_instance(TEMPLATE NAME [KEY VALUE]...): as in cmake/Cuda.cmake.
function(vllm_cuda_instance template name)
  set(file ${PROJECT_BINARY_DIR}/rocm/${vllm_rocm_family}/${name}.cu)
  vllm_make_instance(${PROJECT_SOURCE_DIR}/csrc/cuda/${vllm_rocm_family}/${template} ${file} ${ARGN})
  set_property(GLOBAL APPEND PROPERTY VLLM_ROCM_INSTANCES_${vllm_rocm_family} ${file})
endfunction()

# vllm_add_rocm_family(FAMILY): libvllm_kernels_rocm_FAMILY.so of kernels, C ABI and binding.
function(vllm_add_rocm_family family)
  set(vllm_rocm_family ${family})
  set(folder ${PROJECT_SOURCE_DIR}/csrc/cuda/${family})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${folder}/*.cu ${folder}/*.cc)
  if(EXISTS ${folder}/instances.cmake)
    include(${folder}/instances.cmake)
    get_property(instances GLOBAL PROPERTY VLLM_ROCM_INSTANCES_${family})
    list(APPEND sources ${instances})
  endif()
  set(kernels ${sources})
  list(FILTER kernels INCLUDE REGEX "\\.cu$")
  set_source_files_properties(${kernels} PROPERTIES LANGUAGE HIP)
  # PyTorch's ROCm builds call their GPUs CUDA, and so does the stable ABI's stream.
  set_property(SOURCE ${folder}/binding.cc APPEND PROPERTY COMPILE_DEFINITIONS USE_CUDA)
  set(target vllm_kernels_rocm_${family})
  add_library(${target} SHARED ${sources} ${VLLM_BINDING_SOURCES}
                        ${PROJECT_SOURCE_DIR}/csrc/torch/cuda_memory.cc
                        $<TARGET_OBJECTS:vllm_core>)
  list(JOIN VLLM_ROCM_TARGETS " " targets)
  target_compile_definitions(${target} PRIVATE "VK_CUDA_ARCHS=\"${targets}\"")
  target_link_libraries(${target} PRIVATE vllm_rocm_compile vllm_torch ${VLLM_HIP_LIBRARY}
                        vllm_rocm_warnings)
  set_target_properties(${target} PROPERTIES
    HIP_ARCHITECTURES "${VLLM_ROCM_TARGETS}"
    HIP_STANDARD 17 HIP_STANDARD_REQUIRED ON HIP_EXTENSIONS OFF
    HIP_VISIBILITY_PRESET hidden
    # Device code is whole in each object; clang as a linker would add its own run time.
    LINKER_LANGUAGE CXX)
  vllm_install_library(${target} rocm)
endfunction()
