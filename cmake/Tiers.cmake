# One island of object code per instruction-set tier.
#
# A tier's `*_tier.cc` files are compiled with the tier's flags, linked into one relocatable object
# and stripped of every global symbol but the tier's table. Inline functions that the compiler
# emitted out of line stay inside: the linker could otherwise choose the AVX-512 copy of a shared
# template for code that runs at the floor.

include(CheckCXXCompilerFlag)

# vllm_check_cpu_families(FOLDER): each kernel family of targets.toml is a folder of FOLDER, and
# each folder with sources is such a family. Only `runtime` has no kernels, so no tier knows it.
function(vllm_check_cpu_families folder)
  foreach(family IN LISTS VLLM_CPU_KERNEL_FAMILIES)
    foreach(needed ${family}.h binding.cc *_tier.cc)
      file(GLOB found CONFIGURE_DEPENDS ${folder}/${family}/${needed})
      if(NOT found)
        message(FATAL_ERROR "vllm-kernels: targets.toml has the CPU family ${family}, but "
                            "csrc/cpu/${family}/${needed} is missing; write it, or take ${family} out "
                            "of [families] and run `vllm-conda generate`")
      endif()
    endforeach()
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS RELATIVE ${folder} ${folder}/*/*.cc)
  foreach(source IN LISTS sources)
    get_filename_component(family ${source} DIRECTORY)
    if(NOT family IN_LIST VLLM_CPU_KERNEL_FAMILIES AND NOT family STREQUAL "runtime")
      message(FATAL_ERROR "vllm-kernels: csrc/cpu/${family} is no CPU family of targets.toml, so no "
                          "tier would have its kernels; add ${family} to [families] and run "
                          "`vllm-conda generate`")
    endif()
  endforeach()
endfunction()

# vllm_select_tiers(FAMILY LEVEL OUT_TIERS): the tiers of that level, less what options and the
# compiler leave out. Sets VLLM_TIER_FLAGS_<tier> of those kept to the flags really used.
function(vllm_select_tiers family level out_tiers)
  if(NOT level IN_LIST VLLM_LEVELS_${family})
    list(JOIN VLLM_LEVELS_${family} ", " levels)
    message(FATAL_ERROR "vllm-kernels: VLLM_CPU_LEVEL=${level} is not a level of ${family} "
                        "(targets.toml has ${levels})")
  endif()
  set(kept "")
  foreach(tier IN LISTS VLLM_LEVEL_TIERS_${family}_${level})
    vllm_tier_flags(${tier} flags)
    vllm_tier_switched_off(${tier} reason)
    if(NOT reason)
      string(JOIN " " flag_text ${flags})
      string(MAKE_C_IDENTIFIER "VLLM_COMPILER_HAS_${tier}_${flag_text}" cache_name)
      set(CMAKE_REQUIRED_QUIET ON)
      check_cxx_compiler_flag("${flag_text}" ${cache_name})
      if(NOT ${cache_name})
        set(reason "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} does not take ${flag_text}")
        set(switch "${VLLM_TIER_SWITCH_${tier}}")
        if(switch AND "${${switch}}" STREQUAL "ON")
          message(FATAL_ERROR "vllm-kernels: ${switch}=ON, but ${reason}")
        endif()
      endif()
    endif()
    if(reason)
      message(STATUS "vllm-kernels: tier ${tier} left out: ${reason}")
    else()
      list(APPEND kept ${tier})
      set(VLLM_TIER_FLAGS_${tier} ${flags} PARENT_SCOPE)
    endif()
  endforeach()
  if(NOT kept)
    message(FATAL_ERROR "vllm-kernels: no tier is left for level ${level} of ${family}")
  endif()
  message(STATUS "vllm-kernels: level ${level} of ${family}, tiers: ${kept}")
  set(${out_tiers} ${kept} PARENT_SCOPE)
endfunction()

# vllm_add_tier_island(TIER OUT_OBJECT): builds the island, sets OUT_OBJECT to its path.
function(vllm_add_tier_island tier out_object)
  set(sources ${PROJECT_SOURCE_DIR}/csrc/cpu/tier_table.cc)
  set(definitions VK_TIER=${tier})
  foreach(family IN LISTS VLLM_CPU_KERNEL_FAMILIES)
    if(family IN_LIST VLLM_TIER_FAMILIES_${tier})
      file(GLOB family_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/cpu/${family}/*_tier.cc)
      list(APPEND sources ${family_sources})
      list(APPEND definitions VK_HAS_${family}=1)
    else()
      list(APPEND definitions VK_HAS_${family}=0)
    endif()
  endforeach()
  set(target vllm_tier_${tier})
  add_library(${target} OBJECT ${sources})
  target_link_libraries(${target} PRIVATE vllm_compile)
  target_include_directories(${target} SYSTEM PRIVATE ${HIGHWAY_INCLUDE_DIR})
  target_compile_definitions(${target} PRIVATE ${definitions})
  # -O3 for every build type: these files are the hot loops. Contraction to FMA is wanted. With the
  # sanitizers -O3 would take minutes for each file and hide what the code does. GCC 12 miscompiles
  # attention's decode kernel on AVX2, NEON and SVE with -fsplit-loops, which is part of -O3.
  set(optimise -O3)
  if(VLLM_SANITIZE STREQUAL "ON")
    set(optimise -O1)
  endif()
  target_compile_options(${target} PRIVATE ${VLLM_TIER_FLAGS_${tier}}
    $<$<NOT:$<CONFIG:Debug>>:${optimise}> -fno-exceptions -fno-rtti -ffp-contract=fast
    $<$<CXX_COMPILER_ID:GNU>:-fno-split-loops>)

  # A section of its own, with a name that no linker merges into .text, shows the audit of the
  # finished library (vllm_conda.audit.instructions) what belongs to the tier, even when stripped.
  set(script ${PROJECT_BINARY_DIR}/tier_${tier}.ld)
  file(CONFIGURE OUTPUT ${script} CONTENT "SECTIONS { .tier.@tier@ : { *(.text .text.*) } }\n" @ONLY)
  set(object ${PROJECT_BINARY_DIR}/tier_${tier}.o)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${CMAKE_LINKER} -r --force-group-allocation -T ${script} -o ${object}.all
            $<TARGET_OBJECTS:${target}>
    COMMAND ${CMAKE_OBJCOPY} --keep-global-symbol=vk_tier_table_${tier} ${object}.all ${object}
    DEPENDS ${target} $<TARGET_OBJECTS:${target}> ${script}
    COMMAND_EXPAND_LISTS VERBATIM
    COMMENT "Sealing tier ${tier}")
  set(${out_object} ${object} PARENT_SCOPE)
endfunction()
