/* Mapped safetensors files. */
#include "tools/source_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum ckpt_status source_file_open(struct source_file *f, struct ckpt_err *err)
{
    CLEANUP_FD int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat) != 0)
        return err_errno(err, errno, "cannot open %s", f->path);
    if (!S_ISREG(stat.st_mode) || stat.st_size < 8)
        return err_set(err, CKPT_INVALID, "%s is not a safetensors file", f->path);
    f->bytes = (uint64_t)stat.st_size;
    void *map = mmap(NULL, f->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return err_errno(err, errno, "cannot map %s", f->path);
    f->map = map;
    enum ckpt_status st = safetensors_parse(map, f->bytes, f->bytes, &f->s, err);
    if (st != CKPT_OK)
        err_prefix(err, "%s", f->path);
    return st;
}

void source_file_close(struct source_file *f)
{
    safetensors_fini(&f->s);
    if (f->map)
        munmap(f->map, f->bytes);
    f->map = NULL;
}
