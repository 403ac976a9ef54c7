"""Time of `import vae_tutorial` beside `import torch`, each in a fresh interpreter, in turns.

The target is at most 1.05 times as long. `import vae_tutorial` alone loads no module of the package, so the modules
that the chapters use are timed as well, all but `figures`, which needs matplotlib. CPU time is what the interpreter
itself used: on a busy machine it is the steadier of the two.

    python benchmarks/import_time.py [number of turns, 11 by default]
"""

import os
import statistics
import subprocess
import sys
import time

STATEMENTS = {
    "import torch": "import torch",
    "import vae_tutorial": "import vae_tutorial",
    "import torch, vae_tutorial": "import torch, vae_tutorial",
    "every module but figures": "from vae_tutorial import bounds, data, evaluation, gaussian, likelihoods; "
    "from vae_tutorial import linear_gaussian, models, training",
}
TARGET = 1.05


def seconds(statement: str) -> tuple[float, float]:
    """Wall time and CPU time of an interpreter that runs one statement."""
    wall, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - wall, cpu


def main() -> None:
    num_turns = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    times = {name: [] for name in STATEMENTS}
    for turn in range(num_turns + 1):
        for name, statement in STATEMENTS.items():
            duration = seconds(statement)
            if turn:  # the first turn fills the file cache
                times[name].append(duration)
    print(f"median of {num_turns} fresh interpreters, their start included; target at most {TARGET} of import torch")
    reference = [statistics.median(values) for values in zip(*times["import torch"], strict=True)]
    for name, values in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        ratios = f"wall {wall:.3f} s, ratio {wall / reference[0]:.3f}; CPU {cpu:.3f} s, ratio {cpu / reference[1]:.3f}"
        print(f"{name:>28}: {ratios}")


if __name__ == "__main__":
    main()
