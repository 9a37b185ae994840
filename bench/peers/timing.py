"""How the benchmarks' peers time: as bench/ratios.ts does, and one line of JSON in, one line of JSON out."""

import json
import sys
import time

TIMED_MS, TIMINGS, TURN_MS, LONG_MS, WARM_UP_MS = 4, 4, 60, 250, 60


def time_of(step, count):
    """Milliseconds that one of `count` steps takes."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) * 1e3 / count


class Contender:
    """A step, warmed up and calibrated once; a turn is the best of a few timings, of one where it takes long."""

    def __init__(self, step):
        self.step = step
        best, spent, n = float("inf"), 0.0, 1
        while spent < WARM_UP_MS or n < 4:
            took = time_of(step, min(n, 100))
            spent += took * min(n, 100)
            best = min(best, took)
            n += 1
        self.count = max(1, int(TIMED_MS / best))
        self.long = best > LONG_MS

    def turn(self):
        timings = [time_of(self.step, self.count)]
        while not self.long and (len(timings) < TIMINGS or sum(timings) * self.count < TURN_MS):
            timings.append(time_of(self.step, self.count))
        return min(timings)


def serve(setup):
    """Answers {"op": "setup", ...} by what `setup` says, and {"op": "turn", "name": ...} by that step's time.

    `setup` takes the request and returns the steps by name, and the answer.
    """
    steps, contenders = {}, {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "setup":
            steps, contenders = {}, {}  # before the next ones: there may not be memory for both
            steps, answer = setup(request)
        else:
            name = request["name"]
            if name not in contenders:
                contenders[name] = Contender(steps[name])
            answer = {"ms": contenders[name].turn()}
        print(json.dumps(answer), flush=True)
