/* Finding the daemon, starting a private one, and the launch token. */
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "fakes/lib_fixture.h"
#include "formats/sockpath.h"

static int cases;
static char dir[64], runtime[80], program[80];

static void clean_env(void)
{
    static const char *const names[] = { "CKPT_LAUNCH",      "TORCHELASTIC_RESTART_COUNT",
                                         "GROUP_WORLD_SIZE", "SLURM_JOB_ID",
                                         "SLURM_STEP_ID",    "SLURM_RESTART_COUNT",
                                         "CKPT_SOCKET",      "CKPT_STORE",
                                         "CKPT_RESUME",      "CKPT_CKPTD" };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        unsetenv(names[i]);
    setenv("XDG_RUNTIME_DIR", dir, 1);
}

/* Opens with these options and says which token arrived. */
static const char *launch_of(struct fake_daemon *d, const struct ckpt_open_opts *o)
{
    static char text[300];
    struct ckpt *c = NULL;
    enum ckpt_status st = ckpt_open(o, &c);
    snprintf(text, sizeof(text), "%s", st == CKPT_OK ? fake_seen(d).launch : status_name(st));
    ckpt_close(c);
    cases++;
    return text;
}

static int give_token(void *ctx, void *buf, size_t len)
{
    if (ctx)
        snprintf(buf, len, "%s", (const char *)ctx);
    return 0;
}

static int fail_token(void *ctx, void *buf, size_t len)
{
    (void)ctx, (void)buf, (void)len;
    return -1;
}

static void tokens(void)
{
    struct fake_daemon *d = fake_start(NULL);
    struct ckpt_open_opts o = fix_opts(d);
    char first[300], huge[400], from_rank0[] = "from-rank-0";
    clean_env();
    snprintf(first, sizeof(first), "%s", launch_of(d, &o));
    CHECK(strncmp(first, "random-", 7) == 0 && strlen(first) == 31);
    CHECK(strcmp(first, launch_of(d, &o)) != 0);
    o.world = 2, o.rank = 1;
    CHECK_STR(launch_of(d, &o), "NO_LAUNCH");
    CHECK(strstr(ckpt_error(), "set CKPT_LAUNCH"));
    setenv("TORCHELASTIC_RESTART_COUNT", "2", 1);
    CHECK_STR(launch_of(d, &o), "NO_LAUNCH"); /* alone it is not enough */
    setenv("SLURM_JOB_ID", "77", 1);
    CHECK_STR(launch_of(d, &o), "slurm-77.0.0.2");
    setenv("SLURM_STEP_ID", "3", 1);
    setenv("SLURM_RESTART_COUNT", "4", 1);
    unsetenv("TORCHELASTIC_RESTART_COUNT");
    CHECK_STR(launch_of(d, &o), "slurm-77.3.4");
    setenv("CKPT_LAUNCH", "run7", 1);
    CHECK_STR(launch_of(d, &o), "run7");
    setenv("TORCHELASTIC_RESTART_COUNT", "2", 1);
    CHECK_STR(launch_of(d, &o), "run7.2");
    setenv("GROUP_WORLD_SIZE", "1", 1);
    CHECK_STR(launch_of(d, &o), "run7.2");
    setenv("GROUP_WORLD_SIZE", "8", 1);
    CHECK_STR(launch_of(d, &o), "NO_LAUNCH");
    CHECK(strstr(ckpt_error(), "8 elastic agents"));
    unsetenv("CKPT_LAUNCH");
    CHECK_STR(launch_of(d, &o), "slurm-77.3.4");
    o.broadcast = give_token, o.broadcast_ctx = from_rank0;
    CHECK_STR(launch_of(d, &o), "from-rank-0");
    o.launch = "mine";
    CHECK_STR(launch_of(d, &o), "mine");
    o.launch = NULL, o.broadcast_ctx = NULL;
    CHECK_STR(launch_of(d, &o), "NO_LAUNCH"); /* rank 0 sent nothing */
    o.rank = 0;
    CHECK(strncmp(launch_of(d, &o), "random-", 7) == 0);
    o.broadcast = fail_token;
    CHECK_STR(launch_of(d, &o), "NO_LAUNCH");
    o.broadcast = NULL;
    memset(huge, 'x', sizeof(huge));
    huge[256] = 0;
    o.launch = huge;
    CHECK_STR(launch_of(d, &o), "LIMIT");
    o.launch = NULL;
    clean_env();
    setenv("CKPT_LAUNCH", huge, 1);
    CHECK_STR(launch_of(d, &o), "LIMIT"); /* never cut: two would become one */
    huge[255] = 0;
    setenv("CKPT_LAUNCH", huge, 1);
    CHECK_STR(launch_of(d, &o), huge);
    o.mode = CKPT_READ;
    CHECK_STR(launch_of(d, &o), "");
    clean_env();
    fake_stop(d);
}

static enum ckpt_status try_open(struct ckpt_open_opts *o)
{
    struct ckpt *c = NULL;
    enum ckpt_status st = ckpt_open(o, &c);
    ckpt_close(c);
    cases++;
    return st;
}

static void sockets(void)
{
    struct ckpt_open_opts o = fix_opts(NULL);
    char path[300];
    clean_env();
    CHECK_FAILS(try_open(&o), CKPT_INVALID, "CKPT_STORE");
    o.socket = "/nonexistent/socket";
    CHECK_FAILS(try_open(&o), CKPT_UNREACHABLE, "no ckptd listens on /nonexistent/socket");
    memset(path, 'p', sizeof(path));
    path[200] = 0;
    o.socket = path;
    CHECK_FAILS(try_open(&o), CKPT_LIMIT, "too long");
    o.socket = NULL;
    setenv("CKPT_SOCKET", "/nonexistent/other", 1);
    CHECK_FAILS(try_open(&o), CKPT_UNREACHABLE, "/nonexistent/other");
    clean_env();
    /* The runtime directory must be ours alone. */
    o.store = "/tmp/store";
    CHECK(mkdir(runtime, 0755) == 0);
    CHECK(chmod(runtime, 0755) == 0);
    CHECK_FAILS(try_open(&o), CKPT_DENIED, "0700");
    CHECK(rmdir(runtime) == 0 && symlink("/tmp", runtime) == 0);
    CHECK_FAILS(try_open(&o), CKPT_DENIED, runtime);
    CHECK(unlink(runtime) == 0);
    if (geteuid() == 0) {
        CHECK(mkdir(runtime, 0700) == 0 && chown(runtime, 12345, 0) == 0);
        CHECK_FAILS(try_open(&o), CKPT_DENIED, "of this user");
        CHECK(rmdir(runtime) == 0);
    }
    /* A socket of this user and store. */
    CHECK(mkdir(runtime, 0700) == 0);
    char sock[SOCKPATH_MAX];
    CHECK_OK(sockpath_socket(geteuid(), dir, "/tmp/store", sock, NULL));
    struct fake_daemon *d = fake_start(sock);
    CHECK_OK(try_open(&o));
    o.store = "dir:///tmp//store/";
    CHECK_OK(try_open(&o));
    CHECK(chdir("/tmp") == 0);
    o.store = NULL;
    setenv("CKPT_STORE", "store", 1);
    CHECK_OK(try_open(&o));
    /* A later chdir changes nothing. */
    struct ckpt *c;
    struct fake_script s = fix_script();
    CHECK_OK(ckpt_open(&o, &c));
    CHECK(chdir("/") == 0);
    uint32_t before = fake_seen(d).resumed;
    fake_drop(d);
    fake_await(d, WIRE_HELLO, 5);
    CHECK_EQ(fake_seen(d).resumed, before + 1);
    ckpt_close(c);
    /* Connections that are closed at once: not tried for ever. */
    s.refuse_connections = true;
    o.store = "/tmp/store";
    fake_set(d, &s);
    CHECK_FAILS(try_open(&o), CKPT_DAEMON_GONE, "ended while the launch");
    fake_stop(d);
}

static void write_program(const char *text)
{
    FILE *f = fopen(program, "we");
    CHECK(f);
    fputs(text, f);
    CHECK(fclose(f) == 0);
    CHECK(chmod(program, 0755) == 0);
}

static void no_ckptd(void)
{
    struct ckpt_open_opts o = fix_opts(NULL);
    clean_env();
    o.store = "/tmp/store2";
    setenv("CKPT_CKPTD", "/nonexistent/ckptd", 1);
    CHECK_FAILS(try_open(&o), CKPT_UNREACHABLE, "(/nonexistent/ckptd) failed");
    setenv("CKPT_CKPTD", program, 1);
    write_program("#!/bin/sh\necho said why\nexit 3\n");
    CHECK_FAILS(try_open(&o), CKPT_UNREACHABLE, ".log");
    /* It says that it runs, but does not; also when nobody can ask for its status. */
    write_program("#!/bin/sh\nexit 0\n");
    CHECK_FAILS(try_open(&o), CKPT_UNREACHABLE, "starting a private one");
    signal(SIGCHLD, SIG_IGN);
    CHECK_FAILS(try_open(&o), CKPT_UNREACHABLE, "starting a private one");
    signal(SIGCHLD, SIG_DFL);
    CHECK(waitpid(-1, NULL, WNOHANG) < 0); /* no zombie */
}

/* A tiny private daemon: notes its arguments and descriptors, then keeps the listener for
 * a while without a word. */
static void starts_one(void)
{
    struct ckpt_open_opts o = fix_opts(NULL);
    char text[400], args[80], line[400] = "";
    clean_env();
    snprintf(args, sizeof(args), "%s/args", dir);
    snprintf(text, sizeof(text),
             "#!/bin/sh\n(echo \"$@\"; ls /proc/self/fd | tr '\\n' ' ') >%s\n"
             "sleep 3 >/dev/null 2>&1 &\nexit 0\n",
             args);
    write_program(text);
    setenv("CKPT_CKPTD", program, 1);
    CHECK(dup2(0, 60) == 60); /* a descriptor as trainers have them: inherited by children */
    o.store = "/tmp/store3";
    o.timeout_ms = 300;
    CHECK_FAILS(try_open(&o), CKPT_TIMEOUT, "did not answer");
    close(60);
    FILE *f = fopen(args, "re");
    CHECK(f && fgets(line, sizeof(line), f));
    CHECK(strstr(line, "--private --store /tmp/store3 --socket /tmp/") &&
          strstr(line, ".sock --listen-fd 3\n"));
    CHECK(fgets(line, sizeof(line), f) && !strstr(line, "60"));
    CHECK(strncmp(line, "0 1 2 3 ", 8) == 0);
    fclose(f);
    cases += 2;
}

/* The lines of dir/pids, each of them the process of one start; the last one. */
static int pids_started(pid_t *ret_last)
{
    char path[80], line[32];
    int n = 0;
    snprintf(path, sizeof(path), "%s/pids", dir);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f) && strchr(line, '\n')) {
        *ret_last = (pid_t)strtol(line, NULL, 10);
        n++;
    }
    if (f)
        fclose(f);
    return n;
}

static pid_t await_start(int count)
{
    pid_t pid = 0;
    while (pids_started(&pid) < count)
        usleep(5000);
    CHECK(pid > 0);
    return pid;
}

/* Notes its process, does what is said, and neither goes to the background nor ends. */
static void write_hanging(const char *first)
{
    char text[400];
    snprintf(text, sizeof(text), "#!/bin/sh\necho $$ >>%s/pids\n%s\nexec sleep 1000\n", dir, first);
    write_program(text);
    snprintf(text, sizeof(text), "%s/pids", dir);
    unlink(text);
    setenv("CKPT_CKPTD", program, 1);
}

/* It has the listener but says nothing: the open ends all the same, and leaves it alone. */
static void start_never_ends(void)
{
    struct ckpt_open_opts o = fix_opts(NULL);
    clean_env();
    write_hanging("");
    o.store = "/tmp/store4";
    o.timeout_ms = 300;
    CHECK_FAILS(try_open(&o), CKPT_TIMEOUT, "did not answer");
    pid_t pid = await_start(1);
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
}

/* The same when the transfer thread starts one, which does not even listen: no second one
 * beside it; one that ends is reaped and has a successor; ckpt_close does not wait for it. */
static void restart_never_ends(void)
{
    struct ckpt_open_opts o = fix_opts(NULL);
    struct ckpt *c;
    char sock[SOCKPATH_MAX];
    clean_env();
    write_hanging("exec 3>&-");
    o.store = "/tmp/store5";
    CHECK_OK(sockpath_socket(geteuid(), dir, "/tmp/store5", sock, NULL));
    struct fake_daemon *d = fake_start(sock);
    CHECK_OK(ckpt_open(&o, &c));
    fake_stop(d);
    pid_t first = await_start(1), last;
    while (access(sock, F_OK) == 0) /* until that start is given up */
        usleep(5000);
    usleep(300000); /* time enough for the mistake */
    CHECK_EQ(pids_started(&last), 1);
    CHECK(kill(first, SIGKILL) == 0);
    pid_t second = await_start(2);
    CHECK(kill(first, 0) < 0 && errno == ESRCH);
    ckpt_close(c);
    CHECK_EQ(pids_started(&last), 2);
    CHECK(kill(second, SIGKILL) == 0);
    CHECK_EQ(waitpid(second, NULL, 0), second);
    cases++;
}

int main(void)
{
    int fds = fix_open_fds();
    snprintf(dir, sizeof(dir), "/tmp/test-connect-XXXXXX");
    CHECK(mkdtemp(dir));
    snprintf(runtime, sizeof(runtime), "%s/ckpt", dir);
    snprintf(program, sizeof(program), "%s/ckptd-fake", dir);
    tokens();
    sockets();
    no_ckptd();
    starts_one();
    start_never_ends();
    restart_never_ends();
    CHECK_EQ(fix_open_fds(), fds);
    char rm[100];
    snprintf(rm, sizeof(rm), "rm -rf '%s'", dir);
    CHECK(system(rm) == 0);
    TEST_CASES(cases);
    return 0;
}
