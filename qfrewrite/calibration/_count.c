/* Counting values into a histogram in one pass; see counting.py for what it must equal.
 *
 * Optional: where this is not compiled, numpy does the same, three times as slowly and holding
 * Python's lock.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

/* Tables per bin: adding to one place again and again (a ReLU's zeros) waits for the addition
 * before it. */
#define TABLES 4
/* Values whose bins are computed before they are counted: the compiler vectorises that loop. */
#define BLOCK 256

/* Bins of n values into `bin`, counted from the first; those outside, and NaN, are no less than
 * `bins` as unsigned numbers. Without branches, so that the compiler vectorises it. */
static void find_bins(const float *values, int n, float inverse, float below, float above,
                      int32_t base, uint32_t *bin, int32_t *zeros)
{
    int32_t found = 0;
    for (int i = 0; i < n; i++) {
        /* Exact: a product with a power of two, truncated towards zero. It is clamped first,
         * since casting a float that int32 cannot hold is undefined; NaN becomes `below`. */
        float place = values[i] * inverse;
        place = place > below ? place : below;
        place = place < above ? place : above;
        bin[i] = (uint32_t)((int32_t)place - base);
        found += values[i] == 0.0f;
    }
    *zeros += found;
}

static PyObject *count(PyObject *module, PyObject *args)
{
    Py_buffer values, tables;
    double inverse;
    long base;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*dlw*", &values, &inverse, &base, &tables))
        return NULL;
    Py_ssize_t n = values.len / (Py_ssize_t)sizeof(float);
    Py_ssize_t bins = tables.len / (Py_ssize_t)(TABLES * sizeof(int64_t));
    int64_t zeros = 0, outside = 0;
    int fits = bins > 0 && bins < (1 << 20) && base > -(1 << 20) && base < (1 << 20);
    if (fits) {
        const float *from = values.buf;
        int64_t *to = tables.buf;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t start = 0; start < n; start += BLOCK) {
            uint32_t bin[BLOCK];
            int32_t zero = 0;
            int size = n - start < BLOCK ? (int)(n - start) : BLOCK;
            find_bins(from + start, size, (float)inverse, (float)(base - 1),
                      (float)(base + (long)bins), (int32_t)base, bin, &zero);
            zeros += zero;
            for (int i = 0; i < size; i++) {
                if (bin[i] < (uint32_t)bins)
                    to[(size_t)bin[i] * TABLES + (size_t)(i & (TABLES - 1))]++;
                else
                    outside++;
            }
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&values);
    PyBuffer_Release(&tables);
    if (!fits || outside)
        return PyErr_Format(PyExc_ValueError, "%lld values lie outside the bins",
                            (long long)outside);
    return PyLong_FromLongLong(zeros);
}

static PyMethodDef methods[] = {
    {"count", count, METH_VARARGS,
     "count(values, inverse_width, base, tables) -> number of zeros\n\n"
     "Add 1 to tables[trunc(x * inverse_width) - base, k] for each x, for any k.\n"
     "values: float32, contiguous; tables: int64 [bins, 4], contiguous."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_count", "Counting values into a histogram.", 0, methods, slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__count(void)
{
    return PyModuleDef_Init(&definition);
}
