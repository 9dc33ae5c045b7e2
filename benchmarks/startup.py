"""How long a person waits for `import lossnav` and `lossnav --help`, beside an empty Python; and for the first call.

Seconds "of the processor" are what a process of its own used: torch's import, and that of all that `ln.Objective` and
`ln.evaluate` need. Their difference is to be at most 1.0.
"""

import resource
import statistics
import subprocess
import sys

from benchmarks.common import machine, options, paired, ratio, report


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def processor_seconds(code: str) -> float:
    """What a process that runs this used of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run("-c", code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    chosen = options(__doc__ or "")
    seconds = paired(
        {
            "python": lambda: run("-c", "pass"),
            "import": lambda: run("-c", "import lossnav"),
            "help": lambda: run("-m", "lossnav", "--help"),
        },
        rounds=3 if chosen.quick else 11,
    )
    codes = {
        "import torch": "import torch",
        "objective and evaluate": "import lossnav as ln; ln.Objective; ln.evaluate",
    }
    used = {name: [processor_seconds(code) for _ in range(3 if chosen.quick else 11)] for name, code in codes.items()}
    least = {name: min(values) for name, values in used.items()}  # what others do meanwhile only adds
    result = {
        **{f"processor seconds: {name}": value for name, value in least.items()},
        "processor seconds beyond torch": least["objective and evaluate"] - least["import torch"],
        **{f"seconds: {name}": statistics.median(values) for name, values in seconds.items()},
        "import lossnav / empty python": ratio(seconds, "import", "python"),
        "lossnav --help / empty python": ratio(seconds, "help", "python"),
        "machine": machine(),
    }
    report(result, chosen.json)


if __name__ == "__main__":
    main()
