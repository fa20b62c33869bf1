/* Options: what is taken, what is refused and in which words; and who shares whose fate. */
#include "ckptd/arena.h"
#include "ckptd/config.h"
#include "ckptd/peer.h"

#include "check.h"

static long cases;
static const char *env_store, *env_remote;

static char *fake_env(const char *name)
{
    const char *v = strcmp(name, "CKPT_STORE") == 0    ? env_store
                    : strcmp(name, "CKPT_REMOTE") == 0 ? env_remote
                                                       : NULL;
    return (char *)(uintptr_t)v;
}

/* The last config that was read; its strings live as long. */
static struct config *loaded;

static enum ckpt_status parse(struct config *c, struct ckpt_err *err, const char *a, const char *b,
                              const char *d)
{
    static char name[] = "ckptd", *argv[5] = { name };
    static struct config_errors errors;
    const char *in[] = { a, b, d };
    struct config_input from = { .argc = 1, .argv = argv, .getenv_ = fake_env };
    from.default_file = "/nonexistent/ckptd.conf";
    for (int i = 0; i < 3 && in[i]; i++)
        argv[from.argc++] = (char *)(uintptr_t)in[i];
    *err = (struct ckpt_err){ 0 };
    cases++;
    config_free(loaded);
    loaded = NULL;
    enum ckpt_status st = config_load(&from, &loaded, &errors);
    CHECK((st == CKPT_OK) == (errors.count == 0));
    if (st == CKPT_OK)
        *c = *loaded;
    else
        *err = errors.list[0];
    return st;
}

static void refused(const char *a, const char *b, const char *words)
{
    struct config c;
    struct ckpt_err err;
    CHECK(parse(&c, &err, a, b, NULL) != CKPT_OK);
    if (!strstr(err.text, words))
        fprintf(stderr, "%s: %s\n", a, err.text);
    CHECK(strstr(err.text, words));
}

/* Where packs are saved, and where they go on to. */
static void tiers(void)
{
    struct config c;
    struct ckpt_err err;
    CHECK_OK(parse(&c, &err, NULL, NULL, NULL));
    CHECK(c.remote_count == 0 && c.local == NULL && c.remote_codec == CODEC_ZSTD);
    CHECK_OK(parse(&c, &err, "--local=/s//", NULL, NULL)); /* the same place */
    CHECK(c.local == NULL);
    CHECK_OK(parse(&c, &err, "--local", "/nvme", "--codec=zstd"));
    CHECK_STR(c.local, "/nvme");
    CHECK_EQ(c.remote_codec, CODEC_STORED); /* coded already: as it is */
    CHECK_OK(parse(&c, &err, "--remote=/r", "--remote=/q", "--remote-codec=copy"));
    CHECK(c.remote_count == 2 && c.remote_codec == CODEC_STORED);
    CHECK_OK(parse(&c, &err, "--remote-codec=zstd:7", "--remote-rate=200M", "--remote-streams=9"));
    CHECK(c.remote_codec == CODEC_ZSTD && c.remote_codec_level == 7 && c.remote_streams == 9);
    CHECK_EQ(c.remote_rate, 200 * MIB);
    CHECK_OK(parse(&c, &err, "--remote-policy", "every=100,tagged", NULL));
    CHECK(c.remote_policy.some && c.remote_policy.every_steps == 100 && c.remote_policy.tagged &&
          !c.remote_policy.last);
    env_remote = "/e";
    CHECK_OK(parse(&c, &err, NULL, NULL, NULL));
    CHECK(c.remote_count == 1);
    CHECK_STR(c.remotes[0], "/e");
    CHECK_OK(parse(&c, &err, "--remote=/f", NULL, NULL)); /* an argument is stronger */
    CHECK(c.remote_count == 1);
    CHECK_STR(c.remotes[0], "/f");
    env_remote = NULL;
    refused("--remote", "/s", "the store itself");
    refused("--remote=/r", "--remote=/r/", "twice");
    refused("--remote-policy", "every=0", "from 1");
    refused("--remote-policy", "some", "no policy");
    refused("--remote-codec", "stored", "copy");
    refused("--remote-streams", "0", "from 1 to 32");
    refused("--remote-rate", "-1", "a number");
    cases += 10;
}

int main(void)
{
    struct config c;
    struct ckpt_err err;
    refused(NULL, NULL, "CKPT_STORE");
    env_store = "/s";
    CHECK_OK(parse(&c, &err, NULL, NULL, NULL));
    CHECK_STR(c.store, "/s");
    CHECK(c.crew == 6 && c.slot_bytes == CKPT_SLOT_BYTES && c.listen_fd == -1 && !c.private_);
    CHECK_OK(parse(&c, &err, "--store=/t", "--private", "--slot-bytes=16M"));
    CHECK_STR(c.store, "/t");
    CHECK(c.private_ && c.slot_bytes == 16 * MIB);
    CHECK_OK(parse(&c, &err, "--codec", "zstd:5", "--foreground"));
    CHECK(c.codec == CODEC_ZSTD && c.codec_level == 5 && c.foreground);
    CHECK_OK(parse(&c, &err, "--local", "/s/", NULL));
    CHECK_OK(parse(&c, &err, "--help", NULL, NULL));
    CHECK(c.help);
    refused("--stor", "/x", "--stor");
    refused("--store", NULL, "needs a value");
    refused("--crew", "0", "from 1 to 64");
    refused("--crew", "-1", "from 1 to 64");
    refused("--crew", "2x", "from 1 to 64");
    refused("--slot-bytes", "7M", "8388608");
    refused("--slot-bytes", "129M", "8388608");
    refused("--slot-bytes", "8388609", "4096");
    refused("--io", "magic", "threads");
    refused("--codec", "lz4", "zstd");
    refused("--codec", "zstd:99", "19");
    refused("--socket", "relative", "absolute");
    tiers();
    /* Fate. */
    CHECK(!peer_cgroups_share_fate("0::/user.slice/a\n", "0::/user.slice/a\n", false));
    CHECK(peer_cgroups_share_fate("0::/user.slice/a\n", "0::/user.slice/a\n", true));
    CHECK(peer_cgroups_share_fate("0::/system.slice/slurmstepd.scope/job_1\n",
                                  "0::/system.slice/slurmstepd.scope/job_1\n", false));
    CHECK(!peer_cgroups_share_fate("0::/a/slurm/1\n", "0::/a/slurm/2\n", true));
    CHECK(peer_cgroups_share_fate("0::/kubepods/x\n", "0::/kubepods/x\n", false));
    CHECK(!peer_cgroups_share_fate("", "", true));
    /* Memory. */
    struct arena_room room;
    arena_room_from("MemTotal: 9\nMemAvailable:   16777216 kB\n", "0::/\n", "/nonexistent", &room);
    CHECK(room.available == 16 * GIB && room.cgroup == UINT64_MAX);
    CHECK_EQ(room.left, 16 * GIB - 256 * MIB);
    arena_room_from("MemAvailable: 1024 kB\n", "", "/nonexistent", &room);
    CHECK_EQ(room.left, MIB - MIB / 16);
    config_free(loaded);
    TEST_CASES(cases + 9);
    return 0;
}
