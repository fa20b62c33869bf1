/* Status pages in, metrics out: "LENGTH\n" and so many bytes, each way; -1 = refused. */
#include <stdio.h>

#include "ckptd/metrics_text.h"

int main(void)
{
    size_t len = 0;
    while (scanf("%zu", &len) == 1 && getchar() == '\n') {
        CLEANUP_FREE char *page = malloc(len + 1), *text = NULL;
        size_t text_len = 0;
        struct ckpt_err err = { 0 };
        if (!page || fread(page, 1, len, stdin) != len)
            return 1;
        if (metrics_text(page, len, &text, &text_len, &err) != CKPT_OK)
            printf("-1\n");
        else
            printf("%zu\n%.*s", text_len, (int)text_len, text);
        fflush(stdout);
    }
    return 0;
}
