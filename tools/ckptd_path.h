/* Where the ckptd of the same build or installation is. */
#pragma once

#include <stddef.h>

/* A path, or "ckptd": to be found by PATH. */
void ckptd_path(char *ret, size_t cap);
