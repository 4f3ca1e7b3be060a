# Options that leave out a tier or one of its flags. targets.toml says which option belongs to which
# tier.

include(${CMAKE_CURRENT_LIST_DIR}/generated/tiers.cmake)

# vllm_tier_uses_avx512(TIER OUT): whether VLLM_CPU_DISABLE_AVX512 leaves the tier out.
function(vllm_tier_uses_avx512 tier out)
  set(${out} OFF PARENT_SCOPE)
  if("${VLLM_TIER_NEEDS_${tier}}" MATCHES "avx512")
    set(${out} ON PARENT_SCOPE)
  endif()
endfunction()

# vllm_tier_flags(TIER OUT): the tier's flags, less those that an option leaves out.
function(vllm_tier_flags tier out)
  set(flags ${VLLM_TIER_FLAGS_${tier}})
  foreach(pair IN LISTS VLLM_TIER_FLAG_SWITCHES_${tier})
    string(REGEX MATCH "^([^=]+)=(.+)$" pair "${pair}")
    if("${${CMAKE_MATCH_1}}" STREQUAL "OFF")
      list(REMOVE_ITEM flags ${CMAKE_MATCH_2})
    endif()
  endforeach()
  set(${out} ${flags} PARENT_SCOPE)
endfunction()

# vllm_tier_switched_off(TIER OUT_REASON): empty where no option leaves the tier out.
function(vllm_tier_switched_off tier out_reason)
  set(reason "")
  set(switch "${VLLM_TIER_SWITCH_${tier}}")
  vllm_tier_uses_avx512(${tier} uses_avx512)
  if(VLLM_CPU_DISABLE_AVX512 STREQUAL "ON" AND uses_avx512)
    set(reason "VLLM_CPU_DISABLE_AVX512=ON")
  elseif(switch AND "${${switch}}" STREQUAL "OFF")
    set(reason "${switch}=OFF")
  else()
    foreach(lower IN LISTS VLLM_TIER_LOWER_SWITCHES_${tier})
      if("${${lower}}" STREQUAL "OFF")
        set(reason "${lower}=OFF, which ${tier} builds on")
      endif()
    endforeach()
  endif()
  set(${out_reason} "${reason}" PARENT_SCOPE)
endfunction()

# vllm_check_tier_switches(TIER): refuses options of the tier that contradict others.
function(vllm_check_tier_switches tier)
  set(switches ${VLLM_TIER_SWITCH_${tier}} ${VLLM_TIER_FLAG_SWITCHES_${tier}})
  list(TRANSFORM switches REPLACE "=.*" "")
  vllm_tier_uses_avx512(${tier} uses_avx512)
  foreach(switch IN LISTS switches)
    if(NOT DEFINED CACHE{${switch}})
      message(FATAL_ERROR "vllm-kernels: targets.toml lets ${switch} switch tier ${tier}, which is no "
                          "option; add it to cmake/Options.cmake")
    endif()
    if(VLLM_CPU_DISABLE_AVX512 STREQUAL "ON" AND uses_avx512 AND "${${switch}}" STREQUAL "ON")
      message(FATAL_ERROR "vllm-kernels: ${switch}=ON conflicts with VLLM_CPU_DISABLE_AVX512=ON")
    endif()
  endforeach()
  set(switch "${VLLM_TIER_SWITCH_${tier}}")
  foreach(lower IN LISTS VLLM_TIER_LOWER_SWITCHES_${tier} VLLM_TIER_LOWER_FLAG_SWITCHES_${tier})
    if(switch AND "${${switch}}" STREQUAL "ON" AND "${${lower}}" STREQUAL "OFF")
      message(FATAL_ERROR "vllm-kernels: ${switch}=ON conflicts with ${lower}=OFF: "
                          "the ${tier} tier uses both")
    endif()
  endforeach()
endfunction()

foreach(platform IN LISTS VLLM_PLATFORMS)
  foreach(tier IN LISTS VLLM_TIERS_${VLLM_FAMILY_${platform}})
    vllm_check_tier_switches(${tier})
  endforeach()
endforeach()
