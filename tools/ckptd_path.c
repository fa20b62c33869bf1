/* See ckptd_path.h. */
#include "tools/ckptd_path.h"

#include <stdio.h>

#include "formats/base.h"

void ckptd_path(char *ret, size_t cap)
{
    static const char *const beside[] = { "../ckptd/ckptd", "ckptd" };
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    for (size_t i = 0; slash && i < ARRAY_COUNT(beside); i++) {
        snprintf(ret, cap, "%.*s/%s", (int)(slash - self), self, beside[i]);
        if (access(ret, X_OK) == 0)
            return;
    }
    snprintf(ret, cap, "ckptd");
}
