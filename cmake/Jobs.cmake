# Parallel compile jobs = min(cores, memory / memory of one compile), printed
# with the reason.

# Peak resident memory of the largest translation unit (csrc/torch, libtorch
# stable headers), rounded up; measured with GCC 12.
set(VLLM_COMPILE_JOB_MIB 1024)

cmake_host_system_information(RESULT vllm_cores QUERY NUMBER_OF_LOGICAL_CORES)
cmake_host_system_information(RESULT vllm_memory_mib
                              QUERY AVAILABLE_PHYSICAL_MEMORY)
# Less than the machine has: affinity (taskset, Slurm) and the control group of
# a container or job.
execute_process(
  COMMAND ${CMAKE_COMMAND} -E env --unset=OMP_NUM_THREADS
          --unset=OMP_THREAD_LIMIT nproc
  OUTPUT_VARIABLE vllm_allowed_cores
  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(vllm_allowed_cores MATCHES "^[1-9][0-9]*$" AND vllm_allowed_cores LESS
                                                  vllm_cores)
  set(vllm_cores ${vllm_allowed_cores})
endif()
if(NOT DEFINED vllm_cgroup)
  set(vllm_cgroup /sys/fs/cgroup)
endif()
set(vllm_own_group "")
if(EXISTS /proc/self/cgroup)
  file(READ /proc/self/cgroup vllm_groups)
  if(vllm_groups MATCHES "0::(/[^\n]*)")
    set(vllm_own_group "${CMAKE_MATCH_1}")
  endif()
endif()
foreach(vllm_file memory.max memory/memory.limit_in_bytes
                  ${vllm_own_group}/memory.max)
  if(EXISTS ${vllm_cgroup}/${vllm_file})
    file(READ ${vllm_cgroup}/${vllm_file} vllm_limit)
    if(vllm_limit MATCHES "^([0-9]+)")
      math(EXPR vllm_limit "${CMAKE_MATCH_1} / 1048576")
      if(vllm_limit LESS vllm_memory_mib)
        set(vllm_memory_mib ${vllm_limit})
      endif()
    endif()
  endif()
endforeach()
foreach(vllm_file cpu.max cpu/cpu.cfs_quota_us ${vllm_own_group}/cpu.max)
  if(EXISTS ${vllm_cgroup}/${vllm_file})
    file(READ ${vllm_cgroup}/${vllm_file} vllm_limit)
    if(vllm_file MATCHES "quota" AND EXISTS
                                     ${vllm_cgroup}/cpu/cpu.cfs_period_us)
      file(READ ${vllm_cgroup}/cpu/cpu.cfs_period_us vllm_period)
      string(APPEND vllm_limit " ${vllm_period}")
    endif()
    if(vllm_limit MATCHES "^([0-9]+)[ \n]+([1-9][0-9]*)")
      # Part of a core still compiles one file.
      math(EXPR vllm_limit
           "(${CMAKE_MATCH_1} + ${CMAKE_MATCH_2} - 1) / ${CMAKE_MATCH_2}")
      if(vllm_limit LESS vllm_cores)
        set(vllm_cores ${vllm_limit})
      endif()
    endif()
  endif()
endforeach()
math(EXPR vllm_memory_jobs "${vllm_memory_mib} / ${VLLM_COMPILE_JOB_MIB}")
if(vllm_memory_jobs LESS 1)
  set(vllm_memory_jobs 1)
endif()
# Before memory is considered; cmake/Cuda.cmake has pools of its own.
set(vllm_wanted_jobs ${vllm_cores})
if(NOT MAX_JOBS STREQUAL "")
  if(NOT MAX_JOBS MATCHES "^[1-9][0-9]*$")
    message(
      FATAL_ERROR "vllm-kernels: MAX_JOBS=${MAX_JOBS} is not a positive number")
  endif()
  set(vllm_jobs ${MAX_JOBS})
  set(vllm_wanted_jobs ${MAX_JOBS})
  set(vllm_jobs_reason "MAX_JOBS")
elseif(vllm_memory_jobs LESS vllm_cores)
  set(vllm_jobs ${vllm_memory_jobs})
  set(vllm_jobs_reason
      "${vllm_memory_mib} MiB free / ${VLLM_COMPILE_JOB_MIB} MiB a job")
else()
  set(vllm_jobs ${vllm_cores})
  set(vllm_jobs_reason "${vllm_cores} cores")
endif()
message(
  STATUS
    "vllm-kernels: ${vllm_jobs} compile jobs (${vllm_jobs_reason}); MAX_JOBS overrides"
)
set_property(GLOBAL APPEND PROPERTY JOB_POOLS compile=${vllm_jobs})
set(CMAKE_JOB_POOL_COMPILE compile)

if(NOT VLLM_COMPILER_CACHE STREQUAL "OFF" AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(VLLM_COMPILER_CACHE_PROGRAM NAMES sccache ccache)
  if(VLLM_COMPILER_CACHE_PROGRAM)
    set(CMAKE_CXX_COMPILER_LAUNCHER ${VLLM_COMPILER_CACHE_PROGRAM})
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${VLLM_COMPILER_CACHE_PROGRAM})
    message(
      STATUS "vllm-kernels: compiler cache ${VLLM_COMPILER_CACHE_PROGRAM}")
  elseif(VLLM_COMPILER_CACHE STREQUAL "ON")
    message(
      FATAL_ERROR
        "vllm-kernels: VLLM_COMPILER_CACHE=ON, but neither sccache nor ccache is "
        "on PATH")
  endif()
endif()
