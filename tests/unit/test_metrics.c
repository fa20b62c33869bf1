/* Where metrics are served: addresses taken and refused, the port really listening. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>

#include "ckptd/metrics.h"

#include "check.h"

static long cases;

static void refused(const char *address)
{
    struct ckpt_err err = { 0 };
    int fd = -7;
    CHECK_EQ(metrics_listen(address, 0, &fd, &err), CKPT_INVALID);
    CHECK(strstr(err.text, "--metrics") && fd == -7);
    cases++;
}

/* Listens at some free port of the address; returns which. */
static unsigned taken(const char *before, int family, const char *where, int *ret_fd)
{
    struct ckpt_err err = { 0 };
    char address[64], host[64];
    enum ckpt_status st = CKPT_IO;
    unsigned port = 20000 + (unsigned)getpid() % 20000;
    for (int i = 0; i < 1000 && st != CKPT_OK; i++, port++) {
        snprintf(address, sizeof(address), "%s%u", before, port);
        st = metrics_listen(address, 0, ret_fd, &err);
        if (family == AF_INET6 && st != CKPT_OK && strstr(err.text, "family"))
            return 0; /* this machine has no IPv6 */
    }
    CHECK_OK(st);
    struct sockaddr_storage a;
    socklen_t len = sizeof(a);
    CHECK_EQ(getsockname(*ret_fd, (struct sockaddr *)&a, &len), 0);
    CHECK_EQ(a.ss_family, family);
    const void *bytes = family == AF_INET6 ? (const void *)&((struct sockaddr_in6 *)&a)->sin6_addr
                                           : (const void *)&((struct sockaddr_in *)&a)->sin_addr;
    CHECK(inet_ntop(family, bytes, host, sizeof(host)));
    CHECK_STR(host, where);
    cases++;
    return port - 1;
}

/* The server of a ckptd that is gone already. */
static void *leave_late(void *arg)
{
    usleep(200000);
    close(*(int *)arg);
    return NULL;
}

int main(void)
{
    pthread_t leaving;
    int fd = -1, other = -1;
    struct ckpt_err err = { 0 };
    char again[32];
    static const char *const bad[] = {
        "",
        ":",
        ":80",
        "0",
        "65536",
        "99999999999",
        "80x",
        "-1",
        "+80",
        " 80",
        "localhost:80",
        "1.2.3.4.5:80",
        "1.2.3.4:",
        "::1:80",
        "[::1:80",
        "[::1]80",
        "[::1]:",
        "[]:80",
        "http://x:1",
        "1.2.3.4:0",
        "1.2.3.4:8080808080",
        "[11111111111111111111111111111111111111111111111111111111111111111111111111111]:80",
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        refused(bad[i]);
    unsigned port = taken("", AF_INET, "127.0.0.1", &fd);
    snprintf(again, sizeof(again), "127.0.0.1:%u", port);
    CHECK(metrics_listen(again, 50, &other, &err) != CKPT_OK && strstr(err.text, again));
    CHECK_EQ(pthread_create(&leaving, NULL, leave_late, &fd), 0);
    CHECK_OK(metrics_listen(again, 60000, &other, &err));
    pthread_join(leaving, NULL);
    close(other);
    (void)taken("127.0.0.1:", AF_INET, "127.0.0.1", &fd);
    close(fd);
    (void)taken("0.0.0.0:", AF_INET, "0.0.0.0", &fd);
    close(fd);
    if (taken("[::1]:", AF_INET6, "::1", &fd) > 0)
        close(fd);
    /* No ckptd-metrics lies beside this test. */
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(metrics_start(0, "/no/socket", &err), CKPT_UNSUPPORTED);
    CHECK(strstr(err.text, "ckptd-metrics"));
    TEST_CASES(cases + 4);
    return 0;
}
