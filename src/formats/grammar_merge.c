/* grammar_merge.c: two schemas as one, and two schemas that have nothing in common.
 *
 * allOf, and keywords beside $ref, anyOf or oneOf, mean that a value satisfies both sides. Where both sides are plain keywords this
 * is one schema again: types and enums are cut, bounds take the stricter, required names are joined. A property gets both
 * sides' schemas as a new {"allOf": [a, b]}, which is merged when its turn comes, so nothing here goes deep. For a name that only
 * one side lists, the other side's additionalProperties counts; the same holds for items beyond prefixItems. Two different
 * patterns or formats have no single automaton here and are refused by name.
 *
 * New values are appended to `keep`, which holds them until the grammar is made.
 */
#include <math.h>
#include <string.h>

#include "formats/grammar_impl.h"

unsigned type_of_value(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return T_OBJECT;
    case JSON_ARRAY: return T_ARRAY;
    case JSON_STRING: return T_STRING;
    case JSON_INTEGER: return T_INTEGER;
    case JSON_REAL: return json_real_value(v) == floor(json_real_value(v)) ? T_INTEGER : T_FRACTION;
    case JSON_NULL: return T_NULL;
    default: return T_BOOL;
    }
}

bool json_same(const json_t *x, const json_t *y)
{
    if (json_is_number(x) && json_is_number(y))
        return json_number_value(x) == json_number_value(y);
    return json_equal(x, y);
}

static unsigned json_type_by_name(const json_t *v)
{
    static const struct { const char *name; unsigned type; } names[] = {
        { "null", T_NULL }, { "boolean", T_BOOL }, { "integer", T_INTEGER }, { "number", T_INTEGER | T_FRACTION },
        { "string", T_STRING }, { "array", T_ARRAY }, { "object", T_OBJECT },
    };
    for (size_t i = 0; json_is_string(v) && i < ARRAY_LEN(names); i++)
        if (strcmp(json_string_value(v), names[i].name) == 0)
            return names[i].type;
    return 0;
}

unsigned schema_types(const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type"), *values = json_object_get(schema, "enum"), *one = json_object_get(schema, "const");
    unsigned types = T_ALL, listed = 0;
    if (json_is_false(schema))
        return 0;
    if (type) {
        types = json_type_by_name(type);
        for (size_t i = 0; i < json_array_size(type); i++)
            types |= json_type_by_name(json_array_get(type, i));
    }
    for (size_t i = 0; i < json_array_size(values); i++)
        listed |= type_of_value(json_array_get(values, i));
    if (values)
        types &= listed;
    return one ? types & type_of_value(one) : types;
}

/* ---- both ---- */

static json_t *kept(struct builder *b, json_t *keep, json_t *fresh)
{
    if (!fresh || json_array_append_new(keep, fresh) != 0) {
        build_fail(b, HEARTH_ENOMEM, "no memory for the schema");
        return NULL;
    }
    return fresh;
}

/* A schema for both; NULL stands for "anything". */
static json_t *both(struct builder *b, json_t *keep, json_t *x, json_t *y)
{
    if (!x || json_is_true(x) || x == y)
        return y ? y : x;
    if (!y || json_is_true(y))
        return x;
    return kept(b, keep, json_pack("{s:[O,O]}", "allOf", x, y));
}

static void set(struct builder *b, json_t *object, const char *key, json_t *v)
{
    if (v && json_object_set(object, key, v) != 0)
        build_fail(b, HEARTH_ENOMEM, "no memory for the schema");
}

/* What a schema asks of a property it does not list. */
static json_t *unlisted(const json_t *schema) { return json_object_get(schema, "additionalProperties"); }

static void merge_objects(struct builder *b, json_t *keep, json_t *z, const json_t *x, const json_t *y)
{
    json_t *px = json_object_get(x, "properties"), *py = json_object_get(y, "properties"), *pz, *v, *required;
    const char *name;
    if (px || py) {
        if (!(pz = kept(b, keep, json_object())))
            return;
        json_object_foreach(px, name, v) {
            json_t *other = json_object_get(py, name);
            set(b, pz, name, both(b, keep, v, other ? other : unlisted(y)));
            build_step(b, 1);
        }
        json_object_foreach(py, name, v) {
            if (!json_object_get(px, name))
                set(b, pz, name, both(b, keep, v, unlisted(x)));
            build_step(b, 1);
        }
        set(b, z, "properties", pz);
    }
    set(b, z, "additionalProperties", both(b, keep, unlisted(x), unlisted(y)));
    if (json_object_get(x, "required") && json_object_get(y, "required")) {
        if (!(required = kept(b, keep, json_copy(json_object_get(x, "required")))))
            return;
        json_array_extend(required, json_object_get(y, "required"));
        set(b, z, "required", required);
    }
}

static json_t *item_at(const json_t *schema, size_t i)
{
    json_t *prefix = json_object_get(schema, "prefixItems");
    return i < json_array_size(prefix) ? json_array_get(prefix, i) : json_object_get(schema, "items");
}

static void merge_arrays(struct builder *b, json_t *keep, json_t *z, const json_t *x, const json_t *y)
{
    size_t n = MAX(json_array_size(json_object_get(x, "prefixItems")), json_array_size(json_object_get(y, "prefixItems")));
    json_t *prefix;
    if (n) {
        if (!(prefix = kept(b, keep, json_array())))
            return;
        for (size_t i = 0; i < n && build_step(b, 1); i++) {
            json_t *item = both(b, keep, item_at(x, i), item_at(y, i));
            json_array_append_new(prefix, item ? json_incref(item) : json_true());
        }
        set(b, z, "prefixItems", prefix);
    }
    set(b, z, "items", both(b, keep, json_object_get(x, "items"), json_object_get(y, "items")));
}

static void merge_values(struct builder *b, json_t *keep, json_t *z, const json_t *x, const json_t *y)
{
    json_t *vx = json_object_get(x, "enum"), *vy = json_object_get(y, "enum"), *list;
    if (!vx || !vy || !(list = kept(b, keep, json_array())))
        return;
    for (size_t i = 0; i < json_array_size(vx); i++)
        for (size_t k = 0; k < json_array_size(vy) && build_step(b, 1); k++)
            if (json_same(json_array_get(vx, i), json_array_get(vy, k))) {
                json_array_append(list, json_array_get(vx, i));
                break;
            }
    set(b, z, "enum", list);
}

static void merge_types(struct builder *b, json_t *keep, json_t *z, const json_t *x, const json_t *y)
{
    static const char *const names[] = { "null", "boolean", "integer", "number", "string", "array", "object" };
    json_t *list;
    unsigned types;
    if (!json_object_get(x, "type") || !json_object_get(y, "type") || !(list = kept(b, keep, json_array())))
        return;
    json_t *tx = json_pack("{s:O}", "type", json_object_get(x, "type")), *ty = json_pack("{s:O}", "type", json_object_get(y, "type"));
    types = schema_types(tx) & schema_types(ty);
    json_decref(tx);
    json_decref(ty);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        json_t *name = json_string(names[i]);
        unsigned t = json_type_by_name(name);
        if ((t & types) == t)
            json_array_append(list, name);
        json_decref(name);
    }
    set(b, z, "type", list);
}

json_t *schema_merge(struct builder *b, json_t *keep, json_t *x, json_t *y)
{
    static const char *const larger[] = { "minimum", "exclusiveMinimum", "minLength", "minItems" };
    static const char *const smaller[] = { "maximum", "exclusiveMaximum", "maxLength", "maxItems" };
    static const char *const special[] = { "properties", "additionalProperties", "required", "prefixItems", "items", "enum", "type" };
    json_t *z = kept(b, keep, json_copy(x)), *v;
    const char *key;
    if (!z)
        return NULL;
    json_object_foreach(y, key, v) {
        json_t *other = json_object_get(x, key);
        bool is_larger = false, is_smaller = false, is_special = false;
        for (size_t i = 0; i < ARRAY_LEN(larger); i++) {
            is_larger = is_larger || strcmp(key, larger[i]) == 0;
            is_smaller = is_smaller || strcmp(key, smaller[i]) == 0;
        }
        for (size_t i = 0; i < ARRAY_LEN(special); i++)
            is_special = is_special || strcmp(key, special[i]) == 0;
        if (!other)
            set(b, z, key, v);
        else if (is_larger ? json_number_value(v) > json_number_value(other) : is_smaller && json_number_value(v) < json_number_value(other))
            set(b, z, key, v);
        else if (!is_larger && !is_smaller && !is_special && !json_same(v, other))
            build_fail(b, HEARTH_EUNSUPPORTED, "the schema has two different \"%s\" for one value, which is not supported", key);
        if (!build_step(b, 1))
            return NULL;
    }
    merge_objects(b, keep, z, x, y);
    merge_arrays(b, keep, z, x, y);
    merge_values(b, keep, z, x, y);
    merge_types(b, keep, z, x, y);
    return b->st == HEARTH_OK ? z : NULL;
}

/* ---- apart ---- */

static bool has_value(const json_t *schema, const json_t *v)
{
    const json_t *one = json_object_get(schema, "const"), *values = json_object_get(schema, "enum");
    for (size_t i = 0; i < json_array_size(values); i++)
        if (json_same(json_array_get(values, i), v))
            return true;
    return one && json_same(one, v);
}

/* Both list their values, and no value is in both lists. */
static bool values_are_apart(const json_t *x, const json_t *y)
{
    const json_t *one = json_object_get(x, "const"), *values = json_object_get(x, "enum");
    if ((!one && !values) || (!json_object_get(y, "const") && !json_object_get(y, "enum")))
        return false;
    for (size_t i = 0; i < json_array_size(values); i++)
        if (has_value(y, json_array_get(values, i)))
            return false;
    return !one || !has_value(y, one);
}

static bool requires(const json_t *schema, const char *name)
{
    const json_t *list = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_is_string(json_array_get(list, i)) && strcmp(json_string_value(json_array_get(list, i)), name) == 0)
            return true;
    return false;
}

/* x wants a property that y forbids, or one whose values are apart. */
static bool objects_are_apart(const json_t *x, const json_t *y)
{
    const json_t *list = json_object_get(x, "required"), *px = json_object_get(x, "properties"), *py = json_object_get(y, "properties");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name)
            continue;
        const json_t *vx = json_object_get(px, name), *vy = json_object_get(py, name);
        if (!vy && json_is_false(unlisted(y)) && !json_object_get(y, "patternProperties"))
            return true;
        if (vx && vy && requires(y, name) && (values_are_apart(vx, vy) || !(schema_types(vx) & schema_types(vy))))
            return true;
    }
    return false;
}

static bool ends_before(const json_t *x, const json_t *y)
{
    const json_t *max = json_object_get(x, "maximum"), *below = json_object_get(x, "exclusiveMaximum");
    const json_t *min = json_object_get(y, "minimum"), *above = json_object_get(y, "exclusiveMinimum");
    const json_t *hi = below ? below : max, *lo = above ? above : min;
    if (!json_is_number(hi) || !json_is_number(lo))
        return false;
    return below || above ? json_number_value(hi) <= json_number_value(lo) : json_number_value(hi) < json_number_value(lo);
}

bool schemas_are_apart(const json_t *x, const json_t *y)
{
    unsigned both_types = schema_types(x) & schema_types(y);
    if (!both_types || values_are_apart(x, y))
        return true;
    if (both_types == T_OBJECT)
        return objects_are_apart(x, y) || objects_are_apart(y, x);
    if (!(both_types & ~(unsigned)(T_INTEGER | T_FRACTION)))
        return ends_before(x, y) || ends_before(y, x);
    return false;
}
