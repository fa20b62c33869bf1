/* Writes what N ranks would have saved of the large model: every rank's manifest and
 * `.h`, through the encoders that saving uses; then publish() makes index and commit.
 * Packs and tensors' bytes do not exist; digests and pack ids are made up.
 *
 *     make_scale DIR LAYOUT [LAYERS [SHRINK]]     e.g. make_scale /x fsdp:16384
 *
 * Files are written without syncs, in as many processes as there are CPUs: this is no
 * test of saving. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/scale_model.h"
#include "bench/scale_store.h"
#include "formats/key.h"
#include "formats/manifest.h"
#include "storage/repo/repo.h"

struct maker {
    const char *root;
    struct scale_model model;
    struct scale_layout layout;
    uint64_t bytes;
};

static void fail(const char *what, const struct ckpt_err *err)
{
    fprintf(stderr, "make_scale: %s: %s\n", what, err ? err_text(err) : strerrorname_np(errno));
    exit(1);
}

static void write_file(struct maker *k, const struct key *key, const struct buf *b)
{
    char path[KEY_MAX + 4096];
    snprintf(path, sizeof(path), "%s/%s", k->root, key->text);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || b->failed || write(fd, b->data, b->len) != (ssize_t)b->len || close(fd) != 0)
        fail(path, NULL);
    k->bytes += b->len;
}

static void make_dirs(const char *root, const char *key)
{
    char path[KEY_MAX + 4096];
    snprintf(path, sizeof(path), "%s/%s", root, key);
    for (char *at = path + strlen(root) + 1; *at; at++) {
        if (*at != '/')
            continue;
        *at = '\0';
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            fail(path, NULL);
        *at = '/';
    }
}

static void write_part(struct maker *k, uint32_t rank, const struct decl *d)
{
    struct ckpt_name name = scale_name(&k->layout);
    struct manifest_header h = { .name = name,
                                 .rank = rank,
                                 .world = k->layout.world,
                                 .time_ns = 1700000000,
                                 .job = SCALE_JOB,
                                 .pack_count = d->slot_count };
    struct record_rank_held held = {
        .name = name, .rank = rank, .pack_count = d->slot_count, .stored_bytes = d->raw_bytes
    };
    CLEANUP_FREE struct digest *digests = calloc(d->chunk_count + 1, sizeof(*digests));
    h.packs = calloc(d->slot_count + (size_t)1, sizeof(*h.packs));
    CLEANUP_BUF struct buf b = { 0 }, part = { 0 };
    struct sha256 sha;
    if (!digests || !h.packs)
        fail("no memory", NULL);
    for (uint64_t i = 0; i < d->chunk_count; i++)
        digests[i] = digest_of((const uint64_t[]){ rank, i }, 16);
    for (uint32_t i = 0; i < d->slot_count; i++)
        h.packs[i] =
            (struct manifest_pack){ i, d->slots[i].chunks, digests[d->slots[i].first_chunk],
                                    d->slots[i].first_chunk };
    manifest_encode(&h, d, digests, &b, &sha);
    struct key key = key_manifest(SCALE_JOB, &name, rank);
    write_file(k, &key, &b);
    key = key_rank_held(SCALE_JOB, &name, rank);
    record_rank_held_encode(&held, key.text, &part);
    write_file(k, &key, &part);
    free(h.packs);
}

/* Every `step`-th rank from `rank` on. */
static void write_ranks(struct maker *k, uint32_t rank, uint32_t step)
{
    for (; rank < k->layout.world; rank += step) {
        struct decl d = { 0 };
        struct ckpt_err err = { 0 };
        if (scale_decl(&k->model, &k->layout, rank, CKPT_SLOT_BYTES, &d, &err) != CKPT_OK)
            fail("declaring", &err);
        write_part(k, rank, &d);
        decl_fini(&d);
    }
}

static void make_repository(const char *root)
{
    struct store *s;
    struct record_repo repo;
    struct ckpt_err err = { 0 };
    const struct store_options options = { .create = true };
    if (store_open(root, &options, &s, &err) != CKPT_OK ||
        repo_open(s, true, &repo, &err) != CKPT_OK)
        fail(root, &err);
    store_close(s);
}

int main(int argc, char **argv)
{
    struct maker k = { .root = argc > 1 ? argv[1] : "" };
    uint32_t layers = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : SCALE_LAYERS;
    uint32_t shrink = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 1;
    if (argc < 3 || !scale_layout_parse(argv[2], &k.layout) || !layers || !shrink) {
        fprintf(stderr, "usage: make_scale DIR fsdp:N|tp=T,pp=P,dp=D [LAYERS [SHRINK]]\n");
        return 2;
    }
    if (scale_model_init(&k.model, layers, shrink) != CKPT_OK)
        fail("no memory", NULL);
    make_repository(k.root);
    struct ckpt_name name = scale_name(&k.layout);
    for (unsigned h = 0; h < 16; h++)
        make_dirs(k.root, key_data(SCALE_JOB, h, &name).text);
    long workers = sysconf(_SC_NPROCESSORS_ONLN);
    for (long i = 0; i < workers; i++) {
        pid_t pid = fork();
        if (pid < 0)
            fail("fork", NULL);
        if (pid == 0) {
            write_ranks(&k, (uint32_t)i, (uint32_t)workers);
            printf("%" PRIu64 " bytes of manifests\n", k.bytes);
            return 0;
        }
    }
    int status, worst = 0;
    while (wait(&status) > 0)
        worst |= status;
    scale_model_fini(&k.model);
    return worst ? 1 : 0;
}
