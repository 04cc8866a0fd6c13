/* The inner loops of observing activations; see kernels.py for what they must equal.
 *
 * Optional: where this is not compiled, numpy does the same. It takes three to four times as long
 * and holds Python's lock.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Each of these functions exists twice where the compiler can do that: the loader takes the one
 * with wide vectors if the processor has them. No fused multiply-add: both give the same bits. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define VECTORS
#endif

/* Columns whose sums and extremes are kept in registers, for so many rows. */
#define LANES 32
#define STREAMS 16
/* Tables per bin: adding to one place again and again waits for the addition before it. They are
 * of 32 bits, so that those of 2,048 bins stay in the first cache. */
#define TABLES 4
/* Places behind the bins that zeros go to, half of what a ReLU gives: they are counted apart. */
#define ZEROS 16
/* Values whose bins are computed before they are counted: the compiler vectorises that loop. */
#define BLOCK 256
/* The tables must be cleared and added up: they are used if each of their places gets more values
 * than this on average. */
#define FEW 2

/* Sum, minimum and maximum of each column of rows[count][width]; count is at least 1. A few rows at
 * a time: each is read from front to back, as the processor fetches ahead. */
VECTORS static void columns(const float *rows, Py_ssize_t count, Py_ssize_t width, float *sum,
                            float *low, float *high)
{
    memcpy(sum, rows, sizeof(float) * (size_t)width);
    memcpy(low, rows, sizeof(float) * (size_t)width);
    memcpy(high, rows, sizeof(float) * (size_t)width);
    for (Py_ssize_t first = 1; first < count; first += STREAMS) {
        Py_ssize_t at = 0, last = first + STREAMS < count ? first + STREAMS : count;
        for (; at + LANES <= width; at += LANES) {
            float s[LANES], l[LANES], h[LANES];
            memcpy(s, sum + at, sizeof s);
            memcpy(l, low + at, sizeof l);
            memcpy(h, high + at, sizeof h);
            for (Py_ssize_t row = first; row < last; row++) {
                const float *x = rows + row * width + at;
                for (int k = 0; k < LANES; k++) {
                    s[k] += x[k];
                    l[k] = x[k] < l[k] ? x[k] : l[k];
                    h[k] = x[k] > h[k] ? x[k] : h[k];
                }
            }
            memcpy(sum + at, s, sizeof s);
            memcpy(low + at, l, sizeof l);
            memcpy(high + at, h, sizeof h);
        }
        for (; at < width; at++) {
            float s = sum[at], l = low[at], h = high[at];
            for (Py_ssize_t row = first; row < last; row++) {
                float x = rows[row * width + at];
                s += x;
                l = x < l ? x : l;
                h = x > h ? x : h;
            }
            sum[at] = s;
            low[at] = l;
            high[at] = h;
        }
    }
}

/* Bins of n values, 1 for the first of `bins`; 0 or bins + 1 for those outside, and for NaN; from
 * `zero` on for zeros. Without branches, so that the compiler vectorises it. */
VECTORS static void find_bins(const float *values, int n, float inverse, float below, float above,
                              int32_t before, int32_t zero, uint32_t *bin, int32_t *zeros)
{
    int32_t exact = 0;
    for (int i = 0; i < n; i++) {
        /* Exact: a product with a power of two, truncated towards zero. It is clamped first,
         * since casting a float that int32 cannot hold is undefined; NaN becomes `below`. */
        float place = values[i] * inverse;
        place = place > below ? place : below;
        place = place < above ? place : above;
        int32_t at = (int32_t)place - before, apart = zero + (i & (ZEROS - 1));
        bin[i] = (uint32_t)(values[i] == 0.0f ? apart : at);
        exact += values[i] == 0.0f;
    }
    *zeros += exact;
}

/* Where values are counted: bin `base` and those after it. */
typedef struct {
    float inverse;
    int32_t base;
    Py_ssize_t bins;
    int64_t *counts;           /* [bins] */
    uint32_t *tables;          /* [TABLES][bins + 2 + ZEROS], or none */
    int64_t zeros;
} Counting;

static size_t stride_of(const Counting *c)
{
    return (size_t)c->bins + 2 + ZEROS;
}

/* Add 1 to the table (without tables, to the count) of the bin of each value that is not zero, and
 * count the zeros. Returns how many lie outside, of those that go to no table. */
static int64_t count_values(const float *values, Py_ssize_t n, Counting *c)
{
    int64_t outside = 0;
    size_t stride = stride_of(c);
    float below = (float)(c->base - 1), above = (float)(c->base + (int32_t)c->bins);
    for (Py_ssize_t start = 0; start < n; start += BLOCK) {
        uint32_t bin[BLOCK];
        int32_t exact = 0;
        int i = 0, size = n - start < BLOCK ? (int)(n - start) : BLOCK;
        find_bins(values + start, size, c->inverse, below, above, c->base - 1,
                  (int32_t)c->bins + 2, bin, &exact);
        c->zeros += exact;
        if (c->tables) {
            for (; i + TABLES <= size; i += TABLES)
                for (size_t k = 0; k < TABLES; k++)
                    c->tables[k * stride + bin[(size_t)i + k]]++;
            for (; i < size; i++)
                c->tables[bin[i]]++;
            continue;
        }
        for (; i < size; i++) {
            if (bin[i] - 1 < (uint32_t)c->bins)
                c->counts[bin[i] - 1]++;
            else
                outside += bin[i] <= (uint32_t)c->bins + 1;
        }
    }
    return outside;
}

/* How many zeros, and values in the tables, lie outside the bins. */
static int64_t outside_tables(const Counting *c)
{
    int64_t outside = c->base > 0 || c->base + c->bins <= 0 ? c->zeros : 0;
    for (size_t k = 0; c->tables && k < TABLES; k++) {
        const uint32_t *table = c->tables + k * stride_of(c);
        outside += (int64_t)table[0] + table[c->bins + 1];
    }
    return outside;
}

/* Add the tables and the zeros to the counts. */
static void add_tables(Counting *c)
{
    for (size_t k = 0; c->tables && k < TABLES; k++)
        for (Py_ssize_t b = 0; b < c->bins; b++)
            c->counts[b] += c->tables[k * stride_of(c) + (size_t)b + 1];
    if (c->base <= 0 && c->base + c->bins > 0)
        c->counts[-c->base] += c->zeros;
}

/* Whether `counts` and `base` make sense; tables are made where there are values enough for them.
 * Returns -1 where there is no memory. */
static int prepare(Counting *c, Py_buffer *counts, long base, double inverse, Py_ssize_t n)
{
    c->bins = counts->len / (Py_ssize_t)sizeof(int64_t);
    c->counts = counts->buf;
    c->inverse = (float)inverse;
    c->base = (int32_t)base;
    if (c->bins <= 0 || c->bins >= (1 << 20) || base <= -(1 << 20) || base >= (1 << 20) ||
        n >= ((Py_ssize_t)1 << 32))
        return 0;
    if (n > FEW * TABLES * c->bins) {
        c->tables = PyMem_Calloc(TABLES * stride_of(c), sizeof(uint32_t));
        if (!c->tables)
            return -1;
    }
    return 1;
}

/* Where statistics of C channels live, and room to compute those of new values. */
typedef struct {
    float *low, *high;         /* [C] */
    double *sums, *rest;       /* [C]: what rounding took from the sums */
    float *row;                /* [3][width] */
    double *total;             /* [C] */
    float *least, *most;       /* [C] */
} State;

/* Statistics of rows[count][width] per channel into `total`, `least`, `most`; width is a multiple
 * of the channels. Rows are taken `step` at a time, and counted while they are in the cache.
 * Returns whether all sums are finite. */
static int summarize(const float *rows, Py_ssize_t count, Py_ssize_t width, Py_ssize_t step,
                     Py_ssize_t channels, State *s, Counting *counting)
{
    float *sum = s->row, *low = s->row + width, *high = s->row + 2 * width;
    int finite = 1;
    for (Py_ssize_t start = 0; start < count; start += step) {
        Py_ssize_t taken = count - start < step ? count - start : step;
        columns(rows + start * width, taken, width, sum, low, high);
        for (Py_ssize_t c = 0; c < channels; c++) {
            double part = sum[c];
            float l = low[c], h = high[c];
            for (Py_ssize_t k = c + channels; k < width; k += channels) {
                part += sum[k];
                l = low[k] < l ? low[k] : l;
                h = high[k] > h ? high[k] : h;
            }
            s->total[c] = start ? s->total[c] + part : part;
            s->least[c] = start && s->least[c] < l ? s->least[c] : l;
            s->most[c] = start && s->most[c] > h ? s->most[c] : h;
        }
        if (counting->tables)
            count_values(rows + start * width, taken * width, counting);
    }
    for (Py_ssize_t c = 0; c < channels; c++)
        finite &= isfinite(s->total[c]) != 0;
    return finite;
}

/* Add what `summarize` saw; sums by Knuth's two-sum. */
static void commit(Py_ssize_t channels, State *s, float *low, float *high)
{
    for (Py_ssize_t c = 0; c < channels; c++) {
        double x = s->total[c], was = s->sums[c], sum = was + x, back = sum - was;
        s->rest[c] += (was - (sum - back)) + (x - back);
        s->sums[c] = sum;
        /* Adding zero makes one of both zeros: which came first must not show. */
        s->low[c] = (s->least[c] < s->low[c] ? s->least[c] : s->low[c]) + 0.0f;
        s->high[c] = (s->most[c] > s->high[c] ? s->most[c] : s->high[c]) + 0.0f;
        *low = s->low[c] < *low ? s->low[c] : *low;
        *high = s->high[c] > *high ? s->high[c] : *high;
    }
}

static PyObject *observe(PyObject *module, PyObject *args)
{
    Py_buffer values, ends, sums, counts = {0};
    Py_ssize_t width, step;
    double inverse;
    long base;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*nnw*w*dlw*", &values, &width, &step, &ends, &sums, &inverse,
                          &base, &counts))
        return NULL;
    PyObject *result = NULL;
    Py_ssize_t channels = sums.len / (Py_ssize_t)(2 * sizeof(double));
    Py_ssize_t size = values.len / (Py_ssize_t)sizeof(float);
    State s = {0};
    Counting counting = {0};
    if (channels < 1 || width < 1 || step < 1 || width % channels || size < 1 || size % width ||
        ends.len != channels * (Py_ssize_t)(2 * sizeof(float)) ||
        sums.len != channels * (Py_ssize_t)(2 * sizeof(double)) ||
        values.len != size * (Py_ssize_t)sizeof(float)) {
        PyErr_SetString(PyExc_ValueError, "sizes do not fit");
        goto done;
    }
    s.low = ends.buf;
    s.high = s.low + channels;
    s.sums = sums.buf;
    s.rest = s.sums + channels;
    s.row = PyMem_Malloc(3 * sizeof(float) * (size_t)width);
    s.total = PyMem_Malloc((sizeof(double) + 2 * sizeof(float)) * (size_t)channels);
    if (!s.row || !s.total || prepare(&counting, &counts, base, inverse, size) < 0) {
        PyErr_NoMemory();
        goto done;
    }
    s.least = (float *)(s.total + channels);
    s.most = s.least + channels;
    int finite, counted = 0;
    float low = INFINITY, high = -INFINITY;
    Py_BEGIN_ALLOW_THREADS
    finite = summarize(values.buf, size / width, width, step, channels, &s, &counting);
    if (finite) {
        commit(channels, &s, &low, &high);
        counted = counting.tables && outside_tables(&counting) == 0;
        if (counted)
            add_tables(&counting);
    }
    Py_END_ALLOW_THREADS
    result = finite ? Py_BuildValue("(ddL)", (double)low, (double)high,
                                    counted ? (long long)counting.zeros : -1LL)
                    : (Py_INCREF(Py_None), Py_None);
done:
    PyMem_Free(s.row);
    PyMem_Free(s.total);
    PyMem_Free(counting.tables);
    PyBuffer_Release(&values);
    PyBuffer_Release(&ends);
    PyBuffer_Release(&sums);
    PyBuffer_Release(&counts);
    return result;
}

static PyObject *count(PyObject *module, PyObject *args)
{
    Py_buffer values, counts;
    double inverse;
    long base;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*dlw*", &values, &inverse, &base, &counts))
        return NULL;
    Py_ssize_t n = values.len / (Py_ssize_t)sizeof(float);
    Counting counting = {0};
    int64_t outside = 0;
    int fits = prepare(&counting, &counts, base, inverse, n);
    if (fits > 0) {
        Py_BEGIN_ALLOW_THREADS
        outside = count_values(values.buf, n, &counting);
        outside += outside_tables(&counting);
        add_tables(&counting);
        Py_END_ALLOW_THREADS
    }
    PyMem_Free(counting.tables);
    PyBuffer_Release(&values);
    PyBuffer_Release(&counts);
    if (fits < 0)
        return PyErr_NoMemory();
    if (!fits || outside)
        return PyErr_Format(PyExc_ValueError, "%lld values lie outside the bins",
                            (long long)outside);
    return PyLong_FromLongLong(counting.zeros);
}

static PyMethodDef methods[] = {
    {"observe", observe, METH_VARARGS,
     "observe(values, width, step, ends, sums, inverse_width, base, counts) -> (low, high, zeros)\n\n"
     "Update minimum, maximum and sum per channel; returns the extremes so far. Counts as `count`\n"
     "does, too; zeros is -1, and nothing was counted, where values lie outside the bins or are\n"
     "few. None where a sum is not finite: then nothing was updated.\n"
     "values: float32, contiguous, rows of `width` = k * C values, taken `step` rows at a time;\n"
     "ends: float32 [2, C]; sums: float64 [2, C], the second row what rounding took; counts:\n"
     "int64 [bins], empty where nothing is to be counted."},
    {"count", count, METH_VARARGS,
     "count(values, inverse_width, base, counts) -> number of zeros\n\n"
     "Add 1 to counts[trunc(x * inverse_width) - base] for each x.\n"
     "values: float32, contiguous; counts: int64 [bins], contiguous."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_kernels", "Inner loops of observing activations.", 0, methods, slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernels(void)
{
    return PyModuleDef_Init(&definition);
}
