/* ckpt status: what the ckptd of this node is doing. */
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "formats/sockpath.h"
#include "formats/wire.h"
#include "tools/output.h"
#include "tools/page_view.h"
#include "tools/tool.h"

#define ANSWER_MS  10000
#define PAGE_BYTES (UINT64_C(256) << 20)

static enum ckpt_status dial(const char *path, int *ret, struct ckpt_err *err)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    memcpy(a.sun_path, path, strlen(path) + 1);
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(err, errno, "cannot make a socket");
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0) {
        *ret = TAKE_FD(fd);
        return CKPT_OK;
    }
    if (errno != ENOENT && errno != ECONNREFUSED)
        return err_errno(err, errno, "cannot reach ckptd at %s", path);
    return err_set(err, CKPT_NOT_FOUND,
                   "no ckptd listens at %s.  One is started by the first trainer, or by hand: "
                   "ckptd --store DIR --socket PATH.  The other verbs need none",
                   path);
}

static enum ckpt_status page_of(const struct wire_msg *m, json_t **ret, struct ckpt_err *err)
{
    struct stat stat;
    json_error_t why;
    const void *text;
    if (m->head.type != WIRE_STATUS_OK || m->fd_count != 1 || fstat(m->fds[0], &stat) != 0 ||
        stat.st_size < 0 || (uint64_t)stat.st_size > PAGE_BYTES)
        return err_set(err, CKPT_CORRUPT, "ckptd answered with %s and no status page",
                       wire_type_name(m->head.type));
    size_t len = (size_t)stat.st_size;
    enum ckpt_status st = wire_memfd_map(m->fds[0], len, &text, err);
    if (st != CKPT_OK)
        return st;
    json_t *page = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    munmap((void *)(uintptr_t)text, len);
    if (!page)
        return err_set(err, CKPT_CORRUPT, "ckptd's status page is no JSON: %s", why.text);
    *ret = page;
    return CKPT_OK;
}

static enum ckpt_status ask(int fd, json_t **ret, struct ckpt_err *err)
{
    struct wire_msg *m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(err, CKPT_NO_MEMORY, "no memory for a message");
    wire_begin(m, WIRE_STATUS, NULL);
    enum ckpt_status st = wire_send(fd, m, err);
    struct pollfd p = { .fd = fd, .events = POLLIN };
    if (st == CKPT_OK && poll(&p, 1, ANSWER_MS) <= 0)
        st = err_set(err, CKPT_TIMEOUT, "ckptd did not answer within %d s", ANSWER_MS / 1000);
    if (st == CKPT_OK) {
        st = wire_recv(fd, m, err);
        if (st == CKPT_OK) {
            st = page_of(m, ret, err);
            wire_close_fds(m);
        }
    }
    free(m);
    return st;
}

static enum ckpt_status status(const struct tool *t, const char *socket, struct ckpt_err *err)
{
    char path[SOCKPATH_MAX];
    CLEANUP_FD int fd = -1;
    json_t *page = NULL;
    enum ckpt_status st = tool_socket(t, socket, path, err);
    if (st == CKPT_OK)
        st = dial(path, &fd, err);
    if (st == CKPT_OK)
        st = ask(fd, &page, err);
    if (st != CKPT_OK)
        return st;
    if (t->json)
        return output_json(page, err);
    st = page_view_print(page, stdout, err);
    json_decref(page);
    return st == CKPT_OK ? output_flush(err) : st;
}

static int run(struct tool *t, int argc, char **argv)
{
    static const struct option options[] = { { "socket", required_argument, NULL, 's' }, { 0 } };
    const char *socket = NULL;
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c != 's')
            return tool_bad_option("status", argv);
        socket = optarg;
    }
    if (optind != argc)
        return tool_misuse("status", "it takes no arguments");
    struct ckpt_err err = { 0 };
    enum ckpt_status st = status(t, socket, &err);
    return st == CKPT_OK ? TOOL_FINE : tool_fail(st, &err);
}

const struct tool_verb cmd_status = {
    .name = "status",
    .arguments = "[--socket PATH]",
    .summary = "what this node's ckptd is doing: sessions, saves, slots, store",
    .help = "Asks the running ckptd.  Which one: --socket, else CKPT_SOCKET, else the one of this\n"
            "user for --store.  Exit status 3 when none listens there.\n"
            "\n"
            "  --socket PATH   ckptd's socket\n"
            "\n"
            "--json prints the page as ckptd gives it.",
    .run = run,
};
