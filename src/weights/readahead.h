/* readahead.h: parts of files brought into the page cache ahead of their use; private to this folder. */
#ifndef WEIGHTS_READAHEAD_H
#define WEIGHTS_READAHEAD_H

#include "base/base.h"

struct file_range {
    size_t i_file;
    uint64_t offset, n_bytes;
};

struct readahead;
/* Starts reading the ranges, in their order, in a thread of its own, when they are not in the page cache. files and ranges
 * must stay until readahead_close. NULL: nothing is to be read, or no thread could be had. */
struct readahead *readahead_open(const struct file *files, const struct file_range *ranges, size_t n);
void readahead_close(struct readahead *r); /* stops within a piece; accepts NULL */

#endif
