/* Opens, cuts and appends to the file of losses. */
#include "tools/examples/train_loss.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Where the lines of steps after `last_step` begin; a torn line counts as such. */
static off_t end_of_step(FILE *file, uint64_t last_step)
{
    char line[128];
    off_t end = 0;
    while (fgets(line, sizeof(line), file)) {
        char *rest;
        unsigned long long step = strtoull(line, &rest, 10);
        bool whole = false;
        for (const char *at = rest; *at; at++)
            whole = *at == '\n';
        if (rest == line || *rest != ' ' || !whole || step > last_step)
            break;
        end = ftello(file);
    }
    return end;
}

FILE *loss_open(const char *path, uint64_t resumed_step)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    FILE *file = fd >= 0 ? fdopen(fd, "r+") : NULL;
    if (!file) {
        fprintf(stderr, "%s: cannot open the file of losses: %m\n", path);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    off_t end = end_of_step(file, resumed_step);
    if (ftruncate(fd, end) != 0 || fseeko(file, end, SEEK_SET) != 0) {
        fprintf(stderr, "%s: cannot cut the file of losses after step %llu: %m\n", path,
                (unsigned long long)resumed_step);
        fclose(file);
        return NULL;
    }
    return file;
}

bool loss_add(FILE *file, uint64_t step, double loss)
{
    if (fprintf(file, "%llu %a\n", (unsigned long long)step, loss) > 0 && fflush(file) == 0)
        return true;
    fprintf(stderr, "cannot write the file of losses: %m\n");
    return false;
}
