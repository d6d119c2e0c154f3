"""Write the README's results from `results/`, so that no number in it is typed by hand.

python benchmarks/readme.py
"""

import re
from pathlib import Path

from readme_reproduction import reproduction
from readme_scores import accuracy, mixtures, variants
from readme_speed import cost, mixture_speed, speed


def main() -> None:
    """Replace what stands between the README's markers."""
    path = Path("README.md")
    text = path.read_text(encoding="utf-8")
    body = "\n".join(
        [
            *reproduction(),
            *accuracy(),
            *variants(),
            *mixtures(),
            *speed(),
            *cost(),
            *mixture_speed(),
        ]
    )
    block = f"<!-- results -->\n{body}\n<!-- /results -->"
    path.write_text(
        re.sub(r"<!-- results -->.*<!-- /results -->", lambda _: block, text, flags=re.S),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
