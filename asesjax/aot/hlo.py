"""What a compiled program moves, read off its text: to and from memory, and between devices.

A compiled program is a list of computations of one device. Loops whose number of turns is in the
text (layers, microbatches) count that often; of the branches of a condition the one that moves
most counts; a loop that ends when data says so counts once, and is listed by itself too.

XLA's own count of bytes takes every loop for one turn. Ours follows the same rules otherwise: an
operation reads its operands and writes its results, a fusion reads of an operand only the slice
that it takes. Arrays that a TPU keeps on the chip (memory space 1 and above) cost nothing.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
_BITS = {"pred": 8, "f8e4m3fn": 8, "f8e5m2": 8, "token": 0, "opaque": 0}
# Operations that move nothing themselves.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "while", "conditional", "call", "iota", "opt-barrier",
}  # fmt: skip

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(ROOT )?%?([\w.\-]+) = (.*?[\])}]) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")


@dataclasses.dataclass
class Traffic:
    """What one device moves.

    Attributes:
      count: kind of collective to number.
      size: kind to bytes of the results.
      sent: bytes that it sends to others at least: of n devices, all of a gathered result but the
        own part, and twice as much of a sum.
      moved: bytes to and from its memory.
    """

    count: dict[str, float] = dataclasses.field(default_factory=dict)
    size: dict[str, float] = dataclasses.field(default_factory=dict)
    sent: float = 0.0
    moved: float = 0.0

    def add(self, other: "Traffic", times: int = 1) -> None:
        """Add another's, so many times."""
        for mine, theirs in ((self.count, other.count), (self.size, other.size)):
            for kind, value in theirs.items():
                mine[kind] = mine.get(kind, 0) + times * value
        self.sent += times * other.sent
        self.moved += times * other.moved


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
    """Add up what a program moves, or one of its loops.

    Args:
      text: ``compiled.as_text()``.
      inside: where given, of the loops that end when data says so and hold no other such loop,
        and in whose body a name of jax's has this in it, the one that moves most.

    Returns:
      Of one device; with ``inside``, of one turn.
    """
    program = _Program(text)
    total = program.traffic(program.entry)
    if not inside:
        return total
    found = [t for body, t in program.open_loops.items() if inside in program.names(body)]
    return max(found, key=_weight, default=Traffic())


def _weight(traffic: Traffic) -> float:
    return traffic.sent + traffic.moved


class _Program:
    def __init__(self, text: str):
        self.computations: dict[str, dict[str, _Line]] = {}
        self.entry = ""
        self.open_loops: dict[str, Traffic] = {}  # body -> of one turn
        self._known: dict[str, Traffic] = {}
        current: dict[str, _Line] = {}
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                current = self.computations[header[2]] = {}
                self.entry = header[2] if header[1] else self.entry
            elif found := _INSTRUCTION.match(line):
                root, *parts = found.groups()
                current[parts[0]] = _Line(*parts, bool(root))

    def traffic(self, name: str, fused: bool = False) -> Traffic:
        """Of a computation; what is fused moves only between devices."""
        if name not in self._known:
            total, lines = Traffic(), self.computations.get(name, {})
            # TPU: a collective that runs beside other work stands in the fusion that starts it, in
            # those that carry it on and in the one that ends it.
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
        total = Traffic()
        if line.operation in ("fusion", "call", "async-start", "custom-call"):
            for one in each:
                total.add(one)
        return total

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
            # TPU: a sum of which each device keeps its part.
            kind, sent = "reduce-scatter", sent / 2
            size = next(shape_bytes(line.shape) for line in lines.values() if line.is_root)
        return Traffic({kind: 1}, {kind: size}, sent)

    def _moved(self, lines: dict[str, _Line], line: _Line) -> float:
        """Bytes of memory that an instruction reads and writes."""
        if line.operation in _FREE or line.operation.endswith("-done"):
            return 0
        result = memory_bytes(line.shape)
        whole = [memory_bytes(lines[name].shape) for name in line.operands if name in lines]
        if line.operation == "async-start":
            return 0  # what it calls is counted
        if line.operation == "slice-start":  # of a TPU: the result is the operand and the slice
            return shape_bytes(line.shape) - sum(_size(lines, name) for name in line.operands)
        if line.operation.endswith("-start") and line.shape.startswith("("):
            return result  # both what it reads and what it writes
        if line.operation == "fusion":
            called = self.computations.get(next(iter(_calls(line.rest)), ""), {})
            return _fused(called, whole, result)
        if line.operation in ("dynamic-slice", "gather", "slice"):
            return 2 * result
        if line.operation == "dynamic-update-slice":
            return 2 * whole[1] if len(whole) > 1 else 0
        return sum(whole) + result

    def _loop(self, rest: str) -> Traffic:
        condition, body = (re.search(rf"{k}=%?([\w.\-]+)", rest)[1] for k in ("condition", "body"))
        before = len(self.open_loops)
        turn = Traffic()
        turn.add(self.traffic(body))
        turn.add(self.traffic(condition))
        turns = self._turns(rest, condition)
        if turns is None and len(self.open_loops) == before:
            self.open_loops[body] = turn
        out = Traffic()
        out.add(turn, 1 if turns is None else turns)
        return out

    def _turns(self, rest: str, condition: str) -> int | None:
        """How often a loop turns, None where only the data tells."""
        told = re.search(r"known_trip_count\D*(\d+)", rest)
        if told:
            return int(told[1])
        lines = self.computations.get(condition, {})
        root = next((line for line in lines.values() if line.is_root), None)
        if root is None or root.operation != "compare" or "direction=LT" not in root.rest:
            return None
        limit = lines.get(root.operands[1]) if len(root.operands) == 2 else None
        number = re.match(r"(\d+)\)", limit.rest) if limit else None
        return int(number[1]) if number and limit.operation == "constant" else None

    def names(self, computation: str) -> str:
        """The names that jax gave to the operations of a computation and what it calls."""
        seen, todo, out = set(), [computation], []
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                for line in self.computations.get(name, {}).values():
                    todo += _calls(line.rest)
                    out += re.findall(r'op_name="([^"]*)"', line.rest)
        return "\n".join(out)


def _fused(called: dict[str, _Line], whole: list[int], result: int) -> float:
    """Bytes that a fusion reads and writes, of whole operands and result or of slices of them."""
    moved, used = float(result), {name: [] for name in called}
    for line in called.values():
        for name in line.operands:
            used.setdefault(name, []).append(line)
    for line in called.values():
        if line.operation == "parameter":
            number = int(re.match(r"(\d+)", line.rest)[1])
            size = whole[number] if number < len(whole) else 0
            takes = {user.operation for user in used[line.name]}
            if takes and takes <= {"dynamic-slice", "slice", "gather"}:
                size = min(size, sum(shape_bytes(user.shape) for user in used[line.name]))
            elif takes == {"dynamic-update-slice"} and all(
                user.operands[0] == line.name for user in used[line.name]
            ):
                # Written in place: the part alone, in the place of the whole result.
                parts = sum(_size(called, user.operands[1]) for user in used[line.name])
                moved, size = moved - size + parts, 0
            moved += size
    return max(moved, 0.0)


def _size(lines: dict[str, _Line], name: str) -> int:
    return shape_bytes(lines[name].shape) if name in lines else 0


def _calls(rest: str) -> list[str]:
    """Names of the computations that an instruction calls."""
    return list(_each_call(rest))


def _each_call(rest: str) -> Iterator[str]:
    for found in re.finditer(
        r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)", rest
    ):
        yield found[1]
    branches = re.search(r"branch_computations=\{([^}]*)\}", rest)
    if branches:
        yield from re.findall(r"%?([\w.\-]+)", branches[1])


def shape_bytes(shape: str, memory_only: bool = False) -> int:
    """Return the bytes of an array or a tuple as XLA writes it.

    Args:
      shape: the text.
      memory_only: leave out what lies on the chip.

    Example:
      >>> shape_bytes("(f32[8,40]{1,0:T(8,128)S(1)}, bf16[2,3]{1,0}, pred[])")
      1293
      >>> shape_bytes("(f32[8,40]{1,0:T(8,128)S(1)}, bf16[2,3]{1,0}, pred[])", memory_only=True)
      13
    """
    total = 0
    for kind, sizes, layout in _SHAPE.findall(shape):
        if memory_only and "S(" in layout:
            continue
        bits = _BITS.get(kind)
        bits = int((re.search(r"\d+$", kind) or "0")[0]) if bits is None else bits
        total += bits * math.prod(int(n) for n in sizes.split(",") if n)
    return total // 8


memory_bytes = functools.partial(shape_bytes, memory_only=True)


def group_size(rest: str) -> int:
    """Return how many devices a collective joins, 1 where it does not say.

    Example:
      >>> group_size("replica_groups={{0,2,4},{1,3,5}}, dimensions={0}")
      3
      >>> group_size("replica_groups=[2,4]<=[4,2]T(1,0), dimensions={1}")
      4
      >>> group_size("replica_groups=mesh['a'=2,'b'=4], device_ids=([8]) {'a','b'}, channel_id=1")
      8
    """
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\}", rest)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    found = re.search(r"replica_groups=\[\d+,(\d+)\]", rest)
    if found:
        return int(found[1])
    found = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    return found[1].count(",") + 1 if found else 1
