"""Stands in for `dmmn-qp serve`: answers at once, "predicts" the objects of a file, and notes what it was asked for.

Arguments: a folder with polygons.geojson and suggestions.geojson, in which it writes; how it behaves; what it is given.
"""

import json
import sys
import time
from pathlib import Path

FOLDER, HOW, WORDS = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]


def reply(**content: object) -> None:
    print(json.dumps(content), flush=True)


def note(name: str, text: str) -> None:
    with (FOLDER / name).open("a") as file:
        file.write(text + "\n")


def plain() -> None:
    """What the command does where there is no process."""
    print("predicting 50 %")
    if WORDS[0] == "predict":
        out = Path(WORDS[WORDS.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        (out / "a.geojson").write_bytes((FOLDER / "polygons.geojson").read_bytes())
        (out / "run.json").write_text('{"slides": ["a"], "inputs": {"a": {"width": 100, "height": 80}}}')


def answer(request: dict) -> None:
    known, op = request["id"], request["op"]
    polygons = {"slide": "a", "polygons": str(FOLDER / "polygons.geojson"), "width": 100, "height": 80}
    done = {
        "load": {"model": "m-1", "device": "cpu", "classes": [{"name": "Tumor"}, {"name": "Stroma"}]},
        "predict": {**polygons, "width": 99} if HOW == "other" else polygons,
        "suggest": {"suggestions": 2, "slide": "a", "polygons": str(FOLDER / "suggestions.geojson")},
        "import": {},
        "train": {"model": "m-2", "accepted": HOW != "worse"},
    }
    reply(id=known, event="accepted", before=0)
    reply(id=known, event="log", text=f"{op} begins")
    reply(id=known, event="progress", done=1, total=4, text="a")
    if HOW == "slow" and op == "predict":
        return  # until it is cancelled
    if HOW == "dies" and op == "predict":
        sys.exit(3)
    if HOW == "fails" and op == "predict":
        reply(id=known, event="failed", text="the slide is damaged")
        return
    time.sleep(0.05)
    reply(id=known, event="done", **done[op])


def main() -> None:
    note("called", " ".join(WORDS))
    if WORDS[0] != "serve":
        plain()
        return
    if HOW == "old":
        print("error: no such command: serve", file=sys.stderr)
        sys.exit(2)
    print("no line of the protocol")
    reply(id=None, event="hello", protocol=1)
    for line in sys.stdin:
        note("asked", line.strip())
        request = json.loads(line)
        if request["op"] == "cancel":
            reply(id=request["id"], event="done")
            reply(id=request["job"], event="cancelled", text="stopped")
        else:
            answer(request)
    note("asked", "the end")


main()
