/* Reading small files of the kernel's.  See proc_text.h. */
#include "ckptd/proc_text.h"

#include <errno.h>
#include <fcntl.h>

#include "formats/base.h"

bool proc_text(const char *path, char *ret, size_t cap)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    if (fd < 0)
        return false;
    while (len < cap - 1) {
        ssize_t n = read(fd, ret + len, cap - 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    ret[len] = 0;
    return true;
}
