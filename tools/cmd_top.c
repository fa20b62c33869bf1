/* ckpt top: `ckpt status`, again and again, on one screen. */
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>

#include "tools/daemon_page.h"
#include "tools/output.h"
#include "tools/page_summary.h"
#include "tools/screen.h"

#define INTERVAL_MIN_MS 100
#define INTERVAL_MAX_MS 600000

struct top {
    const struct tool *tool;
    const char *socket;
    int interval_ms;
    int signal_fd;
    bool keys; /* standard input is a terminal */
    struct screen screen;
    json_t *page; /* the one before, for rates */
};

/* The page as text, or why there is none: malloc'ed; NULL: out of memory. */
static char *frame_text(struct top *t, enum ckpt_status *ret, struct ckpt_err *err)
{
    char *text = NULL;
    size_t len = 0;
    json_t *page = NULL;
    FILE *to = open_memstream(&text, &len);
    *ret = to ? daemon_page(t->tool, t->socket, &page, err)
              : err_set(err, CKPT_NO_MEMORY, "no memory for a screen");
    if (*ret == CKPT_OK) {
        *ret = page_summary_print(page, t->page, to, err);
    } else if (to) {
        output_line(to, "%s", err_text(err));
        fprintf(to, "\nasked again every %.1f s; q ends\n", (double)t->interval_ms / 1000);
    }
    json_decref(t->page);
    t->page = page;
    if (to && fclose(to) == 0)
        return text;
    free(text);
    return NULL;
}

static enum ckpt_status print_once(struct top *t, struct ckpt_err *err)
{
    enum ckpt_status st;
    CLEANUP_FREE char *text = frame_text(t, &st, err);
    if (st != CKPT_OK)
        return st;
    fputs(text ? text : "", stdout);
    return output_flush(err);
}

/* Waits when the line is slow: frames do not pile up. */
static bool send_all(const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDOUT_FILENO, bytes, len);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd p = { .fd = STDOUT_FILENO, .events = POLLOUT };
            (void)poll(&p, 1, 1000);
            continue;
        }
        if (n < 0 && errno != EINTR)
            return false;
        bytes += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

static bool draw(struct top *t)
{
    enum ckpt_status st;
    struct ckpt_err err = { 0 };
    size_t len = 0;
    screen_measure(&t->screen);
    CLEANUP_FREE char *text = frame_text(t, &st, &err);
    CLEANUP_FREE char *bytes = screen_draw(&t->screen, text ? text : "out of memory", &len);
    return !bytes || send_all(bytes, len);
}

/* A key or a signal: true if that is the end. */
static bool hear(struct top *t, const struct pollfd *p)
{
    struct signalfd_siginfo si;
    char keys[64];
    if (p[0].revents && read(t->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si) &&
        si.ssi_signo != SIGWINCH)
        return true;
    if (!t->keys || !p[1].revents)
        return false;
    ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));
    for (ssize_t i = 0; i < n; i++)
        if (keys[i] == 'q' || keys[i] == 'Q' || keys[i] == 3 || keys[i] == 4)
            return true;
    return n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN); /* the terminal is gone */
}

static void run_screen(struct top *t)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGWINCH);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGHUP);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    t->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    t->keys = isatty(STDIN_FILENO);
    screen_open(&t->screen);
    while (draw(t)) {
        struct pollfd p[2] = { { .fd = t->signal_fd, .events = POLLIN },
                               { .fd = t->keys ? STDIN_FILENO : -1, .events = POLLIN } };
        if (poll(p, 2, t->interval_ms) > 0 && hear(t, p))
            break;
    }
    screen_close(&t->screen);
    screen_fini(&t->screen);
    close(t->signal_fd);
}

static enum ckpt_status top(struct top *t, bool once, struct ckpt_err *err)
{
    bool tty = isatty(STDOUT_FILENO);
    if (t->tool->json) {
        json_t *page = NULL;
        enum ckpt_status st = daemon_page(t->tool, t->socket, &page, err);
        return st == CKPT_OK ? output_json(page, err) : st;
    }
    output_pin_colour(stdout); /* what is drawn goes through memory, which is no terminal */
    if (once || !tty)
        return print_once(t, err);
    run_screen(t);
    return CKPT_OK;
}

static bool parse_interval(const char *text, int *ret)
{
    char *end;
    double s = strtod(text, &end);
    if (end == text || *end || !(s * 1000 >= INTERVAL_MIN_MS && s * 1000 <= INTERVAL_MAX_MS))
        return false;
    *ret = (int)(s * 1000);
    return true;
}

static int run(struct tool *tool, int argc, char **argv)
{
    static const struct option options[] = { { "socket", required_argument, NULL, 's' },
                                             { "color", required_argument, NULL, 'c' },
                                             { "interval", required_argument, NULL, 'i' },
                                             { "once", no_argument, NULL, 'o' },
                                             { 0 } };
    struct top t = { .tool = tool, .interval_ms = 1000 };
    bool once = false;
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 's')
            t.socket = optarg;
        else if (c == 'o')
            once = true;
        else if (c != 'c' && c != 'i')
            return tool_bad_option("top", argv);
        else if (c == 'c' && !output_set_colour(optarg))
            return tool_misuse("top", "--color %s: auto, always or never", optarg);
        else if (c == 'i' && !parse_interval(optarg, &t.interval_ms))
            return tool_misuse("top", "--interval %s: 0.1 to 600 seconds", optarg);
    }
    if (optind != argc)
        return tool_misuse("top", "it takes no arguments");
    struct ckpt_err err = { 0 };
    enum ckpt_status st = top(&t, once, &err);
    json_decref(t.page);
    return st == CKPT_OK ? TOOL_FINE : tool_fail(st, &err);
}

const struct tool_verb cmd_top = {
    .name = "top",
    .arguments = "[--interval S] [--once] [--color WHEN] [--socket PATH]",
    .summary = "the same as status, on a screen that refreshes itself",
    .help =
        "Shows what \"ckpt status\" shows, with rates since the last look, until q is pressed.\n"
        "Any other key looks again at once.  A ckptd that ends or starts meanwhile is waited for.\n"
        "In a pipe it prints one frame and ends.\n"
        "\n"
        "  --interval S    seconds between looks, 0.1 to 600 (default 1)\n"
        "  --once          one frame, without a screen of its own\n"
        "  --color WHEN    auto (on a terminal without NO_COLOR), always or never\n"
        "  --socket PATH   ckptd's socket\n"
        "\n"
        "Exit status 3 when no ckptd listens and there is no screen to wait on.",
    .run = run,
};
