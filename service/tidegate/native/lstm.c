/* The LSTM step, with as few passes over memory as there can be.

   The inputs are derived (inputs.c), and `begin` lays the sessions' h beside them. A layer is one product (product.h),
   which `gates` turns into new c and h; so are the layers of the head. At the end, `finish` writes the new states of
   finite rows to their slots.

   A row's result depends on that row alone. Every operation here is rounded once (fused ones are asked for by name, and
   the build forbids others), so that the compiler may take many values at a time, or one at the end of a row, and the
   bits are the same; so are they on every processor. Softmax, and logarithms of inputs, are the C library's. */

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

/* h beside x in every layer: rows [low, high). */
static void begin(const Pass *pass, int64_t low, int64_t high)
{
    int64_t hidden = pass->hidden;
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

/* Probabilities of the outputs, as torch's softmax; one row. */
static void softmax(float *values, int64_t count)
{
    float most = values[0], sum = 0.0f;
    for (int64_t j = 1; j < count; j++)
        most = values[j] > most ? values[j] : most;
    for (int64_t j = 0; j < count; j++) {
        values[j] = expf(values[j] - most);
        sum += values[j];
    }
    for (int64_t j = 0; j < count; j++)
        values[j] /= sum;
}

/* What comes between two layers of the head: rows of `count` values. */
static void activate(int tanh, float *values, int64_t count)
{
    if (tanh)
        for (int64_t j = 0; j < count; j++) {
            float e = gate_exp(-2.0f * values[j]);
            values[j] = (1.0f - e) / (1.0f + e);
        }
    else
        for (int64_t j = 0; j < count; j++)
            values[j] = values[j] < 0.0f ? 0.0f : values[j]; /* NaN stays */
}

/* The outputs of rows [low, high), to `put_out`. */
static void head(const Pass *pass, int64_t low, int64_t high)
{
    const float *x = pass->after + low * pass->part_width + 2 * (pass->layers - 1) * pass->hidden;
    int64_t x_stride = pass->part_width;
    for (int64_t layer = 0; layer < pass->heads; layer++) {
        int last = layer == pass->heads - 1;
        int64_t columns = pass->head_panels[layer] * PANEL;
        float *out = last ? pass->put_out + low * columns : pass->between[layer % 2];
        product(high - low, x, x_stride, pass->head_weight[layer], pass->head_depth[layer], pass->head_panels[layer],
                out, columns);
        x = out;
        x_stride = columns;
        for (int64_t m = low; m < high; m++, out += columns) {
            for (int64_t j = 0; j < columns; j++)
                out[j] += pass->head_bias[layer][j];
            if (!last)
                activate(pass->tanh != 0, out, columns);
            else if (pass->softmax)
                softmax(out, pass->outputs);
        }
    }
}

/* Inputs, cells and head, some rows at a time, so that what lies between the passes stays in a near cache. Leaves the
   new states in `after` and the outputs in `put_out`. */
static void cells(const Pass *pass, int64_t rows)
{
    int64_t chunks = (rows + pass->chunk - 1) / pass->chunk, even = chunks ? (rows + chunks - 1) / chunks : 0;
    int64_t chunk = (even + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE * ROWS_AT_ONCE; /* as alike as whole tiles can be */
    for (int64_t low = 0; low < rows; low += chunk) {
        int64_t high = low + chunk < rows ? low + chunk : rows;
        begin(pass, low, high);
        for (int64_t layer = 0; layer < pass->layers; layer++) {
            int64_t depth = pass->width[layer] + pass->hidden;
            product(high - low, pass->x[layer] + low * depth, depth, pass->weight[layer], depth, pass->columns / PANEL,
                    pass->product, pass->columns);
            gates(pass, layer, low, high, pass->product);
        }
        head(pass, low, high);
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

/* Values from the outputs. Clears finite[n] where the inputs (of all channels), what the session would remember, or the
   values as float32 are not, and has the other sessions remember. Returns how many are not. */
static int64_t finish(const Pass *pass, int64_t sessions)
{
    int64_t lost = 0, width = pass->width[0], x_stride = width + pass->hidden, count = pass->outputs;
    int64_t running = 2 * pass->inputs->session_features, stride = pass->head_panels[pass->heads - 1] * PANEL;
    const float *x = pass->x[0], *after = pass->after;
    for (int64_t n = 0; n < sessions; n++, after += pass->row_width) {
        int good = all_finite(after, pass->row_width);
        for (int64_t channel = 0; channel < pass->channels; channel++, x += x_stride)
            good &= all_finite(x, width);
        double *values = pass->values + n * count;
        tidegate_restore(pass, n, pass->put_out, stride, values);
        for (int64_t j = 0; j < count; j++)
            good &= isfinite((float)values[j]) != 0;
        for (int64_t j = 0; j < running; j++)
            good &= isfinite(pass->new_running[n * running + j]) != 0;
        pass->finite[n] = (uint8_t)good;
        lost += !good;
        if (!good)
            continue;
        memcpy(pass->state + pass->slots[n] * pass->row_width, after, (size_t)pass->row_width * sizeof(float));
        tidegate_remember(pass, n, pass->put_out, stride);
    }
    return lost;
}

int64_t tidegate_step(const Pass *pass, int64_t sessions)
{
    int64_t lost = 0;
    for (int64_t low = 0; low < sessions; low += pass->room) {
        Pass part = from_session(pass, low);
        int64_t count = sessions - low < pass->room ? sessions - low : pass->room;
        tidegate_derive(&part, count);
        cells(&part, count * part.channels);
        lost += finish(&part, count);
    }
    return lost;
}

/* Steps of one session, one after the other: raw holds a row for each, values those of the last one taken. Returns how
   many were taken, fewer than asked when the next one is not finite. */
int64_t tidegate_history(const Pass *pass, int64_t steps)
{
    Pass now = *pass;
    for (int64_t taken = 0; taken < steps; taken++, now.raw += now.inputs->features)
        if (tidegate_step(&now, 1))
            return taken;
    return steps;
}
