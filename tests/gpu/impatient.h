/* How long the library waits for devices, streams and ckptd, and how much it pins at once, when a
 * test is compiled with it; included in front of every file. */
#pragma once

#include <stdint.h>

/* Of the test: it may wait long after all. */
extern int64_t impatient_ns, link_patience_ns, respawn_least_ns;
#define LIB_LAND_NS      impatient_ns
#define LINK_PATIENCE_NS link_patience_ns
#define RESPAWN_LEAST_NS respawn_least_ns
#define AUDIT_BLOCK_NS   INT64_C(300000000)
#define AUDIT_STREAM_NS  INT64_C(300000000)
#define DEVICES_PCI      "pci"                /* where the test runs */
#define GPU_PIN_SLICE    (UINT64_C(10) << 20) /* of whole slots of 8 MiB: 8 */
