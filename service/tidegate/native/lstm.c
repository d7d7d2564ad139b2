/* The LSTM step, with as few passes over memory as there can be.

   `begin` lays the inputs beside the sessions' h. A layer is one product (product.h), which `gates` turns into new c and
   h. At the end, `finish` writes the new states of finite rows to their slots.

   A row's result depends on that row alone. Every operation here is rounded once (fused ones are asked for by name, and
   the build forbids others), so that the compiler may take many values at a time, or one at the end of a row, and the
   bits are the same; so are they on every processor. */

#include "lstm.h"
#include "product.h"

/* e^x for a gate, relative error below 2e-7: Cody and Waite's reduction, then a polynomial of degree 7 (Cephes' expf).
   x is held within 43 of 0, so that the product of two results is a float; sigmoid(-43) is 2e-19. NaN stays. */
ALIKE float gate_exp(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole number, in its lowest bits */
    x = x < -43.0f ? -43.0f : x;
    x = x > 43.0f ? 43.0f : x;
    float shifted = fmaf(x, 1.44269504f, magic);
    float n = shifted - magic;
    float r = fmaf(n, -0.693359375f, x);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = fmaf(1.9875691500e-4f, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r) + 1.0f;
    union { float f; int32_t i; } bits = {shifted}, power;
    power.i = (int32_t)((uint32_t)(bits.i + 127) << 23);
    return p * power.f;
}

ALIKE const float *state_of(const Pass *pass, int64_t m)
{
    int64_t session = m / pass->channels;
    return pass->state + pass->slots[session] * pass->row_width + m % pass->channels * pass->part_width;
}

ALIKE int is_fresh(const Pass *pass, int64_t m) { return pass->fresh != NULL && pass->fresh[m / pass->channels]; }

/* x of the first layer, scaled in double, then rounded; and h beside x in every layer: rows [low, high). */
static void begin(const Pass *pass, int64_t low, int64_t high)
{
    int64_t hidden = pass->hidden, width = pass->width[0];
    for (int64_t m = low; pass->center != NULL && m < high; m++) {
        const double *raw = pass->raw + m * width;
        float *x = pass->x[0] + m * (width + hidden);
        for (int64_t j = 0; j < width; j++)
            x[j] = (float)((raw[j] - pass->center[j]) / pass->scale[j]);
    }
    for (int64_t layer = 0; layer < pass->layers; layer++) {
        int64_t stride = pass->width[layer] + hidden;
        float *into = pass->x[layer] + low * stride + pass->width[layer];
        for (int64_t m = low; m < high; m++, into += stride) {
            const float *h = is_fresh(pass, m) ? pass->zeros : state_of(pass, m) + 2 * layer * hidden;
            memcpy(into, h, (size_t)hidden * sizeof(float));
        }
    }
}

/* One row: c' and h' from its gates p (i | f | g | o), with or without peepholes (i | f | o), which are told apart here
   and not in the loop, so that the loop is straight. With e = exp(-x): sigmoid(x) = 1 / (1 + e), and with
   e = exp(-2x): tanh(x) = (1 - e) / (1 + e); a product of the two takes one division. */
ALIKE void cell(int64_t hidden, const float *restrict p, const float *restrict bias, const float *restrict peephole,
                const float *restrict c, float *restrict new_c, float *restrict new_h, int peeps, int identity)
{
    for (int64_t j = 0; j < hidden; j++) {
        float i = p[j] + bias[j], f = p[hidden + j] + bias[hidden + j];
        float g = p[2 * hidden + j] + bias[2 * hidden + j], o = p[3 * hidden + j] + bias[3 * hidden + j];
        if (peeps) {
            i = fmaf(c[j], peephole[j], i);
            f = fmaf(c[j], peephole[hidden + j], f);
        }
        float ei = gate_exp(-i), eg = gate_exp(-2.0f * g);
        float moved = c[j] / (1.0f + gate_exp(-f)) + (1.0f - eg) / ((1.0f + ei) * (1.0f + eg));
        if (peeps)
            o = fmaf(moved, peephole[2 * hidden + j], o);
        float eo = gate_exp(-o), ec = gate_exp(-2.0f * moved);
        new_c[j] = moved;
        new_h[j] = identity ? moved / (1.0f + eo) : (1.0f - ec) / ((1.0f + eo) * (1.0f + ec));
    }
}

/* i, f, o = sigmoid(product + bias); g = tanh; c' = f c + i g; h' = o tanh(c') (identity: h' = o c'). With peepholes, i
   and f see p c and o sees p c'. The new states go to `after`, h' to the next layer's x too. Rows [low, high), whose
   products lie from `p` on. */
static void gates(const Pass *pass, int64_t layer, int64_t low, int64_t high, const float *p)
{
    int64_t hidden = pass->hidden, offset = (2 * layer + 1) * hidden;
    const float *bias = pass->bias[layer], *peephole = pass->peephole[layer];
    for (int64_t m = low; m < high; m++, p += pass->columns) {
        const float *c = is_fresh(pass, m) ? pass->zeros : state_of(pass, m) + offset;
        float *new_c = pass->after + m * pass->part_width + offset, *new_h = new_c - hidden;
        if (peephole == NULL && !pass->identity)
            cell(hidden, p, bias, peephole, c, new_c, new_h, 0, 0);
        else if (peephole == NULL)
            cell(hidden, p, bias, peephole, c, new_c, new_h, 0, 1);
        else if (!pass->identity)
            cell(hidden, p, bias, peephole, c, new_c, new_h, 1, 0);
        else
            cell(hidden, p, bias, peephole, c, new_c, new_h, 1, 1);
        if (layer + 1 < pass->layers)
            memcpy(pass->x[layer + 1] + m * 2 * hidden, new_h, (size_t)hidden * sizeof(float));
    }
}

/* All of it, some rows at a time, so that what lies between the passes stays in a near cache. Leaves the new states in
   `after` and, if there is a head here, its outputs in `put_out`. */
void tidegate_cells(const Pass *pass, int64_t rows)
{
    int64_t hidden = pass->hidden, stride = pass->head_panels * PANEL;
    int64_t chunks = (rows + pass->chunk - 1) / pass->chunk, even = chunks ? (rows + chunks - 1) / chunks : 0;
    int64_t chunk = (even + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE * ROWS_AT_ONCE; /* as alike as whole tiles can be */
    for (int64_t low = 0; low < rows; low += chunk) {
        int64_t high = low + chunk < rows ? low + chunk : rows;
        begin(pass, low, high);
        for (int64_t layer = 0; layer < pass->layers; layer++) {
            int64_t depth = pass->width[layer] + hidden;
            product(high - low, pass->x[layer] + low * depth, depth, pass->weight[layer], depth, pass->columns / PANEL,
                    pass->product, pass->columns);
            gates(pass, layer, low, high, pass->product);
        }
        if (pass->head_weight == NULL)
            continue;
        const float *h = pass->after + low * pass->part_width + 2 * (pass->layers - 1) * hidden;
        float *out = pass->put_out + low * stride;
        product(high - low, h, pass->part_width, pass->head_weight, hidden, pass->head_panels, out, stride);
        for (int64_t m = low; m < high; m++, out += stride)
            for (int64_t j = 0; j < stride; j++)
                out[j] += pass->head_bias[j];
    }
}

ALIKE int all_finite(const float *values, int64_t count)
{
    int32_t worst = 0; /* an exponent of all ones is infinite or no number */
    for (int64_t j = 0; j < count; j++) {
        union { float f; int32_t i; } bits = {values[j]};
        int32_t exponent = bits.i & 0x7f800000;
        worst = exponent > worst ? exponent : worst;
    }
    return worst < 0x7f800000;
}

/* Values from the head's outputs [rows, stride]. Clears finite[n] where the inputs (of all channels), the new states or
   the values as float32 are not, and writes the states of the other sessions to their slots. Returns how many are not. */
int64_t tidegate_finish(const Pass *pass, int64_t sessions, const float *outputs, int64_t stride)
{
    int64_t lost = 0, width = pass->width[0], x_stride = width + pass->hidden, count = pass->outputs;
    const float *x = pass->x[0], *after = pass->after;
    for (int64_t n = 0; n < sessions; n++, after += pass->row_width) {
        int good = pass->finite[n] && all_finite(after, pass->row_width);
        for (int64_t channel = 0; channel < pass->channels; channel++, x += x_stride)
            good &= all_finite(x, width);
        double *values = pass->values + n * count;
        for (int64_t j = 0; j < count; j++) {
            if (pass->unit != NULL)
                values[j] = (double)outputs[n * stride + j] * pass->unit[j] + pass->base[j];
            good &= isfinite((float)values[j]) != 0;
        }
        pass->finite[n] = (uint8_t)good;
        lost += !good;
        if (good)
            memcpy(pass->state + pass->slots[n] * pass->row_width, after, (size_t)pass->row_width * sizeof(float));
    }
    return lost;
}

/* The whole step of a model with products and head here, scaled here: rows are sessions. */
int64_t tidegate_step(const Pass *pass, int64_t rows)
{
    tidegate_cells(pass, rows);
    return tidegate_finish(pass, rows, pass->put_out, pass->head_panels * PANEL);
}

/* Steps of one session, one after the other: raw holds a row for each, values those of the last one taken. Returns how
   many were taken, fewer than asked when the next one is not finite. */
int64_t tidegate_history(const Pass *pass, int64_t steps)
{
    Pass now = *pass;
    for (int64_t taken = 0; taken < steps; taken++, now.raw += now.width[0])
        if (tidegate_step(&now, 1))
            return taken;
    return steps;
}
