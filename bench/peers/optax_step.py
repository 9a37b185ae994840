"""The benchmark's steps in optax under jax.jit: a child process of bench/peers.ts, one line of JSON in, one line of JSON out.

    {"op": "setup", "rule": "AdamW", "shapes": [[1000], ...], "threads": 2}  ->  {"version": "jax 0.10.2, optax 0.2.8", "names": ["optax"]}
    {"op": "turn", "name": "optax"}                                          ->  {"ms": 1.25}

One compiled function takes parameters, state and gradients and gives parameters and state, in the memory of the old ones
(donated). XLA has a thread for each processor. It times as bench/ratios.ts does; a step ends when its results are there.
"""

import jax
import jax.numpy as jnp
import optax

from timing import serve

LR = 1e-3

# NAdam: optax's has no momentum decay. ASGD: optax has none.
RULES = {
    "AdamW": lambda: optax.adamw(LR, weight_decay=1e-2),
    "Adam": lambda: optax.adam(LR),
    "SGD+momentum": lambda: optax.sgd(LR, momentum=0.9),
    "SGD": lambda: optax.sgd(LR),
    "Adamax": lambda: optax.adamax(LR),
    "RAdam": lambda: optax.radam(LR),
    "Adadelta": lambda: optax.adadelta(LR, rho=0.9, eps=1e-6),
    "Rprop": lambda: optax.rprop(LR, eta_minus=0.5, eta_plus=1.2, min_step_size=1e-6, max_step_size=50),
    "Adagrad": lambda: optax.adagrad(LR, initial_accumulator_value=0, eps=1e-10),
    "RMSprop": lambda: optax.rmsprop(LR, decay=0.99, eps=1e-8),
}


def setup(request):
    version = f"jax {jax.__version__}, optax {optax.__version__}"
    if request["rule"] not in RULES:
        return {}, {"version": version, "names": []}
    optimizer = RULES[request["rule"]]()
    keys = jax.random.split(jax.random.key(0), len(request["shapes"]))
    params = [jax.random.uniform(key, shape, minval=-1, maxval=1) for key, shape in zip(keys, request["shapes"])]
    grads = [jnp.full(shape, 1e-3) for shape in request["shapes"]]
    state = optimizer.init(params)

    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def step():
        nonlocal params, state
        params, state = compiled(params, state, grads)
        params[-1].block_until_ready()  # one function: all results are there together

    return {"optax": step}, {"version": version, "names": ["optax"]}


serve(setup)
