/* oracle_f64.c: see oracle_f64.h.
 *
 * Two families: rotary decoders with RMSNorm (llama, phi3, qwen2, qwen3, gemma2, gemma3) and decoders with learned
 * positions and LayerNorm (opt, gpt-postln). Sequences are matrices [n, width] of doubles; attention for a token is
 * the softmax over all keys it may see, written out. O(n^2) on purpose.
 */
#include "oracle_f64.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

static double *new_rows(size_t n, size_t width)
{
    double *p = calloc(n * width + 1, sizeof *p);
    CHECK(p);
    return p;
}

static const float *weight(const struct tiny *t, size_t layer, const char *name)
{
    const float *w = tiny_layer(t, layer, name);
    CHECK(w);
    return w;
}

/* y[n, n_out] = x[n, n_in] W^T (+ bias) */
static void linear(double *y, const double *x, size_t n, const float *w, const float *bias, size_t n_in, size_t n_out)
{
    for (size_t i = 0; i < n; i++)
        for (size_t o = 0; o < n_out; o++) {
            double s = 0;
            for (size_t k = 0; k < n_in; k++)
                s += (double)w[o * n_in + k] * x[i * n_in + k];
            y[i * n_out + o] = s + (bias ? (double)bias[o] : 0);
        }
}

static void rms_norm(double *x, const float *w, size_t n)
{
    double ss = 0;
    for (size_t i = 0; i < n; i++)
        ss += x[i] * x[i];
    double r = 1 / sqrt(ss / (double)n + (double)1e-5f);
    for (size_t i = 0; i < n; i++)
        x[i] *= r * (double)w[i];
}

static void layer_norm(double *x, const float *w, const float *b, size_t n)
{
    double mean = 0, var = 0;
    for (size_t i = 0; i < n; i++)
        mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean) / (double)n;
    for (size_t i = 0; i < n; i++)
        x[i] = (x[i] - mean) / sqrt(var + (double)1e-5f) * (double)w[i] + (double)b[i];
}

static double capped(double x, double cap)
{
    return cap > 0 ? cap * tanh(x / cap) : x;
}

/* out[n, n_heads * d]; head h uses K/V head h / (n_heads / n_kv). Key j is visible to i when j <= i and, with a
 * window, i - j < window. */
static void attention(double *out, const double *q, const double *k, const double *v, size_t n, size_t n_heads, size_t n_kv,
                      size_t d, double scale, double cap, size_t window)
{
    double *p = new_rows(n, 1);
    for (size_t i = 0; i < n; i++)
        for (size_t h = 0; h < n_heads; h++) {
            const double *qi = q + (i * n_heads + h) * d;
            size_t g = h / (n_heads / n_kv), first = window && i + 1 > window ? i + 1 - window : 0;
            double best = -INFINITY, sum = 0;
            for (size_t j = first; j <= i; j++) {
                double s = 0;
                for (size_t e = 0; e < d; e++)
                    s += qi[e] * k[(j * n_kv + g) * d + e];
                p[j] = capped(s * scale, cap);
                best = fmax(best, p[j]);
            }
            for (size_t j = first; j <= i; j++)
                sum += p[j] = exp(p[j] - best);
            for (size_t e = 0; e < d; e++) {
                double o = 0;
                for (size_t j = first; j <= i; j++)
                    o += p[j] / sum * v[(j * n_kv + g) * d + e];
                out[(i * n_heads + h) * d + e] = o;
            }
        }
    free(p);
}

/* ---- rotary decoders ---- */

struct rope {
    double base, factor; /* factor: linear interpolation or YaRN */
    bool is_yarn;
    double original;     /* YaRN's context */
    const float *divisors; /* per pair; NULL: 1 */
    double magnitude;
    size_t n_rot;
    bool is_adjacent;    /* pairs (2i, 2i+1), else (i, i + n_rot / 2) */
};

/* The rotation of pair i per position. YaRN (arXiv:2309.00071, 3.2): wavelengths short against the original context
 * stay, long ones are interpolated, between beta 32 and 1 turns a linear ramp over pair numbers. */
static double frequency(const struct rope *r, size_t i)
{
    double d = (double)r->n_rot, f = pow(r->base, -2.0 * (double)i / d);
    if (r->divisors)
        f /= (double)r->divisors[i];
    if (!r->is_yarn)
        return f / r->factor;
    double low = floor(d * log(r->original / (32 * 2 * PI)) / (2 * log(r->base)));
    double high = ceil(d * log(r->original / (1 * 2 * PI)) / (2 * log(r->base)));
    low = fmax(low, 0);
    high = fmin(high, d - 1);
    double ramp = fmin(1, fmax(0, ((double)i - low) / fmax(high - low, 0.001)));
    return f * (1 - ramp) + f / r->factor * ramp;
}

static void rotate(const struct rope *r, double *x, size_t position)
{
    for (size_t i = 0; i < r->n_rot / 2; i++) {
        size_t a = r->is_adjacent ? 2 * i : i, b = r->is_adjacent ? 2 * i + 1 : i + r->n_rot / 2;
        double angle = (double)position * frequency(r, i), c = cos(angle) * r->magnitude, s = sin(angle) * r->magnitude;
        double xa = x[a], xb = x[b];
        x[a] = xa * c - xb * s;
        x[b] = xa * s + xb * c;
    }
}

static struct rope rope_of_layer(const struct tiny *t, bool is_local, size_t n_ctx)
{
    const struct tiny_spec *s = &t->spec;
    struct rope r = { .base = s->rope_base > 0 ? (double)(float)s->rope_base : 10000, .factor = s->rope_factor > 0 ? s->rope_factor : 1,
                      .magnitude = s->attn_factor > 0 ? (double)(float)s->attn_factor : 1,
                      .n_rot = s->n_rot ? s->n_rot : s->head_dim, .is_adjacent = strcmp(s->arch, "llama") == 0 };
    r.divisors = tiny_global(t, "rope_freqs.weight");
    if (s->has_long_factors)
        r.divisors = tiny_global(t, n_ctx > s->ctx_original ? "rope_factors_long.weight" : "rope_factors_short.weight");
    if (s->rope_scaling && strcmp(s->rope_scaling, "yarn") == 0) {
        r.is_yarn = true;
        r.original = (double)s->ctx_original;
        r.magnitude *= 1 + 0.1 * log(r.factor);
    }
    if (is_local && strcmp(s->arch, "gemma3") == 0) {
        r.base = 10000;
        r.factor = 1;
    }
    return r;
}

/* Fused q|k|v rows are split; separate ones are taken as they are. */
static void heads(const struct tiny *t, size_t layer, const double *x, size_t n, double *q, double *k, double *v)
{
    const struct tiny_spec *s = &t->spec;
    size_t e = s->n_embd, nq = s->n_heads * s->head_dim, nkv = s->n_kv_heads * s->head_dim;
    const float *fused = tiny_layer(t, layer, "attn_qkv.weight");
    if (fused) {
        linear(q, x, n, fused, NULL, e, nq);
        linear(k, x, n, fused + nq * e, NULL, e, nkv);
        linear(v, x, n, fused + (nq + nkv) * e, NULL, e, nkv);
        return;
    }
    linear(q, x, n, weight(t, layer, "attn_q.weight"), tiny_layer(t, layer, "attn_q.bias"), e, nq);
    linear(k, x, n, weight(t, layer, "attn_k.weight"), tiny_layer(t, layer, "attn_k.bias"), e, nkv);
    linear(v, x, n, weight(t, layer, "attn_v.weight"), tiny_layer(t, layer, "attn_v.bias"), e, nkv);
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static double gelu_tanh(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / PI) * (x + 0.044715 * x * x * x)));
}

static void gated_ffn(const struct tiny *t, size_t layer, double *x, size_t n)
{
    const struct tiny_spec *s = &t->spec;
    size_t e = s->n_embd, f = s->n_ff;
    bool is_gemma = strncmp(s->arch, "gemma", 5) == 0;
    double *gate = new_rows(n, f), *up = new_rows(n, f);
    const float *w_up = weight(t, layer, "ffn_up.weight"), *w_gate = tiny_layer(t, layer, "ffn_gate.weight");
    if (!w_gate) { /* phi3: gate rows first, then up rows, in one tensor */
        w_gate = w_up;
        w_up += f * e;
    }
    linear(gate, x, n, w_gate, tiny_layer(t, layer, "ffn_gate.bias"), e, f);
    linear(up, x, n, w_up, tiny_layer(t, layer, "ffn_up.bias"), e, f);
    for (size_t i = 0; i < n * f; i++)
        gate[i] = (is_gemma ? gelu_tanh(gate[i]) : silu(gate[i])) * up[i];
    linear(x, gate, n, weight(t, layer, "ffn_down.weight"), tiny_layer(t, layer, "ffn_down.bias"), f, e);
    free(gate);
    free(up);
}

/* Window or not. gemma2: every other layer is local, the first among them; gemma3: the last of each period is global. */
static bool is_local_layer(const struct tiny_spec *s, size_t layer)
{
    if (strcmp(s->arch, "gemma2") == 0)
        return layer % 2 == 0;
    if (strcmp(s->arch, "phi3") == 0) /* with a window, all are */
        return s->window > 0;
    return strcmp(s->arch, "gemma3") == 0 && (layer + 1) % (s->period ? s->period : 6) != 0;
}

static void rotary_layer(const struct tiny *t, size_t layer, double *x, size_t n, size_t n_ctx)
{
    const struct tiny_spec *s = &t->spec;
    size_t e = s->n_embd, d = s->head_dim, nq = s->n_heads * d, nkv = s->n_kv_heads * d;
    bool is_local = is_local_layer(s, layer);
    struct rope rope = rope_of_layer(t, is_local, n_ctx);
    double *h = new_rows(n, e), *q = new_rows(n, nq), *k = new_rows(n, nkv), *v = new_rows(n, nkv), *o = new_rows(n, nq);
    const float *q_norm = tiny_layer(t, layer, "attn_q_norm.weight"), *k_norm = tiny_layer(t, layer, "attn_k_norm.weight");
    const float *post_attn = tiny_layer(t, layer, "post_attention_norm.weight"), *post_ffn = tiny_layer(t, layer, "post_ffw_norm.weight");

    memcpy(h, x, n * e * sizeof *h);
    for (size_t i = 0; i < n; i++)
        rms_norm(h + i * e, weight(t, layer, "attn_norm.weight"), e);
    heads(t, layer, h, n, q, k, v);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < s->n_heads; j++) {
            if (q_norm)
                rms_norm(q + i * nq + j * d, q_norm, d);
            rotate(&rope, q + i * nq + j * d, i);
        }
        for (size_t j = 0; j < s->n_kv_heads; j++) {
            if (k_norm)
                rms_norm(k + i * nkv + j * d, k_norm, d);
            rotate(&rope, k + i * nkv + j * d, i);
        }
    }
    attention(o, q, k, v, n, s->n_heads, s->n_kv_heads, d, 1 / sqrt((double)d), s->attn_cap, is_local ? s->window : 0);
    linear(h, o, n, weight(t, layer, "attn_output.weight"), tiny_layer(t, layer, "attn_output.bias"), nq, e);
    for (size_t i = 0; i < n && post_attn; i++)
        rms_norm(h + i * e, post_attn, e);
    for (size_t i = 0; i < n * e; i++)
        x[i] += h[i];

    memcpy(h, x, n * e * sizeof *h);
    for (size_t i = 0; i < n; i++)
        rms_norm(h + i * e, weight(t, layer, "ffn_norm.weight"), e);
    gated_ffn(t, layer, h, n);
    for (size_t i = 0; i < n && post_ffn; i++)
        rms_norm(h + i * e, post_ffn, e);
    for (size_t i = 0; i < n * e; i++)
        x[i] += h[i];
    free(h), free(q), free(k), free(v), free(o);
}

static void rotary_decoder(double *logits, const struct tiny *t, const int32_t *tokens, size_t n, size_t n_ctx)
{
    const struct tiny_spec *s = &t->spec;
    size_t e = s->n_embd;
    double *x = new_rows(n, e), scale = strncmp(s->arch, "gemma", 5) == 0 ? sqrt((double)e) : 1;
    const float *embd = tiny_global(t, "token_embd.weight"), *head = tiny_global(t, "output.weight");
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < e; k++)
            x[i * e + k] = scale * (double)embd[(size_t)tokens[i] * e + k];
    for (size_t layer = 0; layer < s->n_layers; layer++)
        rotary_layer(t, layer, x, n, n_ctx);
    for (size_t i = 0; i < n; i++)
        rms_norm(x + i * e, tiny_global(t, "output_norm.weight"), e);
    linear(logits, x, n, head ? head : embd, NULL, e, s->n_vocab);
    for (size_t i = 0; i < n * s->n_vocab; i++)
        logits[i] = capped(logits[i], s->final_cap);
    free(x);
}

/* ---- learned positions ---- */

static void self_attention(const struct tiny *t, size_t layer, double *h, size_t n)
{
    const struct tiny_spec *s = &t->spec;
    size_t w = s->n_heads * s->head_dim;
    double *q = new_rows(n, w), *k = new_rows(n, w), *v = new_rows(n, w), *o = new_rows(n, w);
    heads(t, layer, h, n, q, k, v);
    attention(o, q, k, v, n, s->n_heads, s->n_heads, s->head_dim, 1 / sqrt((double)s->head_dim), 0, 0);
    linear(h, o, n, weight(t, layer, "attn_output.weight"), weight(t, layer, "attn_output.bias"), w, s->n_embd);
    free(q), free(k), free(v), free(o);
}

static void relu_ffn(const struct tiny *t, size_t layer, double *h, size_t n)
{
    const struct tiny_spec *s = &t->spec;
    double *up = new_rows(n, s->n_ff);
    linear(up, h, n, weight(t, layer, "ffn_up.weight"), weight(t, layer, "ffn_up.bias"), s->n_embd, s->n_ff);
    for (size_t i = 0; i < n * s->n_ff; i++)
        up[i] = up[i] > 0 ? up[i] : 0;
    linear(h, up, n, weight(t, layer, "ffn_down.weight"), weight(t, layer, "ffn_down.bias"), s->n_ff, s->n_embd);
    free(up);
}

/* One half of a layer. Pre-norm (opt): x += f(ln(x)); post-norm: x = ln(x + f(x)). */
static void half(const struct tiny *t, size_t layer, double *x, size_t n, const char *norm, bool is_post,
                 void (*f)(const struct tiny *, size_t, double *, size_t))
{
    size_t e = t->spec.n_embd;
    char w[32], b[32];
    double *h = new_rows(n, e);
    snprintf(w, sizeof w, "%s.weight", norm);
    snprintf(b, sizeof b, "%s.bias", norm);
    memcpy(h, x, n * e * sizeof *h);
    for (size_t i = 0; i < n && !is_post; i++)
        layer_norm(h + i * e, weight(t, layer, w), weight(t, layer, b), e);
    f(t, layer, h, n);
    for (size_t i = 0; i < n * e; i++)
        x[i] += h[i];
    for (size_t i = 0; i < n && is_post; i++)
        layer_norm(x + i * e, weight(t, layer, w), weight(t, layer, b), e);
    free(h);
}

static void learned_decoder(double *logits, const struct tiny *t, const int32_t *tokens, size_t n)
{
    const struct tiny_spec *s = &t->spec;
    size_t e = s->n_embd, offset = strcmp(s->arch, "opt") == 0 ? 2 : 0;
    bool is_post = strcmp(s->arch, "gpt-postln") == 0;
    const float *embd = tiny_global(t, "token_embd.weight"), *head = tiny_global(t, "output.weight");
    const float *positions = tiny_global(t, "position_embd.weight");
    double *x = new_rows(n, e);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < e; k++)
            x[i * e + k] = (double)embd[(size_t)tokens[i] * e + k] + (double)positions[(i + offset) * e + k];
    for (size_t layer = 0; layer < s->n_layers; layer++) {
        half(t, layer, x, n, "attn_norm", is_post, self_attention);
        half(t, layer, x, n, "ffn_norm", is_post, relu_ffn);
    }
    for (size_t i = 0; i < n; i++)
        layer_norm(x + i * e, tiny_global(t, "output_norm.weight"), tiny_global(t, "output_norm.bias"), e);
    linear(logits, x, n, head ? head : embd, NULL, e, s->n_vocab);
    free(x);
}

void oracle_logits(double *logits, const struct tiny *t, const int32_t *tokens, size_t n, size_t n_ctx)
{
    if (tiny_global(t, "position_embd.weight"))
        learned_decoder(logits, t, tokens, n);
    else
        rotary_decoder(logits, t, tokens, n, n_ctx);
}
