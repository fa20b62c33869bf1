/* Writes the samples as files: make_golden DIRECTORY.  Run once per format version;
 * the files are then committed and never written again. */
#include <stdio.h>

#include "golden/samples.h"

#include "check.h"

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_golden DIRECTORY\n");
        return 2;
    }
    for (unsigned i = 0; i < SAMPLES; i++) {
        const struct sample *s = sample_at(i);
        CLEANUP_BUF struct buf bytes = { 0 };
        char path[4096];
        s->encode(&bytes);
        snprintf(path, sizeof(path), "%s/%s", argv[1], s->file);
        FILE *f = fopen(path, "wxe"); /* refuses to overwrite */
        if (!f || fwrite(bytes.data, 1, bytes.len, f) != bytes.len || fclose(f) != 0) {
            perror(path);
            return 1;
        }
    }
    return 0;
}
