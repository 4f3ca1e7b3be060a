# CUDA: the toolkit, what is compiled for which architectures, and one library a kernel family.
# No GPU of this machine is ever asked for its architecture. targets.toml ([cuda]) decides, file by
# file; src/vllm_cuda_plan computes it, with the standard library alone.

include(Instances)
include(Planner)

# CMake adds no -arch of its own: every file gets the -gencode flags of its family or part.
set(CMAKE_CUDA_ARCHITECTURES_REQUESTED "${CMAKE_CUDA_ARCHITECTURES}")
set(CMAKE_CUDA_ARCHITECTURES OFF)
if(NOT CMAKE_CUDA_HOST_COMPILER AND NOT DEFINED ENV{CUDAHOSTCXX})
  set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
endif()
# Only the shared run time is linked; some toolkits lack the static one, which is nvcc's default.
if(NOT CMAKE_CUDA_FLAGS MATCHES "cudart")
  string(APPEND CMAKE_CUDA_FLAGS " -cudart=shared")
endif()
# CUDACXX is CMake's own; after it CUDA_HOME counts, before PATH.
if(NOT "$ENV{CUDA_HOME}" STREQUAL "")
  set(vllm_nvcc $ENV{CUDA_HOME}/bin/nvcc)
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND NOT EXISTS ${vllm_nvcc})
    message(FATAL_ERROR "vllm-kernels: CUDA_HOME=$ENV{CUDA_HOME} holds no bin/nvcc; correct it, "
                        "or unset it to take the nvcc on PATH")
  endif()
else()
  find_program(vllm_nvcc NAMES nvcc PATHS $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
endif()
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND vllm_nvcc)
  set(CMAKE_CUDA_COMPILER ${vllm_nvcc})
endif()
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  message(FATAL_ERROR "vllm-kernels: VLLM_TARGET_DEVICE=cuda needs nvcc, which is not on PATH; "
                      "install a CUDA toolkit (conda: cuda-nvcc), or set CUDACXX to its nvcc")
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER_ID STREQUAL "NVIDIA")
  message(FATAL_ERROR "vllm-kernels: CUDA compiler ${CMAKE_CUDA_COMPILER_ID} is not nvcc")
endif()
find_package(CUDAToolkit REQUIRED)
# CUDA::cudart is named where it is linked. The device run time, which nvcc would add, is only
# needed for relocatable device code.
set(CMAKE_CUDA_IMPLICIT_LINK_LIBRARIES "")

# vllm_cuda_request(OUT_TEXT OUT_SOURCE): the architectures asked for (empty: none), and what asks
# for them.
function(vllm_cuda_request out_text out_source)
  set(text "")
  set(source "targets.toml")
  if(VLLM_CUDA_ARCHS)
    set(text "${VLLM_CUDA_ARCHS}")
    set(source VLLM_CUDA_ARCHS)
  elseif(CMAKE_CUDA_ARCHITECTURES_REQUESTED)
    set(text "${CMAKE_CUDA_ARCHITECTURES_REQUESTED}")
    set(source CMAKE_CUDA_ARCHITECTURES)
  else()
    # conda's nvcc always sets CUDAARCHS, so it comes last.
    foreach(variable TORCH_CUDA_ARCH_LIST CUDAARCHS)
      if(NOT text AND NOT "$ENV{${variable}}" STREQUAL "")
        set(text "$ENV{${variable}}")
        set(source ${variable})
      endif()
    endforeach()
  endif()
  string(REPLACE ";" " " text "${text}")
  set(${out_text} "${text}" PARENT_SCOPE)
  set(${out_source} "${source}" PARENT_SCOPE)
endfunction()

# vllm_cuda_sources(FAMILY OUT): the family's sources in csrc/cuda/FAMILY and the folders below it,
# templates (*.cu.in) aside.
function(vllm_cuda_sources family out)
  set(folder ${PROJECT_SOURCE_DIR}/csrc/cuda/${family})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${folder}/*.cu ${folder}/*.cc)
  set(${out} "${sources}" PARENT_SCOPE)
endfunction()

# Names of instructions that only some GPUs have: a file named after one, such as *_tma.cu, would be
# compiled for all GPUs if family.toml had no part of that name.
file(GLOB vllm_cuda_ptx CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/cuda/ptx/*.cuh)
set(vllm_cuda_part_words "sm[0-9]+|c[0-9]x")
foreach(header IN LISTS vllm_cuda_ptx)
  get_filename_component(word ${header} NAME_WE)
  string(APPEND vllm_cuda_part_words "|${word}")
endforeach()

# vllm_cuda_part(SOURCE PARTS OUT): the part that a file belongs to by its name, or empty.
function(vllm_cuda_part source parts out)
  get_filename_component(stem ${source} NAME_WE)
  set(found "")
  foreach(part IN LISTS parts)
    if(stem MATCHES "_${part}$")
      set(found ${part})
    endif()
  endforeach()
  if(NOT found AND stem MATCHES "_(${vllm_cuda_part_words})$")
    set(found ${CMAKE_MATCH_1})
  endif()
  set(${out} "${found}" PARENT_SCOPE)
endfunction()

# The families that have sources, with the parts of each: FAMILY:PART,PART. A folder with headers
# only is no family.
set(vllm_cuda_have "")
file(GLOB vllm_cuda_folders CONFIGURE_DEPENDS LIST_DIRECTORIES TRUE
     ${PROJECT_SOURCE_DIR}/csrc/cuda/*)
foreach(folder IN LISTS vllm_cuda_folders)
  get_filename_component(family ${folder} NAME)
  vllm_cuda_sources(${family} sources)
  file(GLOB_RECURSE templates CONFIGURE_DEPENDS ${folder}/*.cu.in)
  if(NOT IS_DIRECTORY ${folder} OR NOT sources)
    continue()
  endif()
  if(NOT EXISTS ${folder}/binding.cc)
    message(FATAL_ERROR "vllm-kernels: csrc/cuda/${family} has no binding.cc, without which nothing "
                        "calls its kernels: write one (csrc/torch/bind.h)")
  endif()
  set(parts "")
  foreach(source IN LISTS sources templates)
    vllm_cuda_part(${source} "" part)
    list(APPEND parts ${part})
  endforeach()
  list(REMOVE_DUPLICATES parts)
  list(JOIN parts "," parts)
  # A family that only calls the CUDA run time and driver serves every GPU.
  if(NOT "${sources};${templates}" MATCHES "\\.cu")
    set(parts "-")
  endif()
  list(APPEND vllm_cuda_have "${family}:${parts}")
endforeach()

vllm_cuda_request(vllm_cuda_text vllm_cuda_source)
string(REPLACE ";" " " vllm_cuda_wanted "${VLLM_CUDA_FAMILIES}")
# One summary a component: several lie in one folder.
set(vllm_cuda_component cuda)
set(vllm_cuda_summary_name cuda.json)
if(NOT VLLM_COMPONENTS MATCHES "^(all|cuda)$")
  set(vllm_cuda_component ${VLLM_COMPONENTS})
  set(vllm_cuda_summary_name cuda-${VLLM_COMPONENTS}.json)
endif()
set(VLLM_CUDA_SUMMARY ${PROJECT_BINARY_DIR}/cuda/${vllm_cuda_summary_name})
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/cuda)
vllm_plan(vllm_cuda_table vllm_cuda_plan
          --cuda=${CMAKE_CUDA_COMPILER_VERSION} "--archs=${vllm_cuda_text}"
          --archs-from=${vllm_cuda_source}
          --component=${VLLM_COMPONENTS} "--families=${vllm_cuda_wanted}" --platform=${VLLM_PLATFORM}
          --cmake=${PROJECT_BINARY_DIR}/cuda/plan.cmake --summary=${VLLM_CUDA_SUMMARY}
          --have ${vllm_cuda_have})
message(STATUS "vllm-kernels: archs by ${vllm_cuda_source}; ${vllm_cuda_table}")
include(${PROJECT_BINARY_DIR}/cuda/plan.cmake)

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU"
   AND NOT "$ENV{NVCC_PREPEND_FLAGS} $ENV{NVCC_APPEND_FLAGS} ${CMAKE_CUDA_FLAGS}" MATCHES
       "allow-unsupported-compiler")
  string(REGEX MATCH "^[0-9]+" vllm_gcc_major ${CMAKE_CXX_COMPILER_VERSION})
  if(vllm_gcc_major LESS VLLM_CUDA_GCC_MIN OR vllm_gcc_major GREATER VLLM_CUDA_GCC_MAX)
    message(FATAL_ERROR
      "vllm-kernels: CUDA ${CMAKE_CUDA_COMPILER_VERSION} takes GCC ${VLLM_CUDA_GCC_MIN} to "
      "${VLLM_CUDA_GCC_MAX}, this is ${CMAKE_CXX_COMPILER_VERSION}; set CXX to one of them")
  endif()
endif()

# nvcc's memory, by family (`mib` in the table). Families whose compiles would not fit side by side on
# every core share a pool of half the memory, the others the other half. NVCC_THREADS multiplies what
# one nvcc takes and changes nothing else.
set(vllm_cuda_threads 1)
if(NOT NVCC_THREADS STREQUAL "")
  if(NOT NVCC_THREADS MATCHES "^[1-9][0-9]*$")
    message(FATAL_ERROR "vllm-kernels: NVCC_THREADS=${NVCC_THREADS} is not a positive number")
  endif()
  set(vllm_cuda_threads ${NVCC_THREADS})
endif()
set(vllm_cuda_light_mib 1)
set(vllm_cuda_heavy_mib 0)
foreach(family IN LISTS VLLM_CUDA_BUILT)
  math(EXPR mib "${VLLM_CUDA_MIB_${family}} * ${vllm_cuda_threads}")
  math(EXPR all_mib "${mib} * ${vllm_wanted_jobs}")
  set(vllm_cuda_pool_${family} nvcc)
  if(all_mib GREATER vllm_memory_mib)
    set(vllm_cuda_pool_${family} nvcc_heavy)
    if(mib GREATER vllm_cuda_heavy_mib)
      set(vllm_cuda_heavy_mib ${mib})
    endif()
  elseif(mib GREATER vllm_cuda_light_mib)
    set(vllm_cuda_light_mib ${mib})
  endif()
endforeach()

# vllm_cuda_pool(NAME MIB SHARE): a job pool of as many as fit into that share (1/SHARE) of the memory.
function(vllm_cuda_pool name mib share)
  math(EXPR jobs "${vllm_memory_mib} / ${share} / ${mib}")
  if(jobs LESS 1)
    set(jobs 1)
  elseif(jobs GREATER vllm_wanted_jobs)
    set(jobs ${vllm_wanted_jobs})
  endif()
  set_property(GLOBAL APPEND PROPERTY JOB_POOLS ${name}=${jobs})
  message(STATUS "vllm-kernels: ${jobs} of ${name} at once (${mib} MiB each, ${vllm_memory_mib} MiB "
                 "free), ${vllm_cuda_threads} threads each (NVCC_THREADS)")
endfunction()
if(vllm_cuda_heavy_mib)
  vllm_cuda_pool(nvcc_heavy ${vllm_cuda_heavy_mib} 2)
  vllm_cuda_pool(nvcc ${vllm_cuda_light_mib} 2)
else()
  vllm_cuda_pool(nvcc ${vllm_cuda_light_mib} 1)
endif()

# CUTLASS: headers only, found and never downloaded.
set(vllm_cuda_cutlass_users "")
foreach(family IN LISTS VLLM_CUDA_BUILT)
  if(VLLM_CUDA_CUTLASS_${family})
    list(APPEND vllm_cuda_cutlass_users ${family})
  endif()
endforeach()
if(vllm_cuda_cutlass_users)
  find_path(CUTLASS_INCLUDE_DIR cutlass/cutlass.h NO_CMAKE_FIND_ROOT_PATH
            HINTS ${VLLM_CUTLASS_SRC_DIR}/include ${VLLM_CUTLASS_SRC_DIR}
                  ${VLLM_CUTLASS_SRC_DIR}/cutlass_library/source/include)
  if(NOT CUTLASS_INCLUDE_DIR)
    list(JOIN vllm_cuda_cutlass_users ", " users)
    message(FATAL_ERROR "vllm-kernels: CUTLASS's headers (cutlass/cutlass.h) are missing, which "
                        "${users} need; install cutlass (conda) or nvidia-cutlass (pip), or set "
                        "VLLM_CUTLASS_SRC_DIR to its folder; VLLM_CUDA_FAMILIES leaves families out")
  endif()
  message(STATUS "vllm-kernels: CUTLASS in ${CUTLASS_INCLUDE_DIR}")
endif()

# Flags of every CUDA family.
add_library(vllm_cuda_compile INTERFACE)
target_include_directories(vllm_cuda_compile INTERFACE ${PROJECT_SOURCE_DIR}/csrc)
set(vllm_cuda_maps "-ffile-prefix-map=${PROJECT_SOURCE_DIR}=."
                   "-ffile-prefix-map=${PROJECT_BINARY_DIR}=build")
list(JOIN vllm_cuda_maps "," vllm_cuda_map_words)
list(JOIN vllm_hardening "," vllm_hardening_words)
if(vllm_hardening)
  string(PREPEND vllm_hardening_words ",")
endif()
set(vllm_cuda_flags --threads=${vllm_cuda_threads} --expt-relaxed-constexpr
                    --expt-extended-lambda -Xcompiler=-Wall,${vllm_cuda_map_words}${vllm_hardening_words})
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0)
  list(APPEND vllm_cuda_flags --compress-mode=size)
else()
  list(APPEND vllm_cuda_flags -Xfatbin=-compress-all)
endif()
if(VLLM_WARNINGS_AS_ERRORS STREQUAL "ON")
  list(APPEND vllm_cuda_flags -Werror=all-warnings -Xcompiler=-Werror)
endif()
target_compile_options(vllm_cuda_compile INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:${vllm_cuda_flags}>"
  $<$<COMPILE_LANGUAGE:CXX>:-Wall> $<$<COMPILE_LANGUAGE:CXX>:-Wextra>
  "$<$<COMPILE_LANGUAGE:CXX>:${vllm_cuda_maps};${vllm_hardening}>"
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<STREQUAL:${VLLM_WARNINGS_AS_ERRORS},ON>>:-Werror>)
target_link_options(vllm_cuda_compile INTERFACE -Wl,-Bsymbolic -Wl,--as-needed
                    ${VLLM_PLATFORM_HARDENING_LINK})
# A kernel that was not compiled is an error when linking, not at the first load. A stub of
# libtorch, which some cross builds link, lacks PyTorch's own symbols too.
if(TORCH_CPU_LIBRARY)
  target_link_options(vllm_cuda_compile INTERFACE -Wl,-z,defs)
  target_link_libraries(vllm_cuda_compile INTERFACE ${TORCH_CPU_LIBRARY})
endif()

# vllm_cuda_instance(TEMPLATE NAME [KEY VALUE]...): inside csrc/cuda/FAMILY/instances.cmake: one more
# source, NAME.cu in the build tree, from csrc/cuda/FAMILY/TEMPLATE with @KEY@ replaced. Both may be
# paths below the family's folder. A name that ends in _PART belongs to that part.
function(vllm_cuda_instance template name)
  set(file ${PROJECT_BINARY_DIR}/cuda/${vllm_cuda_family}/${name}.cu)
  vllm_make_instance(${PROJECT_SOURCE_DIR}/csrc/cuda/${vllm_cuda_family}/${template} ${file} ${ARGN})
  set_property(GLOBAL APPEND PROPERTY VLLM_CUDA_INSTANCES_${vllm_cuda_family} ${file})
endfunction()

# vllm_add_cuda_family(FAMILY): libvllm_kernels_cuda_FAMILY.so of kernels, C ABI and binding.
function(vllm_add_cuda_family family)
  set(vllm_cuda_family ${family})
  vllm_cuda_sources(${family} sources)
  if(EXISTS ${PROJECT_SOURCE_DIR}/csrc/cuda/${family}/instances.cmake)
    include(${PROJECT_SOURCE_DIR}/csrc/cuda/${family}/instances.cmake)
    get_property(instances GLOBAL PROPERTY VLLM_CUDA_INSTANCES_${family})
    list(APPEND sources ${instances})
  endif()
  set(target vllm_kernels_cuda_${family})
  set(kept "")
  foreach(source IN LISTS sources)
    vllm_cuda_part(${source} "${VLLM_CUDA_LISTED_PARTS_${family}}" part)
    if(part AND NOT part IN_LIST VLLM_CUDA_LISTED_PARTS_${family})
      message(FATAL_ERROR "vllm-kernels: ${source} is for part ${part}, which the family's "
                          "family.toml does not list: add [parts.${part}]")
    elseif(part AND NOT part IN_LIST VLLM_CUDA_PARTS_${family})
      continue()
    endif()
    list(APPEND kept ${source})
    if(source MATCHES "\\.cu$")
      set(flags ${VLLM_CUDA_FLAGS_${family}})
      if(part)
        set(flags ${VLLM_CUDA_FLAGS_${family}_${part}})
      endif()
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS ${flags})
    endif()
  endforeach()
  add_library(${target} SHARED ${kept} ${VLLM_BINDING_SOURCES}
                        ${PROJECT_SOURCE_DIR}/csrc/torch/cuda_memory.cc
                        $<TARGET_OBJECTS:vllm_core>)
  target_compile_definitions(${target} PRIVATE
    ${VLLM_CUDA_DEFINES_${family}} "VK_CUDA_ARCHS=\"${VLLM_CUDA_ARCHS_${family}}\"")
  # The stable ABI declares its stream for CUDA builds only, and the headers may be a CPU build's.
  set(bindings ${kept})
  list(FILTER bindings INCLUDE REGEX "/binding[^/]*\\.cc$")
  set_property(SOURCE ${bindings} APPEND PROPERTY COMPILE_DEFINITIONS USE_CUDA)
  # Rows VK_SERVED(PART, GPU, CODE): the GPUs that a part in the build has machine code for.
  if(VLLM_CUDA_SERVED_${family})
    file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/cuda/${family}/served.inc
         CONTENT "${VLLM_CUDA_SERVED_${family}}")
    target_include_directories(${target} PRIVATE ${PROJECT_BINARY_DIR})
  endif()
  if(VLLM_CUDA_CUTLASS_${family})
    target_include_directories(${target} SYSTEM PRIVATE ${CUTLASS_INCLUDE_DIR})
  endif()
  target_link_libraries(${target} PRIVATE vllm_cuda_compile vllm_torch CUDA::cudart)
  set_target_properties(${target} PROPERTIES
    CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF
    CUDA_RUNTIME_LIBRARY None
    CUDA_VISIBILITY_PRESET hidden
    JOB_POOL_COMPILE ${vllm_cuda_pool_${family}})
  vllm_install_library(${target} ${vllm_cuda_component})
endfunction()
