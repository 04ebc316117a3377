"""Cuts what the detector was told during one fault out of the recording of a long run.

A cut has to stand on its own: it opens with the processes and communicators that live in it, even if they were announced
long before, then holds everything from the start of the job's incarnation (or a while before the fault, in a long one) until
after the verdict, so that a replay learns, judges and says what was said live.
"""

import gzip
import json
import os

# How much healthy time a cut holds before the fault, at most, and how much after the verdict.
BEFORE_SECONDS, AFTER_SECONDS = 25.0, 3.0
ANNOUNCEMENTS = ("process_started", "communicator_joined", "node_seen")


def read_lines(path):
    """(now in microseconds, observation, text) of each whole line."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
                yield int(line["now"]), line["observation"], text
            except (ValueError, KeyError, TypeError):
                # The last line of a controller that was killed may be half.
                continue


def subject(observation):
    """What an announcement is about, so that a later one of the same replaces it."""
    return tuple(observation.get(key) for key in ("type", "process", "comm", "node"))


def ends(rows, timeout):
    """When the cut of each of these rows ends, in Unix seconds: a while after the verdict (or, without one, after `timeout`), but
    before the next fault."""
    injected = [row["injected_unix"] for row in rows]
    return [
        min([row["injected_unix"] + (row.get("seconds") or timeout) + AFTER_SECONDS, *(at for at in injected if at > row["injected_unix"])])
        for row in rows
    ]


def cut(lines, injected, end_unix):
    """The lines of a cut, as text; times in Unix seconds."""
    end = end_unix * 1e6
    earliest = (injected - BEFORE_SECONDS) * 1e6
    announced, body, ended = {}, [], set()
    for now, observation, text in lines:
        if now > end:
            break
        kind = observation.get("type")
        if now < earliest:
            if kind in ANNOUNCEMENTS:
                announced[subject(observation)] = observation
            elif kind == "process_ended":
                ended.add(observation.get("process"))
            elif kind == "node_lost":
                announced.pop(("node_seen", None, None, observation.get("node")), None)
            continue
        body.append((now, observation, text))
    if not body:
        return []
    begin = body[0][0]
    opening = [
        json.dumps({"now": begin, "observation": observation}, separators=(",", ":")) + "\n"
        for observation in announced.values()
        if observation.get("process") not in ended or observation.get("type") == "node_seen"
    ]
    return opening + [text for _, _, text in body]


def keep(folder, record, cuts):
    """Writes one file a cut and adds to the index. `cuts` are dicts with name, injected_unix, end_unix and what to expect."""
    os.makedirs(folder, exist_ok=True)
    index_path = os.path.join(folder, "index.json")
    index = []
    if os.path.exists(index_path):
        with open(index_path, encoding="utf-8") as file:
            index = json.load(file)
    for one in cuts:
        texts = cut(read_lines(record), one["injected_unix"], one["end_unix"])
        if not texts:
            continue
        with gzip.open(os.path.join(folder, f"{one['name']}.jsonl.gz"), "wt", encoding="utf-8") as file:
            file.writelines(texts)
        index.append({**one, "lines": len(texts)})
    with open(index_path, "w", encoding="utf-8") as file:
        json.dump(index, file, indent=1)
