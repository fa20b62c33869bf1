/* The text of a file of the kernel's: /proc, cgroups. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Its first cap - 1 bytes, terminated; false if it cannot be read. */
bool proc_text(const char *path, char *ret, size_t cap);
