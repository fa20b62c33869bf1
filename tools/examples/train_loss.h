/* The file of losses: one line "step loss" per step, the loss with all its bits as hex float.
 *
 * A resumed run cuts off what lies after the step it resumes from and writes those lines again;
 * if training is deterministic, the file ends up equal to that of an uninterrupted run.  Lines are
 * written at once, so they survive SIGKILL of the trainer (not a power cut: nothing is fsynced). */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Keeps the lines up to `resumed_step` (0: none) and appends after them.  NULL: said why. */
FILE *loss_open(const char *path, uint64_t resumed_step);
/* False: said why. */
bool loss_add(FILE *file, uint64_t step, double loss);
