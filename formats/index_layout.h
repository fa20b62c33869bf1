/* Numbers of the index's layout that its writer and its reader share. */
#pragma once

#include "formats/base.h"

#define INDEX_MAGIC           "CKPTIDX" /* and its NUL */
#define INDEX_HEADER_BYTES_AT 12
#define INDEX_FIXED_BYTES     96
#define INDEX_RESERVED_BYTES  32 /* for a key id and a MAC */
#define INDEX_RANK_BYTES      60
#define INDEX_ENTRY_MIN       30 /* of a block table: without a name */
#define INDEX_RUN_FIXED_BYTES 32
