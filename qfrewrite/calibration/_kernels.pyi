from qfrewrite.ir import Array

def observe(
    values: Array,
    width: int,
    step: int,
    ends: Array,
    sums: Array,
    inverse_width: float,
    base: int,
    counts: Array,
    /,
) -> tuple[float, float, int] | None: ...
def count(values: Array, inverse_width: float, base: int, counts: Array, /) -> int: ...
