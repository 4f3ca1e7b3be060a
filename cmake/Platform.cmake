# What targets.toml says about the target platform: VLLM_PLATFORM, VLLM_CPU_FAMILY,
# VLLM_PLATFORM_ONEDNN, VLLM_PLATFORM_GCC_OPTIONS and VLLM_PLATFORM_HARDENING (_LINK: to link).
include(${PROJECT_SOURCE_DIR}/cmake/generated/platforms.cmake)

string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" vllm_machine)
set(VLLM_PLATFORM "")
foreach(platform IN LISTS VLLM_PLATFORMS)
  if(vllm_machine IN_LIST VLLM_MACHINES_${platform})
    set(VLLM_PLATFORM ${platform})
    set(VLLM_CPU_FAMILY ${VLLM_FAMILY_${platform}})
    set(VLLM_PLATFORM_ONEDNN ${VLLM_ONEDNN_${platform}})
    set(VLLM_PLATFORM_GCC_OPTIONS ${VLLM_GCC_OPTIONS_${platform}})
    set(VLLM_PLATFORM_HARDENING ${VLLM_HARDENING_${platform}})
    set(VLLM_PLATFORM_HARDENING_LINK ${VLLM_HARDENING_LINK_${platform}})
  endif()
endforeach()
if(NOT VLLM_PLATFORM)
  message(FATAL_ERROR "vllm-kernels: no CPU tiers for ${CMAKE_SYSTEM_PROCESSOR} in targets.toml")
endif()
