# One file a kind of scale: together they take nvcc minutes for many architectures.
foreach(scale IN ITEMS Float PowerOfTwo Packed)
  string(TOLOWER groups_${scale} name)
  vllm_cuda_instance(groups_instance.cu.in ${name} VK_SCALE ${scale})
endforeach()
