"""Run the Python blocks of Markdown files, one after another, as a reader would paste them."""

import pathlib
import re
import sys

count = 0
for path in sys.argv[1:]:
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", pathlib.Path(path).read_text(), re.M | re.S):
        print(f"--- {path}\n{block}", flush=True)
        exec(compile(block, path, "exec"), names)
        count += 1
print(f"{count} blocks executed")
