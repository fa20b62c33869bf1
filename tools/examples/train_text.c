/* Loads the text, cuts training windows out of it, and measures its unigram entropy. */
#include "tools/examples/train_text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT_BYTES_MIN = 32 << 10, TEXT_BYTES_MAX = 64 << 20, VALID_PERCENT = 10 };

/* Tried in this order until one gives enough text. */
static const char *const default_paths[] = { "/usr/share/common-licenses", TRAIN_SOURCE_DIR };

static bool append_file(struct text *t, int fd, size_t size)
{
    if (size > TEXT_BYTES_MAX - t->train_count) {
        errno = EFBIG;
        return false;
    }
    uint8_t *grown = realloc(t->bytes, t->train_count + size + 1);
    if (!grown)
        return false;
    t->bytes = grown;
    while (size > 0) {
        ssize_t got = read(fd, t->bytes + t->train_count, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got == 0;
        t->train_count += (size_t)got;
        size -= (size_t)got;
    }
    return true;
}

/* Appends a regular file; anything else (a link, a directory) counts as empty. */
static bool append_path(struct text *t, int dir_fd, const char *name, int extra_flags)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | extra_flags);
    if (fd < 0)
        return errno == ELOOP;
    struct stat st;
    bool ok = fstat(fd, &st) == 0;
    if (ok && S_ISREG(st.st_mode))
        ok = append_file(t, fd, (size_t)st.st_size);
    close(fd);
    return ok;
}

static bool append_directory(struct text *t, const char *path)
{
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    if (count < 0)
        return false;
    int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = dir_fd >= 0;
    for (int i = 0; i < count; i++) {
        ok = ok && append_path(t, dir_fd, entries[i]->d_name, O_NOFOLLOW);
        free(entries[i]);
    }
    free(entries);
    if (dir_fd >= 0)
        close(dir_fd);
    return ok;
}

static bool append_any(struct text *t, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return false;
    return S_ISDIR(st.st_mode) ? append_directory(t, path) : append_path(t, AT_FDCWD, path, 0);
}

static bool load_one(struct text *t, const char *path)
{
    memset(t, 0, sizeof(*t));
    bool read_all = append_any(t, path);
    size_t total = t->train_count;
    if (!read_all || total < TEXT_BYTES_MIN) {
        if (read_all)
            fprintf(stderr, "%s: %zu bytes of text, at least %d are needed\n", path, total,
                    TEXT_BYTES_MIN);
        else
            fprintf(stderr, "%s: cannot read the text: %m\n", path);
        text_fini(t);
        return false;
    }
    t->valid_count = total * VALID_PERCENT / 100;
    t->train_count = total - t->valid_count;
    t->digest = text_digest(TEXT_DIGEST_START, t->bytes, total);
    snprintf(t->source, sizeof(t->source), "%s", path);
    return true;
}

bool text_load(struct text *t, const char *path)
{
    if (path)
        return load_one(t, path);
    for (size_t i = 0; i < sizeof(default_paths) / sizeof(default_paths[0]); i++)
        if (load_one(t, default_paths[i]))
            return true;
    fprintf(stderr, "no text found; name a file or directory with --text\n");
    return false;
}

void text_fini(struct text *t)
{
    free(t->bytes);
    t->bytes = NULL;
}

/* splitmix64: a well mixed number for each n. */
static uint64_t mix(uint64_t n)
{
    n += UINT64_C(0x9e3779b97f4a7c15);
    n = (n ^ (n >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    n = (n ^ (n >> 27)) * UINT64_C(0x94d049bb133111eb);
    return n ^ (n >> 31);
}

void text_read_train(const struct text *t, struct text_rows want, uint8_t *ret_bytes)
{
    for (size_t i = 0; i < want.rows; i++) {
        uint64_t random = mix(mix(mix(want.seed) + want.step) + want.first_row + i);
        size_t at = random % (t->train_count - want.row_bytes + 1);
        memcpy(ret_bytes + i * want.row_bytes, t->bytes + at, want.row_bytes);
    }
}

void text_read_valid(const struct text *t, size_t i, size_t of, size_t row_bytes,
                     uint8_t *ret_bytes)
{
    size_t at = (t->valid_count - row_bytes) * i / of;
    memcpy(ret_bytes, t->bytes + t->train_count + at, row_bytes);
}

double text_unigram_entropy(const struct text *t)
{
    size_t seen[256] = { 0 };
    double entropy = 0.0;
    for (size_t i = 0; i < t->valid_count; i++)
        seen[t->bytes[t->train_count + i]]++;
    for (size_t i = 0; i < 256; i++) {
        double p = (double)seen[i] / (double)t->valid_count;
        entropy -= p > 0.0 ? p * log(p) : 0.0;
    }
    return entropy;
}

uint64_t text_digest(uint64_t digest, const void *bytes, size_t count)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < count; i++)
        digest = (digest ^ at[i]) * UINT64_C(0x100000001b3);
    return digest;
}
