"""How evenly the test questions of GSM8K keep the processes of a pod at work: a simulation.

    python tests/benchmarks/pod_shares.py --data FOLDER   # that holds gsm8k/

A question takes a slot for as many steps as its chain has words. Prints a JSON line for each number
of processes: the share of the ideal time (all slots busy to the end, but no shorter than the
longest chain) that is reached when process i of P takes the questions i, i + P, ..., in the order
of the file or the longest questions first, as runs do, and when each asks a counter that all share
for the next of them as soon as it has a free slot.
"""

import argparse
import heapq
import json
from pathlib import Path

import numpy as np


def makespan(lengths, slots):
    """Steps until all are written, in order, each by the slot that is free first."""
    free = [0] * slots
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + int(length))
    return max(free)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds gsm8k/")
    parser.add_argument("--slots", type=int, default=32, help="slots of a process")
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.data / "gsm8k/test.jsonl").read_text().splitlines()]
    questions, lengths = (np.array([len(row[name].split()) for row in rows])
                          for name in ("question", "answer"))  # fmt: skip
    longest_first = lengths[np.argsort(-questions, kind="stable")]
    for processes in (1, 4, 16, 64, 256):
        slots = args.slots * processes
        ideal = max(lengths.sum() / slots, lengths.max())
        shares, sorted_shares = (
            max(makespan(order[i::processes], args.slots) for i in range(processes))
            for order in (lengths, longest_first)
        )
        print(json.dumps({
            "processes": processes, "slots": slots, "questions": len(lengths),
            "shares": round(ideal / shares, 3),
            "shares, longest first": round(ideal / sorted_shares, 3),
            "counter, longest first": round(ideal / makespan(longest_first, slots), 3),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
