/* See fault_kit.h. */
#include "s3/fault_kit.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

void fault_server_start(struct fault_server *f, const char *const *args)
{
    enum { ARGS = 24 };
    const char *argv[ARGS] = { "python3", S3_TESTS "/fault_server.py" };
    int pipe_fds[2], n = 2;
    char line[160] = "";
    for (; args && *args && n < ARGS - 1; args++)
        argv[n++] = *args;
    CHECK(pipe2(pipe_fds, O_CLOEXEC) == 0);
    f->pid = fork();
    CHECK(f->pid >= 0);
    if (f->pid == 0) {
        dup2(pipe_fds[1], 1);
        execvp("python3", (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(pipe_fds[1]);
    for (size_t at = 0; at < sizeof(line) - 1; at++) {
        if (read(pipe_fds[0], line + at, 1) != 1 || line[at] == '\n')
            break;
    }
    close(pipe_fds[0]);
    CHECK_EQ(sscanf(line, "%63s %63s", f->s3, f->control), 2);
}

void fault_server_stop(struct fault_server *f)
{
    kill(f->pid, SIGKILL);
    waitpid(f->pid, NULL, 0);
}

/* One exchange with the second address; the body of the answer, malloc'ed. */
static char *exchange(const struct fault_server *f, const char *method, const char *path,
                      const char *body)
{
    int port, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && sscanf(strchr(f->control, ':'), ":%d", &port) == 1);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
    dprintf(fd, "%s %s HTTP/1.0\r\nContent-Length: %zu\r\n\r\n%s", method, path, strlen(body),
            body);
    size_t cap = 1 << 20, len = 0;
    char *text = malloc(cap);
    CHECK(text);
    for (ssize_t n; (n = read(fd, text + len, cap - 1 - len)) > 0;)
        len += (size_t)n;
    close(fd);
    text[len] = 0;
    char *end = strstr(text, "\r\n\r\n");
    if (!end || !strstr(text, " 200 ")) {
        fprintf(stderr, "%s %s %s: %s\n", method, path, body, text);
        exit(1);
    }
    memmove(text, end + 4, strlen(end + 4) + 1);
    return text;
}

void fault_server_tell(const struct fault_server *f, const char *path, const char *json)
{
    free(exchange(f, "POST", path, json));
}

long long fault_server_count(const struct fault_server *f, const char *name)
{
    char *text = exchange(f, "GET", "/counts", "");
    json_t *all = json_loads(text, 0, NULL), *one = json_object_get(all, name), *value;
    const char *key;
    long long sum = json_integer_value(one);
    json_object_foreach(one, key, value) sum += json_integer_value(value);
    json_decref(all);
    free(text);
    return sum;
}

long long fault_server_objects(const struct fault_server *f)
{
    char *text = exchange(f, "GET", "/objects", "");
    json_t *all = json_loads(text, 0, NULL), *bucket;
    const char *name;
    long long count = 0;
    json_object_foreach(all, name, bucket) count += (long long)json_object_size(bucket);
    json_decref(all);
    free(text);
    return count;
}
