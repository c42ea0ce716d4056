"""A parent process for the tests to kill: stages, runs one step, publishes. Arguments: OUT, a JSON of options."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from modelport.exporters import isolate
from modelport.exporters.job import Job
from modelport.exporters.staging import Staging


def run(options: dict[str, Any], content: str, work: str) -> None:
    job = Job(
        (options["step"],), "onnx", "", "android", "litert", "int8", content, work,
        options={**options, "user_path": str(Path(__file__).parent)},
    )  # fmt: skip
    isolate.run(job, on_progress=lambda stage, done, total: print(stage, flush=True))


def main() -> None:
    out, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    if options.get("bare"):
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            run(options, folder, folder)
        return
    with Staging(out, overwrite=options.get("overwrite", False)) as staging:
        if "step" in options:
            run(options, str(staging.content), str(staging.work))
        else:
            print("writing", flush=True)
            for name in ("a", "b", "c", "d"):
                (staging.content / name).write_text(options["content"])
            manifest = {"schema": 1, "modelport": "0", "content": options["content"]}
            (staging.content / "manifest.json").write_text(json.dumps(manifest))
            time.sleep(options.get("wait", 0))
        staging.publish()


main()
