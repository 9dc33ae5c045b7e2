"""How long a person waits for `import lossnav` and `lossnav --help`, beside an empty Python."""

import statistics
import subprocess
import sys

from benchmarks.common import machine, options, paired, ratio, report


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


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
    result = {
        **{f"seconds: {name}": statistics.median(values) for name, values in seconds.items()},
        "import lossnav / empty python": ratio(seconds, "import", "python"),
        "lossnav --help / empty python": ratio(seconds, "help", "python"),
        "machine": machine(),
    }
    report(result, chosen.json)


if __name__ == "__main__":
    main()
