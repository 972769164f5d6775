"""How many compiled programs a process can hold."""

from pathlib import Path

import jax

_MAPS, _LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")


def drop_programs() -> bool:
    """Drop what jax has compiled where the process nears the number of memory maps that Linux gives
    it; say whether. XLA takes several for each CPU program, and crashes without a word at the limit
    (65,530 unless set otherwise), which some hundreds of programs reach.
    """
    if not _LIMIT.is_file():  # another system
        return False
    # A third: what is compiled until the next look needs the rest.
    near = _MAPS.read_bytes().count(b"\n") > int(_LIMIT.read_text()) // 3
    if near:
        jax.clear_caches()
    return near
