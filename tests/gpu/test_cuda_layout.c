/* Our words for CUDA's types against its own header, where a toolkit is at hand. */
#define CUDA_SUCCESS DRIVER_SUCCESS /* ours has that name */
#include <cuda.h>
#undef CUDA_SUCCESS
#include <cuda_runtime_api.h>

#include "libckpt/cuda_api.h"

#include "check.h"

#define SAME_SIZE(ours, theirs) _Static_assert(sizeof(ours) == sizeof(theirs), #ours)
#define SAME_PLACE(ours, member, theirs, other) \
    _Static_assert(offsetof(ours, member) == offsetof(theirs, other), #ours "." #member)
#define SAME_VALUE(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)

SAME_SIZE(struct cuda_mem_location, struct cudaMemLocation);
SAME_SIZE(struct cuda_memcpy_attributes, struct cudaMemcpyAttributes);
SAME_PLACE(struct cuda_memcpy_attributes, src_access_order, struct cudaMemcpyAttributes,
           srcAccessOrder);
SAME_PLACE(struct cuda_memcpy_attributes, src_hint, struct cudaMemcpyAttributes, srcLocHint);
SAME_PLACE(struct cuda_memcpy_attributes, flags, struct cudaMemcpyAttributes, flags);
SAME_SIZE(cuda_error, cudaError_t);
SAME_VALUE(CUDA_INVALID_VALUE, cudaErrorInvalidValue);
SAME_VALUE(CUDA_NO_MEMORY, cudaErrorMemoryAllocation);
SAME_VALUE(CUDA_STUB_LIBRARY, cudaErrorStubLibrary);
SAME_VALUE(CUDA_INSUFFICIENT_DRIVER, cudaErrorInsufficientDriver);
SAME_VALUE(CUDA_NO_DEVICE, cudaErrorNoDevice);
SAME_VALUE(CUDA_ECC, cudaErrorECCUncorrectable);
SAME_VALUE(CUDA_NOT_READY, cudaErrorNotReady);
SAME_VALUE(CUDA_HOST_ALREADY_REGISTERED, cudaErrorHostMemoryAlreadyRegistered);
SAME_VALUE(CUDA_POINTER_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
SAME_VALUE(CUDA_POINTER_IS_MANAGED, CU_POINTER_ATTRIBUTE_IS_MANAGED);
SAME_VALUE(CUDA_POINTER_DEVICE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
SAME_VALUE(CUDA_MEMORY_HOST, CU_MEMORYTYPE_HOST);
SAME_VALUE(CUDA_MEMORY_DEVICE, CU_MEMORYTYPE_DEVICE);
SAME_VALUE(CUDA_HOST_TO_DEVICE, cudaMemcpyHostToDevice);
SAME_VALUE(CUDA_DEVICE_TO_HOST, cudaMemcpyDeviceToHost);
SAME_VALUE(CUDA_STREAM_NON_BLOCKING, cudaStreamNonBlocking);
SAME_VALUE(CUDA_EVENT_DISABLE_TIMING, cudaEventDisableTiming);
SAME_VALUE(CUDA_EVENT_WAIT_EXTERNAL, cudaEventWaitExternal);
SAME_VALUE(CUDA_HOST_REGISTER_PORTABLE, cudaHostRegisterPortable);
SAME_VALUE(CUDA_CAPTURE_THREAD_LOCAL, cudaStreamCaptureModeThreadLocal);
SAME_VALUE(CUDA_CAPTURE_RELAXED, cudaStreamCaptureModeRelaxed);
SAME_VALUE(CUDA_USES_HOST_POINTERS, cudaDevAttrCanUseHostPointerForRegisteredMem);
SAME_VALUE(CUDA_SRC_ACCESS_STREAM, cudaMemcpySrcAccessOrderStream);
SAME_VALUE(CUDA_COPY_BESIDE_COMPUTE, cudaMemcpyFlagPreferOverlapWithCompute);

int main(void)
{
    TEST_CASES(30); /* all of them decided by the compiler */
    return 0;
}
