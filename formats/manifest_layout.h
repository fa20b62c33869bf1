/* Numbers of the manifest's layout that its writer and its reader share. */
#pragma once

#include "formats/base.h"

#define MANIFEST_MAGIC           "CKPTMAN" /* and its NUL */
#define MANIFEST_HEADER_BYTES_AT 12
#define MANIFEST_FIXED_BYTES     176
#define MANIFEST_RESERVED_BYTES  32 /* for a key id and a MAC */
#define MANIFEST_PACK_BYTES      24
#define MANIFEST_BLOCK_ENTRY_MIN 35 /* with a name of one byte */
