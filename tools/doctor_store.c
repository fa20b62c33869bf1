/* What a store can do. */
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/un.h>

#include "tools/doctor.h"
#include "tools/output.h"

#define PIECE       (UINT64_C(32) << 20)
#define SKEW_GREEN  5   /* seconds */
#define SKEW_YELLOW 300 /* S3 refuses at 900 */
#define SLOW        (UINT64_C(200) << 20)

static void failed(struct doctor_finding *f, const char *step, const struct ckpt_err *err)
{
    doctor_found(f, DOCTOR_RED, "%s: %.200s", step, err_text(err));
}

/* "ckpt.doctor/<random>": nobody else's. */
static bool new_key(char ret[64])
{
    uint64_t random;
    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return false;
    snprintf(ret, 64, "ckpt.doctor/%016llx", (unsigned long long)random);
    return true;
}

/* What is left behind is small and lies where nobody looks for checkpoints. */
static void remove_quietly(struct store *s, const char *key)
{
    struct ckpt_err ignored = { 0 };
    if (store_remove(s, key, &ignored) != CKPT_OK)
        return;
}

void doctor_store_clock(struct store *s, struct doctor_finding *ret)
{
    int64_t theirs;
    struct ckpt_err err = { 0 };
    *ret = (struct doctor_finding){ .what = "store's clock" };
    if (store_now(s, &theirs, &err) != CKPT_OK) {
        failed(ret, "no answer", &err);
        return;
    }
    double off = (double)(theirs - output_now_ns()) / 1e9;
    double by = off < 0 ? -off : off;
    doctor_found(ret,
                 by <= SKEW_GREEN    ? DOCTOR_GREEN
                 : by <= SKEW_YELLOW ? DOCTOR_YELLOW
                                     : DOCTOR_RED,
                 "%.1f s %s ours", by, off < 0 ? "behind" : "ahead of");
    if (by > SKEW_GREEN)
        doctor_remedy(ret, "set this machine's clock, or the store's");
}

void doctor_store_rights(struct store *s, struct doctor_finding *ret)
{
    static const char text[] = "ckpt doctor was here";
    char key[64], back[sizeof(text)];
    struct store_entry entry;
    struct store_range range = { .bytes = sizeof(text), .base = back };
    struct ckpt_err err = { 0 };
    const char *step = "put";
    size_t n = 0;
    bool more;
    *ret = (struct doctor_finding){ .what = "store's rights" };
    enum ckpt_status st = new_key(key) ? CKPT_OK : err_set(&err, CKPT_IO, "no random number");
    if (st == CKPT_OK)
        st = store_put_record(s, key, text, sizeof(text), &err);
    bool there = st == CKPT_OK;
    if (st == CKPT_OK && (step = "get"))
        st = store_get(s, key, &range, 1, &err);
    if (st == CKPT_OK && memcmp(text, back, sizeof(text)) != 0)
        st = err_set(&err, CKPT_CORRUPT, "%s came back changed", key);
    if (st == CKPT_OK && (step = "list"))
        st = store_list(s, "ckpt.doctor/", false, "", &entry, 1, &n, &more, &err);
    if (st == CKPT_OK && n == 0)
        st = err_set(&err, CKPT_CORRUPT, "%s was put and is not listed", key);
    struct ckpt_err why = { 0 };
    if (there && store_remove(s, key, &why) != CKPT_OK && st == CKPT_OK) {
        doctor_found(ret, DOCTOR_YELLOW, "objects cannot be removed: %.180s", err_text(&why));
        doctor_remedy(
            ret, "old checkpoints can then not be pruned; allow deletion where ckpt prune runs");
        return;
    }
    if (st == CKPT_OK) {
        doctor_found(ret, DOCTOR_GREEN, "put, get, list and remove");
        return;
    }
    failed(ret, step, &err);
    doctor_remedy(ret, st == CKPT_DENIED ? "give this user the right to write there" : "");
}

void doctor_store_name(const struct store *s, enum doctor_verdict rights,
                       struct doctor_finding *ret)
{
    char text[512];
    *ret = (struct doctor_finding){ .what = "store" };
    store_to_text(s, text, sizeof(text));
    doctor_found(ret, rights == DOCTOR_RED ? DOCTOR_ABSENT : DOCTOR_GREEN, "%.250s", text);
}

void doctor_store_conditional(struct store *s, struct doctor_finding *ret)
{
    char key[64];
    struct ckpt_err err = { 0 };
    *ret = (struct doctor_finding){ .what = "conditional writes" };
    enum ckpt_status st = new_key(key) ? CKPT_OK : err_set(&err, CKPT_IO, "no random number");
    if (st == CKPT_OK)
        st = store_put_record(s, key, "one", 3, &err);
    if (st != CKPT_OK) {
        failed(ret, "put", &err);
        return;
    }
    enum ckpt_status same = store_put_record(s, key, "one", 3, &err);
    enum ckpt_status other = store_put_record(s, key, "two", 3, &err);
    remove_quietly(s, key);
    if (same == CKPT_OK && other == CKPT_CONFLICT && s->racy) {
        doctor_found(ret, DOCTOR_YELLOW,
                     "the server has none: two who write at the same moment may both win");
        doctor_remedy(ret, "as a --remote it will do; for what jobs save to, take a server that "
                           "honours If-None-Match");
        return;
    }
    if (same == CKPT_OK && other == CKPT_CONFLICT) {
        doctor_found(ret, DOCTOR_GREEN, "the first writer of a record wins");
        return;
    }
    doctor_found(ret, DOCTOR_RED, "the second writer was told \"%s\"", status_sentence(other));
    doctor_remedy(
        ret,
        "jobs need another home: a file system with link(2), or an S3 store with If-None-Match");
}

static double write_pieces(struct store *s, const char *key, uint8_t *piece, uint64_t pieces,
                           struct ckpt_err *err)
{
    double started = output_monotonic();
    for (uint64_t i = 0; i < pieces; i++) {
        char name[96];
        const struct iovec iov = { piece, PIECE };
        snprintf(name, sizeof(name), "%s/%llu", key, (unsigned long long)i);
        memcpy(piece, &i, sizeof(i)); /* no two alike */
        if (store_put(s, name, &iov, 1, STORE_DIRECT_HINT, err) != CKPT_OK)
            return 0;
    }
    return output_monotonic() - started;
}

static double read_pieces(struct store *s, const char *key, uint8_t *piece, uint64_t pieces,
                          struct ckpt_err *err)
{
    double started = output_monotonic();
    for (uint64_t i = 0; i < pieces; i++) {
        char name[96];
        struct store_range range = { .bytes = PIECE, .base = piece };
        snprintf(name, sizeof(name), "%s/%llu", key, (unsigned long long)i);
        if (store_get(s, name, &range, 1, err) != CKPT_OK)
            return 0;
    }
    return output_monotonic() - started;
}

void doctor_store_speed(struct store *s, uint64_t bytes, struct doctor_finding *ret)
{
    char key[64], w[OUTPUT_TEXT], r[OUTPUT_TEXT];
    struct ckpt_err err = { 0 };
    uint64_t pieces = max_u64(div_up(bytes, PIECE), 1);
    *ret = (struct doctor_finding){ .what = "store's speed" };
    CLEANUP_FREE uint8_t *piece = aligned_alloc(CKPT_BLOCK, PIECE);
    if (!piece || !new_key(key)) {
        doctor_found(ret, DOCTOR_ABSENT, "no memory to measure with");
        return;
    }
    for (uint64_t i = 0, x = 88172645463325252; i + 8 <= PIECE; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(piece + i, &x, 8);
    }
    double write_s = write_pieces(s, key, piece, pieces, &err);
    double read_s = write_s > 0 ? read_pieces(s, key, piece, pieces, &err) : 0;
    for (uint64_t i = 0; i < pieces; i++) {
        char name[96];
        snprintf(name, sizeof(name), "%s/%llu", key, (unsigned long long)i);
        remove_quietly(s, name);
    }
    if (!(read_s > 0)) {
        failed(ret, "measuring", &err);
        return;
    }
    bool slow = (double)(pieces * PIECE) / write_s < (double)SLOW;
    doctor_found(ret, slow ? DOCTOR_YELLOW : DOCTOR_GREEN, "writes %s, reads %s, one stream",
                 output_rate(pieces * PIECE, write_s, w), output_rate(pieces * PIECE, read_s, r));
    if (slow)
        doctor_remedy(ret,
                      "saves take long to become durable: give ckptd a local disk (--local DIR)");
}

void doctor_space(const char *dir, struct doctor_finding *ret)
{
    struct statvfs fs;
    char left[OUTPUT_TEXT], all[OUTPUT_TEXT];
    *ret = (struct doctor_finding){ .what = "room" };
    if (statvfs(dir, &fs) != 0) {
        doctor_found(ret, DOCTOR_RED, "%.200s: %m", dir);
        return;
    }
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    uint64_t bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
    bool little = free_bytes < bytes / 10 || (fs.f_files && fs.f_favail < fs.f_files / 20);
    doctor_found(ret, little ? DOCTOR_YELLOW : DOCTOR_GREEN, "%s of %s free",
                 output_bytes(free_bytes, left), output_bytes(bytes, all));
    if (little)
        doctor_remedy(
            ret, "prune old checkpoints; a save that finds no room fails, and nothing else does");
}

void doctor_daemon(const char *path, struct doctor_finding *ret)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    *ret = (struct doctor_finding){ .what = "ckptd" };
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || strlen(path) >= sizeof(a.sun_path)) {
        doctor_found(ret, DOCTOR_RED, "no socket for %.180s", path);
        return;
    }
    memcpy(a.sun_path, path, strlen(path) + 1);
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0) {
        doctor_found(ret, DOCTOR_GREEN, "listens at %.200s", path);
    } else if (errno == ENOENT || errno == ECONNREFUSED) {
        doctor_found(ret, DOCTOR_ABSENT, "none at %.180s; the first trainer starts one", path);
    } else {
        doctor_found(ret, DOCTOR_RED, "%.200s: %m", path);
        doctor_remedy(ret, errno == EACCES ? "it belongs to another user: give --socket" : "");
    }
}
