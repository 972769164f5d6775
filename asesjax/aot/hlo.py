"""Bytes that a compiled program moves to and from memory and between devices, from its HLO text.

XLA's own count takes every loop once. Ours counts loops as often as their trip count says, if it is
in the text, and the branch of a conditional that moves most. As in XLA's, an operation reads its
operands and writes its results, and a fusion reads only the slice of an operand that it takes.
Arrays that a TPU keeps on the chip (memory space 1 and above) cost nothing.
"""

import dataclasses
import functools
import math
import re
from collections import Counter, defaultdict

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
         "collective-broadcast")  # fmt: skip
_BITS = {"pred": 8, "f8e4m3fn": 8, "f8e5m2": 8, "token": 0, "opaque": 0}
# Operations that move nothing themselves, but perhaps what they call.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "while", "conditional", "call", "iota", "opt-barrier", "async-start",
}  # fmt: skip

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(ROOT )?%?([\w.\-]+) = (.*?[\])}]) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|(?:true|false)_computation)=%?([\w.\-]+)")


@dataclasses.dataclass
class Traffic:
    """What one device moves."""

    count: dict[str, int] = dataclasses.field(default_factory=Counter)  # by kind of collective
    size: dict[str, int] = dataclasses.field(default_factory=Counter)  # bytes of results by kind
    # bytes that it sends to others at least: all of a gathered result but its own part, and twice
    # as much of a sum
    sent: float = 0.0
    moved: float = 0.0  # bytes to and from its memory

    def add(self, other: "Traffic", times: int = 1) -> "Traffic":
        """Add ``other`` in place, ``times`` over, and return the sum."""
        for kind, number in other.count.items():
            self.count[kind] += times * number
            self.size[kind] += times * other.size[kind]
        self.sent += times * other.sent
        self.moved += times * other.moved
        return self


@dataclasses.dataclass(frozen=True)
class _Line:
    """An instruction; ``rest`` is what follows the bracket after its operation."""

    name: str
    shape: str
    operation: str
    rest: str
    is_root: bool

    @functools.cached_property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split(")")[0])


def read(text: str, inside: str = "") -> Traffic:
    """Add up what a program (``compiled.as_text()``) moves on one device, or one iteration of a
    loop. With ``inside``, part of a jax name, it is the loop that moves most of those whose body
    has the name and whose end depends on data, and that hold no other such loop.
    """
    program = _Program(text)
    total = program.traffic(program.entry)
    if not inside:
        return total
    found = [t for body, t in program.open_loops.items() if program.has_name(body, inside)]
    return max(found, key=_weight, default=Traffic())


def _weight(traffic: Traffic) -> float:
    return traffic.sent + traffic.moved


class _Program:
    def __init__(self, text: str):
        self.computations: dict[str, dict[str, _Line]] = {}
        self.entry = ""
        self._known: dict[str, Traffic] = {}
        self.open_loops: dict[str, Traffic] = {}  # whose end depends on data: body -> an iteration
        current: dict[str, _Line] = {}
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations[header[2]] = {}
                self.entry = header[2] if header[1] else self.entry
            elif found := _INSTRUCTION.match(line):
                root, name, shape, operation, rest = found.groups()
                current[name] = _Line(name, shape, operation, rest, bool(root))

    def traffic(self, name: str, fused: bool = False) -> Traffic:
        """Of a computation; a fused one moves only between devices."""
        if name not in self._known:
            total, lines = Traffic(), self.computations.get(name, {})
            # TPU: a collective that runs beside other work is in the fusion that starts it, in
            # those that continue it and in the one that ends it.
            starts = any("AsyncCollectiveStart" in line.rest for line in lines.values())
            for line in lines.values():
                if "chain_id=" not in line.rest or starts:
                    total.add(self._collective(name, lines, line))
                total.add(self._called(line))
                if not fused:
                    total.moved += self._moved(lines, line)
            self._known[name] = total
        return self._known[name]

    def _called(self, line: _Line) -> Traffic:
        if line.operation == "while":
            return self._loop(line.rest)
        each = [self.traffic(n, line.operation == "fusion") for n in _calls(line.rest)]
        if line.operation == "conditional":
            return max(each, key=_weight, default=Traffic())
        if line.operation not in ("fusion", "call", "async-start", "custom-call"):
            return Traffic()
        return functools.reduce(Traffic.add, each, Traffic())

    def _collective(self, computation: str, lines: dict[str, _Line], line: _Line) -> Traffic:
        kind = line.operation.removesuffix("-done")
        if kind not in KINDS:
            return Traffic()
        rest = line.rest
        if line.operation.endswith("-done"):  # the group is where it starts
            rest = next((lines[name].rest for name in line.operands if name in lines), rest)
        n, size = group_size(rest), shape_bytes(line.shape)
        sent = {
            "all-reduce": 2 * size * (n - 1) / n,
            "reduce-scatter": size * (n - 1),
            "collective-permute": size,
        }.get(kind, size * (n - 1) / n)
        if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            # TPU: each device keeps its part of the sum.
            kind, sent = "reduce-scatter", sent / 2
            size = next(shape_bytes(line.shape) for line in lines.values() if line.is_root)
        return Traffic({kind: 1}, {kind: size}, sent)

    def _moved(self, lines: dict[str, _Line], line: _Line) -> float:
        """Bytes of memory that an instruction reads and writes."""
        if line.operation in _FREE or line.operation.endswith("-done"):
            return 0
        result = memory_bytes(line.shape)
        whole = [memory_bytes(lines[name].shape) for name in line.operands if name in lines]
        if line.operation == "slice-start":  # TPU: the result is the operand and the slice
            return shape_bytes(line.shape) - sum(_size(lines, name) for name in line.operands)
        if line.operation.endswith("-start") and line.shape.startswith("("):
            return result  # holds both what it reads and what it writes
        if line.operation == "fusion":
            called = self.computations.get(next(iter(_calls(line.rest)), ""), {})
            return _fused(called, whole, result)
        if line.operation in ("dynamic-slice", "gather", "slice"):
            return 2 * result
        if line.operation == "dynamic-update-slice":
            return 2 * whole[1] if len(whole) > 1 else 0
        return sum(whole) + result

    def _loop(self, rest: str) -> Traffic:
        condition, body = (re.findall(rf"{k}=%?([\w.\-]+)", rest)[0] for k in ("condition", "body"))
        before = len(self.open_loops)
        iteration = Traffic().add(self.traffic(body)).add(self.traffic(condition))
        trips = self._trip_count(rest, condition)
        if trips is None and len(self.open_loops) == before:
            self.open_loops[body] = iteration
        return Traffic().add(iteration, 1 if trips is None else trips)

    def _trip_count(self, rest: str, condition: str) -> int | None:
        """Iterations of a loop, None where they depend on data."""
        if known := re.search(r"known_trip_count\D*(\d+)", rest):
            return int(known[1])
        lines = self.computations.get(condition, {})
        root = next((line for line in lines.values() if line.is_root), None)
        if root is None or root.operation != "compare" or "direction=LT" not in root.rest:
            return None
        limit = lines.get(root.operands[1]) if len(root.operands) == 2 else None
        number = limit and limit.operation == "constant" and re.match(r"(\d+)\)", limit.rest)
        return int(number[1]) if number else None

    def has_name(self, computation: str, part: str) -> bool:
        """Whether a computation or what it calls has an operation with this part of a jax name."""
        rests = [line.rest for line in self.computations.get(computation, {}).values()]
        if any(re.search(f'op_name="[^"]*{re.escape(part)}', rest) for rest in rests):
            return True
        return any(self.has_name(called, part) for rest in rests for called in _calls(rest))


def _fused(called: dict[str, _Line], whole: list[int], result: int) -> float:
    """Bytes that a fusion reads and writes: whole operands and results, or slices of them."""
    moved, used = float(result), defaultdict(list)
    for line in called.values():
        for name in line.operands:
            used[name].append(line)
    for line in called.values():
        if line.operation == "parameter":
            number = int(re.findall(r"^\d+", line.rest)[0])
            size = whole[number] if number < len(whole) else 0
            users = used[line.name]
            takes = {user.operation for user in users}
            in_place = all(user.operands[0] == line.name for user in users)
            if takes and takes <= {"dynamic-slice", "slice", "gather"}:
                size = min(size, sum(shape_bytes(user.shape) for user in users))
            elif takes == {"dynamic-update-slice"} and in_place:  # not the whole result is written
                parts = sum(_size(called, user.operands[1]) for user in users)
                moved, size = moved - size + parts, 0
            moved += size
    return max(moved, 0.0)


def _size(lines: dict[str, _Line], name: str) -> int:
    return shape_bytes(lines[name].shape) if name in lines else 0


def _calls(rest: str) -> list[str]:
    """Names of the computations that an instruction calls."""
    branches = re.search(r"branch_computations=\{([^}]*)\}", rest)
    return _CALLED.findall(rest) + re.findall(r"%?([\w.\-]+)", branches[1] if branches else "")


def shape_bytes(shape: str, memory_only: bool = False) -> int:
    """Return the bytes of an array or tuple in HLO text, with or without what is on the chip.

    >>> shape = "(f32[8,40]{1,0:T(8,128)S(1)}, bf16[2,3]{1,0}, pred[])"
    >>> shape_bytes(shape), shape_bytes(shape, memory_only=True)
    (1293, 13)
    """
    total = 0
    for kind, sizes, layout in _SHAPE.findall(shape):
        if memory_only and "S(" in layout:
            continue
        bits = _BITS[kind] if kind in _BITS else int((re.search(r"\d+$", kind) or "0")[0])
        total += bits * math.prod(int(n) for n in sizes.split(",") if n)
    return total // 8


memory_bytes = functools.partial(shape_bytes, memory_only=True)


def group_size(rest: str) -> int:
    """Return the number of devices that a collective joins, 1 where the text has none.

    >>> group_size("replica_groups=[2,4]<=[4,2]T(1,0), dimensions={1}")
    4
    """
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\}", rest)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    found = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    return found[1].count(",") + 1 if found else 1
