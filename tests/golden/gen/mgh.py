"""The minima of the Moré-Garbow-Hillstrom problems of tests/support/mgh.ts, in multiple precision, into tests/golden/mgh.json:

    pip install mpmath==1.3.0 scipy==1.17.1 && python3 tests/golden/gen/mgh.py

scipy's BFGS leads from the problem's start to its minimum in float64. From there Newton's method goes on in 120 digits: the
Jacobian by differences of 1e-60, the Hessian by differences of the gradient, or 2 J'J where the residuals vanish. The residuals
are written a second time here, independently of the tests'.
"""

import json
import math
import pathlib

import mpmath
from mpmath import mp
from scipy.optimize import minimize

mp.dps = 120
STEP = mp.mpf(10) ** -60
WIDE_STEP = mp.mpf(10) ** -30

BARD = "0.14 0.18 0.22 0.25 0.29 0.32 0.35 0.39 0.37 0.58 0.73 0.96 1.34 2.10 4.39".split()
KOWALIK_Y = "0.1957 0.1947 0.1735 0.1600 0.0844 0.0627 0.0456 0.0342 0.0323 0.0235 0.0246".split()
KOWALIK_U = "4 2 1 0.5 0.25 0.167 0.125 0.1 0.0833 0.0714 0.0625".split()


# Residuals of x; `m` has sqrt, exp, ... and `q` makes a number of a text: floats, or of many digits.


def rosenbrock(x, m, q):
    return [10 * (x[i + 1] - x[i] ** 2) for i in range(0, len(x), 2)] + [1 - x[i] for i in range(0, len(x), 2)]


def powell_badly_scaled(x, m, q):
    return [10**4 * x[0] * x[1] - 1, m.exp(-x[0]) + m.exp(-x[1]) - q("1.0001")]


def beale(x, m, q):
    return [q(y) - x[0] * (1 - x[1] ** (i + 1)) for i, y in enumerate(("1.5", "2.25", "2.625"))]


def helical_valley(x, m, q):
    theta = m.atan(x[1] / x[0]) / (2 * m.pi) + (q("0.5") if x[0] < 0 else 0) if x[0] else q("0.25")
    return [10 * (x[2] - 10 * theta), 10 * (m.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]]


def bard(x, m, q):
    return [q(BARD[u - 1]) - x[0] - u / ((16 - u) * x[1] + min(u, 16 - u) * x[2]) for u in range(1, 16)]


def box3d(x, m, q):
    t = [q(i) / 10 for i in range(1, 11)]
    return [m.exp(-s * x[0]) - m.exp(-s * x[1]) - x[2] * (m.exp(-s) - m.exp(-10 * s)) for s in t]


def powell_singular(x, m, q):
    a, b, c, d = x
    return [a + 10 * b, m.sqrt(q(5)) * (c - d), (b - 2 * c) ** 2, m.sqrt(q(10)) * (a - d) ** 2]


def wood(x, m, q):
    a, b, c, d = x
    s = m.sqrt(q(10))
    return [10 * (b - a * a), 1 - a, 3 * s * (d - c * c), 1 - c, s * (b + d - 2), (b - d) / s]


def kowalik_osborne(x, m, q):
    rows = [(q(y), q(u)) for y, u in zip(KOWALIK_Y, KOWALIK_U)]
    return [y - x[0] * (u * u + u * x[1]) / (u * u + u * x[2] + x[3]) for y, u in rows]


def brown_dennis(x, m, q):
    t = [q(i) / 5 for i in range(1, 21)]
    return [(x[0] + s * x[1] - m.exp(s)) ** 2 + (x[2] + x[3] * m.sin(s) - m.cos(s)) ** 2 for s in t]


def biggs_exp6(x, m, q):
    t = [q(i) / 10 for i in range(1, 14)]
    e = lambda k, s: m.exp(-k * s)
    y = [e(1, s) - 5 * e(10, s) + 3 * e(4, s) for s in t]
    return [x[2] * e(x[0], s) - x[3] * e(x[1], s) + x[5] * e(x[4], s) - v for s, v in zip(t, y)]


def watson(x, m, q):
    t = [q(i) / 29 for i in range(1, 30)]
    p = [sum(v * s**k for k, v in enumerate(x)) for s in t]
    slope = [sum(k * v * s ** (k - 1) for k, v in enumerate(x) if k) for s in t]
    return [b - a * a - 1 for a, b in zip(p, slope)] + [x[0], x[1] - x[0] ** 2 - 1]


def penalty_one(x, m, q):
    return [m.sqrt(q("1e-5")) * (v - 1) for v in x] + [sum(v * v for v in x) - q("0.25")]


def variably_dimensioned(x, m, q):
    s = sum((i + 1) * (v - 1) for i, v in enumerate(x))
    return [v - 1 for v in x] + [s, s * s]


def broyden_tridiagonal(x, m, q):
    y = [0, *x, 0]
    return [(3 - 2 * y[i]) * y[i] - y[i - 1] - 2 * y[i + 1] + 1 for i in range(1, len(x) + 1)]


def chebyquad(x, m, q):
    n, rows = len(x), []
    before, now = [1] * n, [2 * v - 1 for v in x]
    for k in range(1, n + 1):
        rows.append(sum(now) / n + (q(1) / (k * k - 1) if k % 2 == 0 else 0))
        before, now = now, [2 * (2 * v - 1) * b - a for v, a, b in zip(x, before, now)]
    return rows


PROBLEMS = [
    (1, "rosenbrock", rosenbrock, [-1.2, 1]),
    (3, "powellBadlyScaled", powell_badly_scaled, [0, 1]),
    (5, "beale", beale, [1, 1]),
    (7, "helicalValley", helical_valley, [-1, 0, 0]),
    (8, "bard", bard, [1, 1, 1]),
    (12, "box3d", box3d, [0, 10, 20]),
    (13, "powellSingular", powell_singular, [3, -1, 0, 1]),
    (14, "wood", wood, [-3, -1, -3, -1]),
    (15, "kowalikOsborne", kowalik_osborne, [0.25, 0.39, 0.415, 0.39]),
    (16, "brownDennis", brown_dennis, [25, 5, -5, -1]),
    (18, "biggsExp6", biggs_exp6, [1, 2, 1, 1, 1, 1]),
    (20, "watson", watson, [0] * 9),
    (21, "extendedRosenbrock", rosenbrock, [-1.2, 1] * 50),
    (23, "penaltyOne", penalty_one, list(range(1, 11))),
    (25, "variablyDimensioned", variably_dimensioned, [1 - j / 10 for j in range(1, 11)]),
    (30, "broydenTridiagonal", broyden_tridiagonal, [-1] * 50),
    (35, "chebyquad", chebyquad, [j / 9 for j in range(1, 9)]),
]


def jacobian(fn, x, r):
    columns = []
    for k in range(len(x)):
        there = fn([v + (STEP if i == k else 0) for i, v in enumerate(x)], mp, mp.mpf)
        columns.append([(b - a) / STEP for a, b in zip(r, there)])
    return columns


def gradient(fn, x):
    r = fn(x, mp, mp.mpf)
    columns = jacobian(fn, x, r)
    return r, columns, [2 * mp.fdot(column, r) for column in columns]


def newton_step(fn, x):
    r, columns, g = gradient(fn, x)
    n, f = len(x), mp.fdot(r, r)
    if f < mp.mpf("1e-15"):  # the residuals vanish
        h = mp.matrix([[2 * mp.fdot(a, b) for b in columns] for a in columns])
    else:
        moved = [gradient(fn, [v + (WIDE_STEP if i == k else 0) for i, v in enumerate(x)])[2] for k in range(n)]
        h = mp.matrix([[(moved[k][i] - g[i]) / WIDE_STEP for i in range(n)] for k in range(n)])
    size = max(abs(h[i, i]) for i in range(n))
    for i in range(n):
        h[i, i] += size * mp.mpf(10) ** -25  # some minima are valleys: the Hessian is singular there
    d = mp.lu_solve(h, mp.matrix([-v for v in g]))
    return f, max(abs(v) for v in g), [v + d[i] for i, v in enumerate(x)]


def minimum(fn, start):
    def value(x):
        return float(sum(v * v for v in fn([float(v) for v in x], math, float)))

    def slope(x):  # by the same differences: exact to the last bit of a double
        return [float(v) for v in gradient(fn, [mp.mpf(float(v)) for v in x])[2]]

    if len(start) < 20:
        x = minimize(value, start, jac=slope, method="BFGS", options={"gtol": 1e-9, "maxiter": 3000}).x
    else:
        x = minimize(value, start, method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 10**7}).x
    x = [mp.mpf(float(v)) for v in x]
    for _ in range(400):
        f, g, after = newton_step(fn, x)
        if g < mp.mpf("1e-45") or f < mp.mpf("1e-45"):  # Powell's singular problem has no Hessian at its minimum
            return f, g, x
        x = after
    raise RuntimeError(f"{fn.__name__}: the gradient is still {mp.nstr(g, 3)}")


def main():
    rows = []
    for number, name, fn, start in PROBLEMS:
        f, g, x = minimum(fn, start)
        f = mp.mpf(0) if f < mp.mpf("1e-30") else f  # the residuals vanish
        print(f"{number:3} {name}: {mp.nstr(f, 25)}, gradient {mp.nstr(g, 3)}", flush=True)
        rows.append({"number": number, "name": name, "minimum": float(f), "digits": mp.nstr(f, 25)})
    path = pathlib.Path(__file__).resolve().parent.parent / "mgh.json"
    lines = ",\n".join(json.dumps(row) for row in rows)
    oracle = json.dumps(f"mpmath {mpmath.__version__}, Newton's method in {mp.dps} digits")
    path.write_text(f'{{ "format": 1, "oracle": {oracle}, "cases": [\n{lines}\n] }}\n')


if __name__ == "__main__":
    main()
