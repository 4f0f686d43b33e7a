import numpy as np

from gpubackprop.backend.select import get_backend
from gpubackprop.network.rows import Rows


def test_rows_come_in_the_order_given(backend):
    be = get_backend(backend) if isinstance(backend, str) else backend
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    rows = Rows(be, x, y)
    assert rows.kind == "labels"
    out_x, out_y = be.zeros((4, 2), np.float64), be.zeros((4,), np.int64)
    rows.load(1, out_x, out_y)
    np.testing.assert_array_equal(be.to_host(out_x), x[1:5])
    for order in ([5, 0, 3, 1, 2, 4], [0, 1, 2, 3, 5, 4]):
        rows.order(np.array(order))
        rows.load(2, out_x, out_y)
        np.testing.assert_array_equal(be.to_host(out_x), x[order[2:6]])
        np.testing.assert_array_equal(be.to_host(out_y), order[2:6])
