/* unicode.c: characters for the tokenizers: UTF-8 taken apart, the classes that vocabularies speak of, the byte
 * alphabet.
 *
 * Problem: text comes from anywhere, so it may hold anything. utf8_take never reads past n, never returns 0, and
 * reports a bad sequence by its maximal bad part (Unicode 15, section 3.9, "U+FFFD Substitution of Maximal
 * Subparts"), which is what decoders elsewhere do, so that lengths agree with them.
 *
 * Classes come from utf8proc's tables (Unicode 15). White space is the White_Space property, spelled out, as
 * utf8proc has no call for it.
 *
 * The byte alphabet is GPT-2's: bytes that print stand for themselves, the other 68 for U+0100 and on, in order.
 */
#include "formats/tokenizer_impl.h"

#include <string.h>

#include <utf8proc.h>

size_t utf8_take(const char *p, size_t n, uint32_t *cp, bool *is_valid)
{
    const uint8_t *b = (const uint8_t *)p;
    uint8_t lo = 0x80, hi = 0xBF; /* of the second byte; the others are always 80..BF */
    size_t need, i;
    uint32_t c = b[0];
    *is_valid = true;
    *cp = c;
    if (c < 0x80)
        return 1;
    if (c >= 0xC2 && c <= 0xDF) {
        need = 2, c &= 0x1F;
    } else if (c >= 0xE0 && c <= 0xEF) {
        lo = c == 0xE0 ? 0xA0 : 0x80, hi = c == 0xED ? 0x9F : 0xBF; /* no overlong forms, no surrogates */
        need = 3, c &= 0x0F;
    } else if (c >= 0xF0 && c <= 0xF4) {
        lo = c == 0xF0 ? 0x90 : 0x80, hi = c == 0xF4 ? 0x8F : 0xBF; /* nothing above U+10FFFF */
        need = 4, c &= 0x07;
    } else {
        need = 1; /* a continuation byte, C0, C1, F5..FF */
    }
    for (i = 1; i < need && i < n && b[i] >= lo && b[i] <= hi; i++) {
        c = c << 6 | (b[i] & 0x3F);
        lo = 0x80, hi = 0xBF;
    }
    if (need == 1 || i < need) {
        *cp = 0xFFFD;
        *is_valid = false;
        return i;
    }
    *cp = c;
    return need;
}

size_t utf8_put(char out[4], uint32_t cp)
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)cp, (utf8proc_uint8_t *)out);
}

size_t utf8_len(const char *p, size_t n)
{
    uint8_t c = (uint8_t)*p;
    size_t len = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    return MIN(len, n);
}

size_t utf8_floor(const char *p, size_t at)
{
    while (at > 0 && ((uint8_t)p[at] & 0xC0) == 0x80)
        at--;
    return at;
}

bool cp_is_space(uint32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0D) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

static utf8proc_category_t category(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp);
}

bool cp_is_word(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_ME) || c == UTF8PROC_CATEGORY_ND ||
           c == UTF8PROC_CATEGORY_PC;
}

bool cp_is_punctuation(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool cp_is_symbol(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_SM && c <= UTF8PROC_CATEGORY_SO;
}

bool cp_is_control(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_CS ||
           c == UTF8PROC_CATEGORY_CO;
}

bool cp_is_mark_nonspacing(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_MN;
}

static bool stands_for_itself(uint32_t byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

uint32_t byte_to_alphabet(uint8_t byte)
{
    if (stands_for_itself(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte; /* 00..20: the first 33 */
    if (byte <= 0xA0)
        return 0x100u + 33 + (byte - 0x7Fu); /* 7F..A0: the next 34 */
    return 0x100u + 67; /* AD */
}

int alphabet_to_byte(uint32_t cp)
{
    if (cp < 0x100)
        return stands_for_itself(cp) ? (int)cp : -1;
    cp -= 0x100;
    if (cp < 33)
        return (int)cp;
    if (cp < 67)
        return (int)(cp - 33 + 0x7F);
    return cp == 67 ? 0xAD : -1;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int byte_token_value(struct str text)
{
    if (text.n != 6 || memcmp(text.p, "<0x", 3) != 0 || text.p[5] != '>')
        return -1;
    int high = hex_digit(text.p[3]), low = hex_digit(text.p[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}
