/* json.h: the scan in front of jansson; private to formats/ (json_parse is in formats.h). */
#ifndef FORMATS_JSON_H
#define FORMATS_JSON_H

#include "formats/formats.h"

/* ELIMIT when the text nests deeper or may hold more values (also counting objects and arrays) than allowed. Looks
 * only at quotes, brackets and commas: what passes need not be JSON. EDAMAGED for a bare NUL byte. */
MUST_CHECK enum hearth_status json_scan(const char *text, size_t n, size_t max_depth, size_t max_values, const char *what,
                                     struct err *e);

#endif
