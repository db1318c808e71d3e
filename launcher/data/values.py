"""What the slots of a phrasing are filled with, and the tool calls that follow from the values drawn.

Some of it only a trained model can know: twelve symbols stand for an address and a length, and what the request leaves
open has a default (`hex`, 16 bytes, `all`, `wram`). `$7E00` in a request is `0x7E00` in the call.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

from launcher.data.examples import ToolCall

SYMBOLS = {
    "OAM table": ("0x0300", 64),
    "palette buffer": ("0x7EC500", 512),
    "Link's X position": ("0x0022", 2),
    "room index": ("0x00A0", 2),
    "game mode byte": ("0x0010", 1),
    "frame counter": ("0x001A", 1),
    "sprite health array": ("0x0E50", 16),
    "rupee counter": ("0x7EF360", 2),
    "magic meter": ("0x7EF36E", 1),
    "save file header": ("0x700000", 128),
    "stack page": ("0x0100", 256),
    "collision map": ("0x7F2000", 256),
}
DEFAULTS = {"length": 16, "format": "hex", "checks": "all", "memory_type": "wram"}
FORMATS = {
    "": "hex", " in hex": "hex", " as hex": "hex", " in decimal": "decimal", " as decimal": "decimal",
    " in binary": "binary", " as binary": "binary", " as ascii": "ascii",
}  # fmt: skip
FORMAT_WEIGHTS = (3, 1, 1, 1, 1, 1, 1, 1)
LENGTHS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 100, 128, 144, 160, 192, 200, 224, 256, 320,
           384, 512, 768, 1024)  # fmt: skip
FILE_TYPES = {
    "room": "json", "entrance": "json", "palette": "pal", "sprite": "bin", "tilemap": "bin", "overworld": "json",
    "dungeon": "json", "message": "txt", "graphics": "png", "music": "spc", "item": "json", "door": "json",
}  # fmt: skip
CHECKS = ("checksum", "header", "pointers", "palettes", "sprites", "rooms", "size")
MEMORY_TYPES = {"WRAM": "wram", "VRAM": "vram", "CGRAM": "cgram", "SRAM": "sram", "OAM RAM": "oam", "ARAM": "aram"}
ROM_NAMES = ("zelda3", "alttp", "oos", "oracle", "hack", "quest", "base", "patched", "debug", "release", "test_build",
             "dev", "randomizer", "vanilla", "beta", "project")  # fmt: skip
FOLDERS = ("out", "dump", "export", "assets", "gfx", "tmp", "build", "data", "work")
FILE_STEMS = ("sheet", "intro", "castle", "cave", "boss", "title", "link", "forest", "village", "shop", "tower", "menu",
              "hud", "bridge", "desert")  # fmt: skip
OPERATIONS = {
    "LDA": "immediate", "STA": "absolute", "LDX": "immediate", "JSL": "long", "RTL": "", "NOP": "", "JMP": "absolute",
    "REP": "flags", "SEP": "flags", "STZ": "absolute", "CMP": "immediate",
}  # fmt: skip
SHOT_NAMES = ("title", "crash", "boss", "menu", "glitch", "room", "ending", "intro", "before", "after", "castle", "hud")

# Half the requests have no opening and half have no closing.
OPENINGS = ("", "", "", "", "", "Hey, ", "OK, ", "Next, ", "Now ", "Quick one: ")
CLOSINGS = ("", "", "", "", "", ".", ".", " now", " for the bug report", " so I can compare")
KEEPS_ITS_CAPITAL = re.compile(r"(I\b|Mesen\b|ROM\b|\{)")

WORKFLOW_STEPS = {
    "load": "mesen2.load_rom",
    "run": "mesen2.run",
    "shot": "mesen2.screenshot",
    "import": "z3ed_cli.import",
    "validate": "z3ed_cli.validate",
    "write": "yaze_debugger.write_memory",
}
# Argument of each tool -> the fact it is taken from. `mesen2.run` takes `frames`, or `until` where no frames are drawn.
ARGUMENTS = {
    "yaze_debugger.read_memory": {"address": "address", "length": "length", "format": "format"},
    "yaze_debugger.write_memory": {"address": "address", "value": "value"},
    "yaze_debugger.assemble": {"address": "address", "code": "code"},
    "z3ed_cli.inspect": {"rom": "rom", "type": "type", "id": "id"},
    "z3ed_cli.extract": {"rom": "rom", "type": "type", "id": "id", "output": "file"},
    "z3ed_cli.import": {"rom": "rom", "type": "type", "id": "id", "input": "file"},
    "z3ed_cli.validate": {"rom": "rom", "checks": "checks"},
    "mesen2.read_memory": {"address": "address", "length": "length", "memory_type": "memory_type"},
    "mesen2.load_rom": {"path": "rom"},
    "mesen2.run": {"frames": "frames", "until": "address"},
    "mesen2.screenshot": {"path": "shot"},
}


def tools_of(kind: str) -> tuple[str, ...]:
    """The tools a kind of request calls, in order: `load+shot` is load_rom, then screenshot."""
    return tuple(WORKFLOW_STEPS[step] for step in kind.split("+")) if "+" in kind else (kind,)


def fill(
    kind: str, phrasing: str, rng: random.Random, next_symbol: Callable[[], str]
) -> tuple[str, tuple[ToolCall, ...]]:
    """Draw a value for every slot of a phrasing; return the request and the calls that answer it."""
    texts: dict[str, Any] = {}
    facts: dict[str, Any] = dict(DEFAULTS)
    _draw_memory(phrasing, rng, next_symbol, texts, facts)
    _draw_files(phrasing, rng, texts, facts)
    calls = []
    for tool in tools_of(kind):
        arguments = {name: facts[fact] for name, fact in ARGUMENTS[tool].items() if fact in facts}
        if tool == "mesen2.run" and "frames" in arguments:
            arguments.pop("until", None)
        calls.append(ToolCall(tool, arguments))
    return phrasing.format(**texts), tuple(calls)


def wrap(phrasing: str, request: str, rng: random.Random) -> str:
    """Put an everyday opening and closing around a request, or none."""
    opening, closing = rng.choice(OPENINGS), rng.choice(CLOSINGS)
    if opening and not KEEPS_ITS_CAPITAL.match(phrasing):
        request = request[0].lower() + request[1:]
    # Code runs to the end of the request, and a question is complete.
    if request.endswith("?") or phrasing.endswith("{code}"):
        closing = ""
    return opening + request + closing


def _draw_memory(
    phrasing: str, rng: random.Random, next_symbol: Callable[[], str], texts: dict[str, Any], facts: dict[str, Any]
) -> None:
    if "{sym}" in phrasing:
        texts["sym"] = next_symbol()
        facts["address"], facts["length"] = SYMBOLS[texts["sym"]]
    if "{addr}" in phrasing:
        digits = rng.choice(("", "", "7E", "7F", f"0{_hex(rng, 1)}")) + _hex(rng, 4)
        texts["addr"], facts["address"] = rng.choice(("0x", "0x", "$")) + digits, f"0x{digits}"
    if "{len}" in phrasing:
        texts["len"] = facts["length"] = rng.choice(LENGTHS)
    if "{asfmt}" in phrasing:
        texts["asfmt"] = rng.choices(tuple(FORMATS), FORMAT_WEIGHTS)[0]
        facts["format"] = FORMATS[texts["asfmt"]]
    if "{mem}" in phrasing:
        texts["mem"] = rng.choice(tuple(MEMORY_TYPES))
        facts["memory_type"] = MEMORY_TYPES[texts["mem"]]
    if "{val}" in phrasing:
        digits = _hex(rng, rng.choice((2, 2, 4)))
        texts["val"], facts["value"] = rng.choice(("0x", "$")) + digits, f"0x{digits}"
    if "{code}" in phrasing:
        texts["code"] = facts["code"] = " : ".join(_instruction(rng) for _ in range(rng.choice((1, 1, 2, 2, 3))))


def _draw_files(phrasing: str, rng: random.Random, texts: dict[str, Any], facts: dict[str, Any]) -> None:
    if "{rom}" in phrasing:
        version = rng.choice(("", "", f"_v{rng.randint(1, 9)}", str(rng.randint(2, 99))))
        name = rng.choice(("", "", "roms/", "build/")) + rng.choice(ROM_NAMES) + version + rng.choice((".sfc", ".smc"))
        texts["rom"] = facts["rom"] = name
    if "{kind}" in phrasing:
        texts["kind"] = facts["type"] = rng.choice(tuple(FILE_TYPES))
    if "{id}" in phrasing:
        texts["id"] = facts["id"] = rng.randint(0, 295)
    if "{path}" in phrasing:
        stem = f"{rng.choice(FOLDERS)}/{rng.choice(FILE_STEMS)}{rng.choice(('', '_'))}{rng.randint(0, 255)}"
        texts["path"] = facts["file"] = f"{stem}.{FILE_TYPES[facts['type']]}"
    if "{check}" in phrasing:
        texts["check"] = facts["checks"] = rng.choice(CHECKS)
    if "{n}" in phrasing:
        texts["n"] = facts["frames"] = rng.randint(1, 1200)
    if "{shot}" in phrasing:
        number = rng.choice(("", f"_{rng.randint(1, 99)}", str(rng.randint(1, 500))))
        texts["shot"] = facts["shot"] = (
            rng.choice(("", "shots/", "captures/")) + rng.choice(SHOT_NAMES) + number + ".png"
        )


def _hex(rng: random.Random, digits: int) -> str:
    return "".join(rng.choice("0123456789ABCDEF") for _ in range(digits))


def _instruction(rng: random.Random) -> str:
    """One line of 65816 assembly."""
    name = rng.choice(tuple(OPERATIONS))
    operand = OPERATIONS[name]
    if operand == "flags":
        return f"{name} #${rng.choice(('20', '30'))}"
    digits = {"": 0, "immediate": 2, "absolute": 4, "long": 6}[operand]
    return f"{name} {'#' if operand == 'immediate' else ''}${_hex(rng, digits)}" if digits else name
