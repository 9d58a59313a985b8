"""The README's table of model families: what each is held to on a tiny model of random weights, as measured now.

python analyses/families.py          prints it
python analyses/families.py --write  puts it into README.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import tiny_models  # noqa: E402
from tiny_models import measures  # noqa: E402

import interp  # noqa: E402

BEGIN, END = "<!-- families: made by analyses/families.py -->", "<!-- end of families -->"
HEAD = ("family", "views", "marker in its token", "cache, anew, streaming", "eager", "effects", "TransformerLens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="these alone (default: all)")
    options = parser.parse_args()
    if options.write and options.families:
        parser.error("--write puts in the table of all families; name none")
    asked = {case: of for case, of in tiny_models.cases().items() if not options.families or of[0] in options.families}
    rows = [row(case, *of) for case, of in asked.items()]
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(table)
    if options.write:
        readme = ROOT / "README.md"
        before, _, rest = readme.read_text().partition(BEGIN)
        readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")


def row(case: str, family: str, options: dict) -> tuple[str, ...]:
    """Of each check the largest difference over all of its cases; of markers, how many moved their token most."""
    lmm = interp.wrap(*tiny_models.build(family), processor_options=options)
    tried = [marker for shape in measures.SIZES.values() for marker in measures.markers(lmm, shape)]
    views = list(dict.fromkeys(view for view, *_ in tried))
    reading = [measures.three_ways(lmm, query) for query in ("predicting", "self")]
    rows, nats = (max(each) for each in zip(*reading, strict=True))
    eager, _, same = measures.from_eager(lmm)
    harm = max(abs(a - b).max() for a, b in (measures.effects(lmm, where) for where in ("answer", "all")))
    try:
        lens = f"{measures.lens(lmm):.0e}"
    except ImportError:
        lens = "needs torchvision"
    except ValueError:
        lens = "no adapter"
    print(f"{case}: done", file=sys.stderr)
    return (
        case,
        ", ".join(views),
        f"{sum(hit for *_, hit in tried)} of {len(tried)}",
        f"{rows:.0e}, {nats:.0e} nats",
        f"{eager:.0e}{'' if same else ', bits changed'}",
        f"{harm:.0e} nats",
        lens,
    )


if __name__ == "__main__":
    main()
