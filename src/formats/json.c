/* json.c: JSON text of hostile origin to jansson values.
 *
 * jansson parses; this file stands in front of it. A scan of the raw text, which needs no grammar beyond
 * "inside a string or not", finds how deep it nests and how many values it can hold at most, so that a text
 * is refused before memory is taken for it: jansson's values can take 20 to 76 times the text
 * ("[],[],[]..."), and its parser and its json_decref call themselves once per level. Duplicate keys are
 * refused (two readers of a file must see the same value), NUL inside strings is allowed (callers use
 * lengths; in keys jansson refuses it). Its object hash is seeded per process, so prepared keys do not
 * collide. Costs: one pass over the text. Left out: streaming.
 */
#include <inttypes.h>
#include <string.h>

#include "formats/json.h"

enum hearth_status json_scan(const char *text, size_t n, size_t max_depth, size_t max_values,
                             const char *what, struct err *e)
{
    size_t depth = 0, n_values = 1;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == 0) /* jansson takes a bare NUL for the end of what it has buffered and goes on behind it */
            return err_set(e, HEARTH_EDAMAGED, "%s: not JSON: a NUL byte at byte %zu", what, i);
        if (in_string) {
            if (c == '\\')
                i += i + 1 < n && text[i + 1] != 0; /* what is escaped ends nothing */
            else if (c == '"')
                in_string = false;
            continue;
        }
        switch (c) {
        case '"':
            in_string = true;
            break;
        case '[':
        case '{':
            depth++;
            n_values++;
            break;
        case ']':
        case '}':
            depth -= depth > 0;
            break;
        case ',':
            n_values++;
            break;
        default:
            break;
        }
        if (depth > max_depth)
            return err_set(e, HEARTH_ELIMIT, "%s: nested deeper than %zu levels at byte %zu", what, max_depth,
                           i);
        if (n_values > max_values)
            return err_set(e, HEARTH_ELIMIT, "%s: holds more than %zu values", what, max_values);
    }
    return HEARTH_OK;
}

enum hearth_status json_parse(json_t **out, const char *text, size_t n, const char *what, struct err *e)
{
    json_error_t je = { .line = -1 };
    enum hearth_status st = json_scan(text, n, LIMIT_JSON_DEPTH, SIZE_MAX, what, e);
    *out = NULL;
    if (st != HEARTH_OK)
        return st;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &je);
    if (*out)
        return HEARTH_OK;
    if (json_error_code(&je) == json_error_out_of_memory)
        return err_set(e, HEARTH_ENOMEM, "%s: no memory for its %zu bytes of JSON", what, n);
    return err_set(e, HEARTH_EDAMAGED, "%s: line %d, column %d: not JSON: %s", what, je.line, je.column,
                   je.text);
}
