"""A trajectory read with h5py, json and zlib alone, as docs/trajectory-format.md describes it."""

import json
import zlib
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  lets h5py read zstd
import numpy as np

RECORDS = ("header", "attempts", "alerts", "guidance", "contexts", "snapshots", "outcome")
TEXTS = ("answer", "taken", "observation", "observed")


def read(path: Path, checked: bool = True) -> list[dict[str, Any]]:
    """All records in order, each as the object of its JSON; a step's prompt is in ``prompt``."""
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"apollo-hpc trajectory" and file.attrs["format_version"] in (1, 2)
        arrays = {name: file[name][:] for name in ("text", "tokens", "logprobs")}
        tables = {name: file[name][:] for name in (*RECORDS, "evaluations", "steps") if name in file}
    placed: dict[int, dict[str, Any]] = {}
    context: list[int] = []
    for name, rows in tables.items():
        for row in rows:
            if name != "steps":
                parts = [arrays["text"][row["offset"] :][: row["length"]]]
            else:
                parts = [arrays["text"][row[f"{part}_offset"] :][: row[f"{part}_length"]] for part in TEXTS]
                parts += [arrays["tokens"][row["token_offset"] :][: row["prompt_tokens"] + row["answer_tokens"]]]
                parts += [arrays["logprobs"][row["logprob_offset"] :][: row["logprob_length"]]]
            blank = row.copy()
            blank["crc"] = 0
            assert not checked or zlib.crc32(b"".join([blank.tobytes(), *map(np.ndarray.tobytes, parts)])) == row["crc"]
            if name in RECORDS:
                placed[int(row["order"])] = json.loads(parts[0].tobytes())
            elif name == "steps":
                new, answer = np.split(parts[4], [row["prompt_tokens"]])
                prompt = [*context[: row["shared_tokens"]], *new.tolist()]
                context = [*prompt, *answer.tolist()]
                step = {"new_prompt_ids": new.tolist(), "token_ids": answer.tolist(), "logprobs": parts[5].tolist()}
                texts = {"text": parts[0].tobytes().decode(), "prompt": prompt}
                placed[int(row["order"])] = {**json.loads(parts[1].tobytes()), **step, **texts}
                if row["observed_order"] >= 0:
                    placed[int(row["observed_order"])] = seen = json.loads(parts[3].tobytes())
                    seen["observation"]["text"] = parts[2].tobytes().decode()
    return [placed[order] for order in range(len(placed))]
