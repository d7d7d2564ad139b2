/* What the cell sees of an observation: derived from it, from what the session remembers, and from the clock. And what
   the outputs mean, which depends on the same. Session by session, in double until the cast. */

#include "lstm.h"

/* Sign and logarithm of the size, as model/scaling.py says; and back. */
ALIKE double bent(double raw) { return copysign(log1p(fabs(raw)), raw); }

ALIKE double unbent(double level) { return copysign(expm1(fabs(level)), level); }

/* The mean and variance after this value, and by them center and scale of the features that are scaled by session. */
static void scale_by_session(const Pass *pass, int64_t n, double *center, double *scale)
{
    const Inputs *inputs = pass->inputs;
    int64_t count = inputs->session_features, seen = pass->seen[n];
    const double *before = pass->running + pass->slots[n] * 2 * count;
    double *after = pass->new_running + n * 2 * count;
    double steps = (double)(seen + 1 < inputs->window ? seen + 1 : inputs->window);
    memcpy(center, inputs->center, (size_t)inputs->features * sizeof(double));
    memcpy(scale, inputs->scale, (size_t)inputs->features * sizeof(double));
    for (int64_t s = 0; s < count; s++) {
        int64_t feature = inputs->session_feature[s];
        double value = pass->level[feature], mean = seen ? before[s] : 0.0, var = seen ? before[count + s] : 0.0;
        double moved = mean + (value - mean) / steps;
        double spread = var + ((value - mean) * (value - moved) - var) / steps;
        double square = inputs->instance[s] ? spread : spread + moved * moved;
        double least = fabs(moved) * 1e-6 > 1e-12 ? fabs(moved) * 1e-6 : 1e-12, size = sqrt(square > 0.0 ? square : 0.0);
        after[s] = moved;
        after[count + s] = spread;
        center[feature] = inputs->instance[s] ? moved : 0.0;
        scale[feature] = size > least ? size : least;
    }
}

/* The features, categories one-hot. */
static float *put_values(const Pass *pass, const double *raw, const double *center, const double *scale, float *into)
{
    const Inputs *inputs = pass->inputs;
    for (int64_t j = 0; j < inputs->values; j++) {
        int64_t feature = inputs->value_feature[j];
        double category = inputs->value_category[j];
        if (category < 0.0)
            *into++ = (float)((pass->level[feature] - center[feature]) / scale[feature]);
        else
            *into++ = raw[feature] == category ? 1.0f : 0.0f;
    }
    return into;
}

/* Differences from earlier values, 0 where the session is too young; and the values that are earlier ones next time. */
static float *put_lags(const Pass *pass, int64_t n, const double *scale, float *into)
{
    const Inputs *inputs = pass->inputs;
    int64_t seen = inputs->lags ? pass->seen[n] : 0;
    const double *ring = inputs->lags ? pass->ring + pass->slots[n] * pass->ring_steps * inputs->lagged : NULL;
    for (int64_t j = 0; j < inputs->lags; j++) {
        int64_t entry = inputs->lag_entry[j], steps = inputs->lag_steps[j], feature = inputs->lagged_feature[entry];
        double level = pass->level[feature], unit = inputs->lag_scale[j];
        double past = seen < steps ? level : ring[(seen - steps) % pass->ring_steps * inputs->lagged + entry];
        if (inputs->session_scaled[feature])
            unit *= scale[feature];
        *into++ = (float)((level - past) / unit);
    }
    for (int64_t entry = 0; entry < inputs->lagged; entry++)
        pass->new_levels[n * inputs->lagged + entry] = pass->level[inputs->lagged_feature[entry]];
    return into;
}

/* The columns that every channel may see: what is known of the step's time, of the session, and of its gaps. */
static void put_known(const Pass *pass, int64_t n, float *into)
{
    const Inputs *inputs = pass->inputs;
    if (inputs->calendar)
        memcpy(into, pass->calendar + n * inputs->calendar, (size_t)inputs->calendar * sizeof(float));
    into += inputs->calendar;
    for (int64_t number = 1; number <= inputs->ids; number++)
        *into++ = pass->id[n] == number ? 1.0f : 0.0f;
    if (inputs->ages)
        memcpy(into, pass->ages + n * inputs->ages, (size_t)inputs->ages * sizeof(float));
}

/* The whole row as each channel sees it, then its number, one-hot, and its last outputs. */
static void put_channels(const Pass *pass, int64_t n)
{
    const Inputs *inputs = pass->inputs;
    int64_t channels = pass->channels, stride = pass->width[0] + pass->hidden;
    for (int64_t channel = 0; channel < channels; channel++) {
        float *x = pass->x[0] + (n * channels + channel) * stride;
        if (inputs->arrange == NULL) {
            memcpy(x, pass->whole, (size_t)inputs->columns * sizeof(float));
            x += inputs->columns;
        } else {
            for (int64_t j = 0; j < inputs->arranged; j++)
                *x++ = pass->whole[inputs->arrange[channel * inputs->arranged + j]];
            for (int64_t number = 0; number < channels; number++)
                *x++ = number == channel ? 1.0f : 0.0f;
        }
        int64_t last = inputs->feedback ? (pass->slots[n] * channels + channel) * inputs->feedback : 0;
        for (int64_t j = 0; j < inputs->feedback; j++)
            *x++ = pass->seen[n] ? pass->feedback[last + j] : 0.0f;
    }
}

/* base and unit of each target: its outputs times unit, plus base, are values, or their logarithms. */
static void put_meaning(const Pass *pass, int64_t n, const double *center, const double *scale)
{
    const Inputs *inputs = pass->inputs;
    double *base = pass->meaning + n * 2 * inputs->targets, *unit = base + inputs->targets;
    for (int64_t t = 0; t < inputs->targets; t++) {
        int64_t feature = inputs->target_feature[t];
        if (inputs->change == NULL) {
            base[t] = center[feature];
            unit[t] = scale[feature];
            continue;
        }
        base[t] = pass->level[feature];
        unit[t] = inputs->change[t];
        if (inputs->session_scaled[feature])
            unit[t] *= scale[feature];
    }
}

static void scale_alone(const Pass *pass, int64_t sessions)
{
    const double *center = pass->inputs->center, *scale = pass->inputs->scale, *raw = pass->raw;
    int64_t width = pass->width[0];
    float *x = pass->x[0];
    for (int64_t n = 0; n < sessions; n++, raw += width, x += width + pass->hidden)
        for (int64_t j = 0; j < width; j++)
            x[j] = (float)((raw[j] - center[j]) / scale[j]);
}

/* x of the first layer, of so many sessions; what `tidegate_finish` restores values by, and what it remembers. */
void tidegate_derive(const Pass *pass, int64_t sessions)
{
    const Inputs *inputs = pass->inputs;
    if (inputs->plain) {
        scale_alone(pass, sessions);
        return;
    }
    for (int64_t n = 0; n < sessions; n++) {
        const double *raw = pass->raw + n * inputs->features, *center = inputs->center, *scale = inputs->scale;
        for (int64_t feature = 0; feature < inputs->features; feature++) {
            int curved = inputs->curved != NULL && inputs->curved[feature];
            pass->level[feature] = curved ? bent(raw[feature]) : raw[feature];
        }
        if (inputs->session_features) {
            double *own = pass->level + inputs->features;
            scale_by_session(pass, n, own, own + inputs->features);
            center = own;
            scale = own + inputs->features;
        }
        float *rest = put_values(pass, raw, center, scale, pass->whole);
        put_known(pass, n, put_lags(pass, n, scale, rest));
        put_channels(pass, n);
        if (!inputs->fixed)
            put_meaning(pass, n, center, scale);
    }
}

/* Values of session n from its outputs; those of a channel lie together. */
void tidegate_restore(const Pass *pass, int64_t n, const float *outputs, int64_t stride, double *values)
{
    const Inputs *inputs = pass->inputs;
    const double *base = pass->meaning + (inputs->fixed ? 0 : n * 2 * inputs->targets), *unit = base + inputs->targets;
    int64_t width = inputs->target_width;
    for (int64_t t = 0; t < inputs->targets; t++) {
        const float *output = outputs;
        int curved = inputs->curved != NULL && !pass->softmax && inputs->curved[inputs->target_feature[t]];
        output += inputs->arrange == NULL ? n * stride + t * width : (n * pass->channels + t) * stride;
        for (int64_t level = 0; level < width; level++, values++) {
            double value = (double)output[level] * unit[t] + base[t];
            *values = curved ? unbent(value) : value;
        }
    }
}

/* What session n remembers of a step that it took, beside the cell's state. */
void tidegate_remember(const Pass *pass, int64_t n, const float *outputs, int64_t stride)
{
    const Inputs *inputs = pass->inputs;
    int64_t slot = pass->slots[n], count = 2 * inputs->session_features, lagged = inputs->lagged;
    if (inputs->lags) {
        double *ring = pass->ring + (slot * pass->ring_steps + pass->seen[n] % pass->ring_steps) * lagged;
        memcpy(ring, pass->new_levels + n * lagged, (size_t)lagged * sizeof(double));
    }
    if (count)
        memcpy(pass->running + slot * count, pass->new_running + n * count, (size_t)count * sizeof(double));
    for (int64_t channel = 0; inputs->feedback && channel < pass->channels; channel++)
        memcpy(pass->feedback + (slot * pass->channels + channel) * inputs->feedback,
               outputs + (n * pass->channels + channel) * stride, (size_t)inputs->feedback * sizeof(float));
}
