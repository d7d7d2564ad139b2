/* Protocol Buffers by hand, for the two messages that there are most of: an observation in, a prediction out; and a
   batch's columns, which lie in its bytes as they are wanted.

   What is not plain (a config, an unknown field, a field twice, bytes that may be no message) is left to the library,
   whose word counts. See protos/tidegate/v1/prediction.proto and types.proto for the numbers of fields. */

#include "native.h"

#define NO_TIME INT64_MIN
#define SECOND 1000000000LL
#define STEP_MAX (1ULL << 62) /* as in wire/codec.py */
#define ID_BYTES_MAX 256
#define LENGTH_BYTES_MAX 5 /* of a length; the library refuses longer ones */
#define VARINT 0
#define BYTES 2
#define TAG(field, kind) ((field) << 3 | (kind))

typedef struct {
    const uint8_t *at, *end;
} Reader;

static inline int read_varint(Reader *reader, uint64_t *value)
{
    if (reader->at < reader->end && *reader->at < 0x80) {
        *value = *reader->at++;
        return 1;
    }
    uint64_t result = 0;
    for (int shift = 0; shift < 64 && reader->at < reader->end; shift += 7) {
        uint8_t byte = *reader->at++;
        if (shift == 63 && byte > 1)
            return 0;
        result |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *value = result;
            return 1;
        }
    }
    return 0;
}

/* Fields above 15, and tags that are longer than they need be (the library refuses some), are not plain. */
static inline int read_tag(Reader *reader, uint64_t *tag)
{
    if (reader->at >= reader->end || *reader->at >= 0x80)
        return 0;
    *tag = *reader->at++;
    return 1;
}

static inline int read_bytes(Reader *reader, Reader *content)
{
    uint64_t length;
    const uint8_t *start = reader->at;
    if (!read_varint(reader, &length) || reader->at - start > LENGTH_BYTES_MAX ||
        length > (uint64_t)(reader->end - reader->at))
        return 0;
    content->at = reader->at;
    content->end = reader->at += length;
    return 1;
}

static inline int once(uint32_t *seen, uint64_t tag)
{
    uint64_t field = tag >> 3;
    if (field >= 32 || *seen >> field & 1)
        return 0;
    *seen |= 1u << field;
    return 1;
}

/* A google.protobuf.Timestamp as ns since 1970; 0 where they do not fit. */
static int read_time(Reader reader, int64_t *time)
{
    uint64_t tag, seconds = 0, nanos = 0;
    uint32_t seen = 0;
    while (reader.at < reader.end) {
        if (!read_tag(&reader, &tag) || !once(&seen, tag))
            return 0;
        if (!(tag == TAG(1, VARINT) ? read_varint(&reader, &seconds) : tag == TAG(2, VARINT) && read_varint(&reader, &nanos)))
            return 0;
    }
    int64_t whole = (int64_t)seconds;
    if (whole > INT64_MAX / SECOND - 1 || whole < INT64_MIN / SECOND + 1 || nanos >= SECOND)
        return 0;
    *time = whole * SECOND + (int64_t)nanos;
    return 1;
}

/* Single observations that wait, as columns with room for more; in Python: engine/queues/gathered.py, `Singles`. */
typedef struct {
    int64_t width; /* values a row */
    int64_t *request, *sequence, *step, *time, *id_bytes;
    double *values, *deadline, *arrived;
    uint8_t *reset;
} Singles;

static int read_observation(Reader reader, const Singles *singles, int64_t row, Reader *id)
{
    uint64_t tag, step = 0, reset = 0;
    uint32_t seen = 0;
    Reader content;
    int64_t time = NO_TIME;
    while (reader.at < reader.end) {
        if (!read_tag(&reader, &tag) || !once(&seen, tag))
            return 0;
        if (tag == TAG(2, VARINT) ? !read_varint(&reader, &step) || step > STEP_MAX
            : tag == TAG(6, VARINT) ? !read_varint(&reader, &reset)
                                    : (tag & 7) != BYTES || !read_bytes(&reader, &content))
            return 0;
        if (tag == TAG(1, BYTES))
            *id = content;
        else if (tag == TAG(3, BYTES)) {
            if (!read_time(content, &time))
                return 0;
        } else if (tag == TAG(4, BYTES)) {
            if (content.end - content.at != singles->width * (int64_t)sizeof(double))
                return 0;
            memcpy(singles->values + row * singles->width, content.at, (size_t)(content.end - content.at));
        } else if (tag != TAG(2, VARINT) && tag != TAG(6, VARINT))
            return 0;
    }
    if (!(seen & 1u << 1) || !(seen & 1u << 4) || id->end - id->at > ID_BYTES_MAX)
        return 0;
    for (const uint8_t *byte = id->at; byte < id->end; byte++)
        if (*byte >= 0x80) /* may be no UTF-8 */
            return 0;
    singles->step[row] = (int64_t)step;
    singles->time[row] = time;
    singles->reset[row] = reset != 0;
    return 1;
}

/* Puts a StreamPredictRequest that is a plain observation into row `row`. Returns its sequence, and where its session
   id lies in `id` (start, end); -1 where the message is something else, and then the row is as if never written. */
int64_t tidegate_observation(const uint8_t *message, int64_t length, const Singles *singles, int64_t row,
                             int64_t request, double now, int64_t *id)
{
    Reader reader = {message, message + length}, content, name = {message, message};
    uint64_t tag, sequence = 0;
    uint32_t seen = 0;
    while (reader.at < reader.end) {
        if (!read_tag(&reader, &tag) || !once(&seen, tag))
            return -1;
        if (tag == TAG(2, VARINT)) {
            if (!read_varint(&reader, &sequence) || sequence > INT64_MAX)
                return -1;
        } else if (tag != TAG(3, BYTES) || !read_bytes(&reader, &content) ||
                   !read_observation(content, singles, row, &name))
            return -1;
    }
    if (!(seen & 1u << 3))
        return -1;
    singles->request[row] = request;
    singles->sequence[row] = (int64_t)sequence;
    singles->id_bytes[row] = name.end - name.at;
    singles->deadline[row] = INFINITY;
    singles->arrived[row] = now;
    id[0] = name.at - message;
    id[1] = name.end - message;
    return (int64_t)sequence;
}

/* Batches that wait, as columns with room for more; in Python: engine/queues/gathered.py, `Batches`. Of each message there
   is its stream's table (columns.c), and how many rows it has. */
typedef struct {
    int64_t width, room, together_max; /* values a row; rows, in all and of more than one message */
    int64_t *request, *step, *time, *aliases, *tables, *parts;
    double *values, *deadline, *arrived;
    int32_t *row;
    uint8_t *reset;
} Batches;

/* What a stream may send by alias, and where its table lies; what was read of its last batch. */
typedef struct {
    int64_t rows_max, aliases_max, table; /* aliases are below aliases_max */
    int64_t sequence, rows, width;
} Stream;

/* A batch as it lies in its message. */
typedef struct {
    uint64_t rows, dtype;
    uint32_t seen;
    Reader field[10]; /* those of bytes, by number */
} Batch;

#define STEPS 4
#define ALIASES 3
#define TIMES 5
#define VALUES 7
#define RESETS 9

static inline int64_t bytes_of(const Batch *batch, int field)
{
    return batch->field[field].end - batch->field[field].at;
}

static int read_batch(Reader reader, Batch *batch)
{
    uint64_t tag;
    memset(batch, 0, sizeof *batch);
    while (reader.at < reader.end) {
        if (!read_tag(&reader, &tag) || !once(&batch->seen, tag))
            return 0;
        uint64_t field = tag >> 3;
        if (tag == TAG(1, VARINT) || tag == TAG(6, VARINT)) {
            if (!read_varint(&reader, field == 1 ? &batch->rows : &batch->dtype))
                return 0;
        } else if ((tag & 7) != BYTES || field < ALIASES || field == 6 || field == 8 || field > RESETS ||
                   !read_bytes(&reader, &batch->field[field]))
            return 0;
    }
    return (batch->seen & 1u << ALIASES) != 0 && batch->dtype <= 2;
}

/* float32 as they lie in a message, as float64. */
static __attribute__((noinline)) void widen(double *restrict to, const uint8_t *restrict from, int64_t count)
{
    for (int64_t n = 0; n < count; n++) {
        float value;
        memcpy(&value, from + 4 * n, sizeof value);
        to[n] = (double)value;
    }
}

static void fill(int64_t *to, int64_t value, int64_t count)
{
    for (int64_t n = 0; n < count; n++)
        to[n] = value;
}

static void fill_floats(double *to, double value, int64_t count)
{
    for (int64_t n = 0; n < count; n++)
        to[n] = value;
}

/* The values of row `row` and on; returns 0 where a field has another length or holds what it may not. */
static int take_batch(const Batch *batch, const Batches *into, int64_t row, int64_t aliases_max)
{
    int64_t rows = (int64_t)batch->rows, values = rows * into->width;
    int64_t *to_aliases = into->aliases + row;
    Reader aliases = batch->field[ALIASES];
    for (int64_t n = 0; n < rows; n++) {
        uint64_t alias;
        if (!read_varint(&aliases, &alias) || alias >= (uint64_t)aliases_max)
            return 0;
        to_aliases[n] = (int64_t)alias;
    }
    if (aliases.at != aliases.end)
        return 0;
    if (bytes_of(batch, STEPS)) {
        int wrong = 0;
        for (int64_t n = 0; n < rows; n++) {
            uint64_t step;
            memcpy(&step, batch->field[STEPS].at + 8 * n, sizeof step);
            wrong |= step > STEP_MAX;
            into->step[row + n] = (int64_t)step;
        }
        if (wrong)
            return 0;
    } else
        fill(into->step + row, 0, rows);
    if (bytes_of(batch, TIMES))
        memcpy(into->time + row, batch->field[TIMES].at, (size_t)rows * sizeof(int64_t));
    else
        fill(into->time + row, NO_TIME, rows);
    if (bytes_of(batch, RESETS))
        for (int64_t n = 0; n < rows; n++)
            into->reset[row + n] = batch->field[RESETS].at[n] != 0;
    else
        memset(into->reset + row, 0, (size_t)rows);
    for (int64_t n = 0; n < rows; n++)
        into->row[row + n] = (int32_t)n;
    fill_floats(into->deadline + row, INFINITY, rows);
    double *to = into->values + row * into->width;
    if (batch->dtype == 2)
        memcpy(to, batch->field[VALUES].at, (size_t)values * sizeof(double));
    else
        widen(to, batch->field[VALUES].at, values);
    return 1;
}

/* Puts a StreamPredictRequest that is a batch by alias alone, without future covariates, into row `row` and those after
   it: as message number `place` of those that wait. Returns how many rows it has; 0 where the message is something else,
   or holds what it may not; -1 where there is no room for so many, or none of such width. Then nothing that counts was
   written. */
int64_t tidegate_batch(const uint8_t *message, int64_t length, const Batches *into, int64_t row, int64_t place,
                       Stream *stream, int64_t request, double now)
{
    Reader reader = {message, message + length}, content = {NULL, NULL};
    Batch batch;
    uint64_t tag, sequence = 0;
    uint32_t seen = 0;
    while (reader.at < reader.end) {
        if (!read_tag(&reader, &tag) || !once(&seen, tag))
            return 0;
        if (!(tag == TAG(2, VARINT) ? read_varint(&reader, &sequence) && sequence <= INT64_MAX
                                    : tag == TAG(4, BYTES) && read_bytes(&reader, &content)))
            return 0;
    }
    if (content.at == NULL || !read_batch(content, &batch) || batch.rows == 0 || batch.rows > (uint64_t)stream->rows_max)
        return 0;
    int64_t rows = (int64_t)batch.rows, row_bytes = rows * (int64_t)(batch.dtype == 2 ? sizeof(double) : sizeof(float));
    int64_t steps = bytes_of(&batch, STEPS), times = bytes_of(&batch, TIMES), resets = bytes_of(&batch, RESETS);
    int64_t values = bytes_of(&batch, VALUES), width = values / row_bytes;
    if ((steps && steps != 8 * rows) || (times && times != 8 * rows) || (resets && resets != rows) || width == 0 ||
        values != width * row_bytes)
        return 0;
    stream->sequence = (int64_t)sequence;
    stream->rows = rows;
    stream->width = width;
    if (width != into->width || row + rows > into->room || (row && row + rows > into->together_max))
        return -1;
    if (!take_batch(&batch, into, row, stream->aliases_max))
        return 0;
    into->tables[place] = stream->table;
    into->parts[place] = rows;
    fill(into->request + row, request, rows);
    fill_floats(into->arrived + row, now, rows);
    return rows;
}

static inline int varint_bytes(uint64_t value)
{
    int bytes = 1;
    while (value >>= 7)
        bytes++;
    return bytes;
}

static inline uint8_t *put_varint(uint8_t *at, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        *at++ = (uint8_t)(value | 0x80);
    *at++ = (uint8_t)value;
    return at;
}

static inline uint8_t *put_number(uint8_t *at, int field, uint64_t value)
{
    *at++ = (uint8_t)TAG(field, VARINT);
    return put_varint(at, value);
}

static inline uint8_t *put_start(uint8_t *at, int field, uint64_t length)
{
    *at++ = (uint8_t)TAG(field, BYTES);
    return put_varint(at, length);
}

/* Answers to single observations or batches, of which there is nothing more to say; [rows] each. */
typedef struct {
    int64_t rows, targets, values_stride, target_stride; /* values[n * values_stride + j * target_stride] */
    const int64_t *id_bytes, *sequence, *step, *steps_seen, *valid_time;
    const double *values;
} Answers;

ALIKE uint8_t *put_values(uint8_t *at, const double *from, int64_t count, int64_t stride, int wide)
{
    if (wide)
        for (int64_t j = 0; j < count; j++, at += sizeof(double))
            memcpy(at, from + j * stride, sizeof(double));
    else
        for (int64_t j = 0; j < count; j++, at += sizeof(float)) {
            float rounded = (float)from[j * stride];
            memcpy(at, &rounded, sizeof(float));
        }
    return at;
}

/* A StreamPredictResponse with a PredictionBatch in which no row failed, has flags or intervals, of the answers from
   `start` up to `stop`; dtype is 1 (float32) or 2 (float64). Returns its length: at most 96 + rows x (9 + 8 x targets)
   bytes. */
int64_t tidegate_prediction_batch(const Answers *answers, int64_t start, int64_t stop, int64_t sequence, int64_t dtype,
                                  uint8_t *into)
{
    uint64_t rows = (uint64_t)(stop - start), item = dtype == 2 ? sizeof(double) : sizeof(float);
    uint64_t values = rows * (uint64_t)answers->targets * item, steps = rows * sizeof(int64_t);
    uint64_t length = 1 + (uint64_t)varint_bytes(rows) + 1 + (uint64_t)varint_bytes((uint64_t)dtype) + 1 +
                      (uint64_t)varint_bytes(values) + values + 1 + (uint64_t)varint_bytes(steps) + steps + 1 +
                      (uint64_t)varint_bytes(rows) + rows;
    uint8_t *at = into;
    if (sequence)
        at = put_number(at, 1, (uint64_t)sequence);
    at = put_start(at, 3, length);
    at = put_number(at, 1, rows);
    at = put_number(at, 2, (uint64_t)dtype);
    at = put_start(at, 3, values);
    const double *from = answers->values + start * answers->values_stride;
    if (answers->values_stride == answers->targets) /* they lie as they are to be */
        at = put_values(at, from, (stop - start) * answers->targets, 1, dtype == 2);
    else
        for (int64_t n = start; n < stop; n++, from += answers->values_stride)
            at = put_values(at, from, answers->targets, answers->target_stride, dtype == 2);
    at = put_start(at, 6, steps);
    memcpy(at, answers->step + start, steps);
    at = put_start(at + steps, 7, rows);
    memset(at, 0, rows);
    return at + rows - into;
}

/* StreamPredictResponses after each other, as the sessions' ids lie in `id`; ends[n] is where the nth ends. At most 96 + id + 4 x targets bytes each. */
void tidegate_predictions(const Answers *answers, const uint8_t *id, uint8_t *into, int64_t *ends)
{
    uint8_t *at = into;
    uint64_t values_bytes = (uint64_t)answers->targets * sizeof(float);
    for (int64_t n = 0; n < answers->rows; n++) {
        uint64_t id_bytes = (uint64_t)answers->id_bytes[n], step = (uint64_t)answers->step[n];
        uint64_t steps_seen = (uint64_t)answers->steps_seen[n], sequence = (uint64_t)answers->sequence[n];
        int64_t time = answers->valid_time[n], seconds = time / SECOND, nanos = time % SECOND;
        if (nanos < 0) {
            seconds--;
            nanos += SECOND;
        }
        uint64_t time_bytes = (seconds ? 1 + (uint64_t)varint_bytes((uint64_t)seconds) : 0) +
                              (nanos ? 1 + (uint64_t)varint_bytes((uint64_t)nanos) : 0);
        uint64_t length = 1 + (uint64_t)varint_bytes(id_bytes) + id_bytes + 1 + (uint64_t)varint_bytes(step) + 1 +
                          (uint64_t)varint_bytes(values_bytes) + values_bytes + 1 + (uint64_t)varint_bytes(steps_seen);
        if (time != NO_TIME)
            length += 1 + (uint64_t)varint_bytes(time_bytes) + time_bytes;
        if (sequence)
            at = put_number(at, 1, sequence);
        at = put_start(at, 2, length);
        at = put_start(at, 1, id_bytes);
        memcpy(at, id, id_bytes);
        at += id_bytes;
        id += id_bytes;
        at = put_number(at, 2, step);
        at = put_start(at, 3, values_bytes);
        for (int64_t j = 0; j < answers->targets; j++, at += sizeof(float)) {
            float value = (float)answers->values[n * answers->values_stride + j * answers->target_stride];
            memcpy(at, &value, sizeof(float));
        }
        if (time != NO_TIME) {
            at = put_start(at, 4, time_bytes);
            if (seconds)
                at = put_number(at, 1, (uint64_t)seconds);
            if (nanos)
                at = put_number(at, 2, (uint64_t)nanos);
        }
        at = put_number(at, 5, steps_seen);
        ends[n] = at - into;
    }
}
