/* Looks into /proc, and into directories. */
#include "kills/probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The file's bytes with a 0 behind them, malloc'ed; NULL if it cannot be read. */
static char *bytes_of(const char *path, size_t *ret_len)
{
    FILE *f = fopen(path, "re");
    char *text = NULL;
    size_t cap = 0, len = 0;
    while (f) {
        if (cap - len < 4097) {
            cap = cap ? cap * 2 : 16384;
            text = realloc(text, cap);
            if (!text)
                abort();
        }
        size_t n = fread(text + len, 1, cap - len - 1, f);
        len += n;
        if (n == 0)
            break;
    }
    if (!f)
        return NULL;
    fclose(f);
    text[len] = 0;
    *ret_len = len;
    return text;
}

static long field(const char *text, const char *name)
{
    const char *at = text ? strstr(text, name) : NULL;
    return at ? strtol(at + strlen(name), NULL, 10) : 0;
}

static long count_of(const char *text, const char *word)
{
    long n = 0;
    for (const char *at = text; at && (at = strstr(at, word)); at++)
        n++;
    return n;
}

static void look_at_fds(pid_t pid, struct probe *p)
{
    char dir[64], path[400], link[256];
    snprintf(dir, sizeof(dir), "/proc/%d/fd", (int)pid);
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && (e = readdir(d));) {
        struct stat st;
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        ssize_t n = readlink(path, link, sizeof(link) - 1);
        link[n < 0 ? 0 : n] = 0;
        bool ring = strcmp(link, "anon_inode:[io_uring]") == 0;
        p->rings += ring;
        p->fds += !ring;
        if (strncmp(link, "/memfd:", 7) != 0)
            continue;
        p->memfds++;
        if (stat(path, &st) == 0)
            p->memfd_pages += st.st_blocks / 8;
    }
    if (d)
        closedir(d);
}

void probe_say_fds(pid_t pid)
{
    char dir[64], path[400], link[256];
    snprintf(dir, sizeof(dir), "/proc/%d/fd", (int)pid);
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        ssize_t n = readlink(path, link, sizeof(link) - 1);
        if (n > 0)
            fprintf(stderr, "    %d: %s -> %.*s\n", (int)pid, e->d_name, (int)n, link);
    }
    if (d)
        closedir(d);
}

bool probe_process(pid_t pid, struct probe *ret)
{
    char path[64];
    size_t len;
    *ret = (struct probe){ 0 };
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    char *status = bytes_of(path, &len);
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    char *maps = bytes_of(path, &len);
    ret->rss_kib = field(status, "VmRSS:");
    ret->threads = field(status, "Threads:");
    ret->memfds = count_of(maps, "/memfd:");
    look_at_fds(pid, ret);
    bool there = status != NULL;
    free(status);
    free(maps);
    return there;
}

bool probe_runs(pid_t pid)
{
    char path[64];
    size_t len;
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    char *text = bytes_of(path, &len);
    const char *state = text ? strrchr(text, ')') : NULL;
    bool runs = state && state[1] && state[2] != 'Z' && state[2] != 'X';
    free(text);
    return runs;
}

static long counted; /* nftw has no argument */

static int count_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)path;
    (void)st;
    (void)type;
    counted += at->level > 0;
    return 0;
}

long probe_entries(const char *path)
{
    counted = 0;
    (void)nftw(path, count_one, 16, FTW_PHYS);
    return counted;
}

static bool mentions(long pid, const char *file, const char *text)
{
    char path[64];
    size_t len = 0;
    snprintf(path, sizeof(path), "/proc/%ld/%s", pid, file);
    char *bytes = bytes_of(path, &len);
    bool found = bytes && memmem(bytes, len, text, strlen(text));
    free(bytes);
    return found;
}

long probe_processes(const char *text)
{
    long n = 0;
    DIR *d = opendir("/proc");
    for (const struct dirent *e; d && (e = readdir(d));) {
        long pid = strtol(e->d_name, NULL, 10);
        if (pid > 1 && pid != getpid() && probe_runs((pid_t)pid))
            n += mentions(pid, "cmdline", text) || mentions(pid, "environ", text);
    }
    if (d)
        closedir(d);
    return n;
}
