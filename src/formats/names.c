/* names.c: see names.h, and the small functions on struct str that every format uses.
 *
 * SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF") is written out here in thirty lines
 * because no library we depend on exports one. One compression round per 8 bytes, three at the end; the last
 * word holds the length, so that a name and the same name with zero bytes behind it differ. Left out:
 * removal, growth.
 */
#include "formats/names.h"

#include <string.h>

bool str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

bool str_eqz(struct str a, const char *b)
{
    return str_eq(a, (struct str){ b, strlen(b) });
}

static uint64_t rotate(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static uint64_t hash_name(const uint64_t key[2], struct str s)
{
    uint64_t v[4] = { key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du,
                      key[0] ^ 0x6c7967656e657261u, key[1] ^ 0x7465646279746573u };
    for (size_t at = 0; at <= s.n; at += 8) {
        uint8_t word[8] = { 0 };
        size_t n = MIN((size_t)8, s.n - at);
        uint64_t m;
        if (n)
            memcpy(word, s.p + at, n);
        m = load_le64(word) | (n < 8 ? (uint64_t)s.n << 56 : 0);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static struct str name_of(const struct names *t, size_t i)
{
    struct str s;
    memcpy(&s, (const char *)t->entries + i * t->stride, sizeof s);
    return s;
}

bool names_init(struct names *t, const void *entries, size_t stride, size_t n_max, struct arena *a)
{
    size_t n_slots = 4;
    CHECK(n_max < UINT32_MAX / 4);
    while (n_slots < 2 * n_max)
        n_slots *= 2;
    *t = (struct names){ .entries = entries, .stride = stride, .mask = n_slots - 1 };
    random_bytes(t->key, sizeof t->key);
    t->slots = ARENA_NEW(a, uint32_t, n_slots);
    return t->slots != NULL;
}

/* The slot where the name is, or the free one where it belongs. */
static size_t probe(const struct names *t, struct str name)
{
    size_t i = (size_t)hash_name(t->key, name) & t->mask;
    while (t->slots[i] && !str_eq(name_of(t, t->slots[i] - 1), name))
        i = (i + 1) & t->mask;
    return i;
}

size_t names_add(struct names *t, size_t i)
{
    size_t slot = probe(t, name_of(t, i));
    if (t->slots[slot])
        return t->slots[slot] - 1;
    t->slots[slot] = (uint32_t)i + 1;
    return NAMES_NONE;
}

size_t names_find(const struct names *t, struct str name)
{
    size_t slot;
    if (!t->slots)
        return NAMES_NONE;
    slot = probe(t, name);
    return t->slots[slot] ? t->slots[slot] - 1 : NAMES_NONE;
}
