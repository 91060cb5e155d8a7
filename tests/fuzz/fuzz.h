/* fuzz.h: what the fuzz targets share.
 *
 * A target defines LLVMFuzzerTestOneInput(data, n): it hands the bytes to one parser and CHECKs what must hold
 * whatever they are. libFuzzer calls it with inputs it invents; replay.c calls it with the files of the corpus.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Writes a file in a folder of this process (in memory where the machine has /dev/shm; removed at exit) and
 * returns its path: static storage, eight at a time. name must not contain '/'. */
const char *fuzz_file(const char *name, const void *data, size_t n);
/* The path alone; of the folder when name is "". */
const char *fuzz_path(const char *name);

#endif
