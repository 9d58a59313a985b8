"""The command line. Nothing heavy is imported before a command runs: ``interp --help`` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import interp

USAGE_ERROR, INTERRUPTED, UNEXPECTED = 2, 130, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 bad input (one clear message, no traceback), 130 interrupted, 1 an error of ours."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "list":
            from interp.listing import listed

            print(listed())
        else:
            from interp.commands import COMMANDS

            COMMANDS[options.command](options)
    except KeyboardInterrupt:
        print("\ninterrupted. The same command goes on from what is finished.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if options.debug:
            raise
        return _explain(error)
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="interp", description="Which attention heads of a multimodal model ground its words."
    )
    top.add_argument("--version", action="version", version=f"interp {interp.__version__}")
    top.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _rank(commands.add_parser("rank", help="rank a model's heads on a data set with masks"))
    _emerge(commands.add_parser("emerge", help="when grounding appears over a series of checkpoints"))
    _compare(commands.add_parser("compare", help="two models side by side on the same phrases"))
    _effects(commands.add_parser("effects", help="what heads do: words without them, and without their edges"))
    _capture(commands.add_parser("capture", help="attention maps of one answer about one image"))
    _segment(commands.add_parser("segment", help="one answer with a pixel mask for every noun phrase"))
    _evaluate(commands.add_parser("evaluate", help="score masks on a data set as the benchmarks do"))
    commands.add_parser("list", help="models, data sets and metrics, one line each")
    _demo(commands.add_parser("demo", help="the whole story on the shipped model, in minutes"))
    _convert(commands.add_parser("convert", help="released weights of another format into one folder that loads"))
    return top


def _rank(sub: argparse.ArgumentParser) -> None:
    sub.description = (
        "Scores every head on every phrase that names a target and writes tables, figures and report.html. "
        "Killed at any moment, the same command goes on where it was and ends with the same numbers."
    )
    sub.add_argument("model", metavar="MODEL", help="a shipped model, a folder, or a hub id")
    sub.add_argument("dataset", metavar="DATASET", help="see: interp list")
    sub.add_argument("--metrics", nargs="+", metavar="METRIC", help="see: interp list (default: all)")
    _measured(sub)
    _shared(sub)


def _emerge(sub: argparse.ArgumentParser) -> None:
    sub.description = (
        "Measures every head at every checkpoint on the same images and words and writes tables, figures and "
        "report.html. Killed at any moment, the same command goes on; a checkpoint that comes later costs only itself."
    )
    sub.add_argument(
        "series", metavar="SERIES", help="a folder of checkpoint-N, a shipped model, STEP=PLACE,..., or a hub id"
    )
    sub.add_argument("dataset", metavar="DATASET", help="see: interp list")
    sub.add_argument("--metric", nargs="+", metavar="METRIC", help="default: pointing_game average_precision")
    sub.add_argument("--base", metavar="PLACE", help="what the checkpoints are laid over (default: base/ beside them)")
    sub.add_argument("--revisions", nargs="+", metavar="R", help="of the hub id; their last number is the step")
    sub.add_argument("--recall", action="store_true", help="let every checkpoint answer, count the things it names")
    _measured(sub)
    _shared(sub)


def _compare(sub: argparse.ArgumentParser) -> None:
    sub.description = (
        "Ranks both models on the same phrases and writes paired differences with intervals (model B - model A, and "
        "what mean subtraction, the query row and the choice of heads do in each), tables, figures and report.html. "
        "Killed at any moment, the same command goes on where it was. The models are loaded one after the other."
    )
    sub.add_argument("model_a", metavar="MODEL_A", help="a shipped model, a folder, or a hub id")
    sub.add_argument("model_b", metavar="MODEL_B", help="the one that is compared with it")
    sub.add_argument("dataset", metavar="DATASET", help="see: interp list")
    sub.add_argument("--metrics", nargs="+", metavar="METRIC", help="see: interp list (default: all)")
    sub.add_argument("--names", nargs=2, metavar=("A", "B"), help="what to call them (default: their folders' names)")
    sub.add_argument(
        "--effects",
        nargs="*",
        choices=("normalise", "query"),
        default=["normalise", "query"],
        help="settings to vary, one more ranking each (default: both)",
    )
    sub.add_argument("--no-recall", dest="recall", action="store_false", help="do not let the models answer")
    _measured(sub)
    _shared(sub)


def _effects(sub: argparse.ArgumentParser) -> None:
    sub.description = (
        "Takes away every head by itself and the best ones by grounding together, beside random heads of the same "
        "layers, hides each word's thing from the row that predicts it, and writes what that does to the word: tables, "
        "figures and report.html. Killed at any moment, the same command goes on where it was."
    )
    sub.add_argument("model", metavar="MODEL", help="a shipped model, a folder, or a hub id")
    sub.add_argument("dataset", metavar="DATASET", help="see: interp list")
    sub.add_argument(
        "--metric", default="pointing_game", metavar="METRIC", help="of grounding (default: pointing_game)"
    )
    _weighting(sub)
    sub.add_argument(
        "--intervention", choices=("mean", "zero", "resample"), default="mean", help="what a head's output becomes"
    )
    sub.add_argument(
        "--where", choices=("word", "answer", "all"), default="answer", help="rows without the head (default: answer)"
    )
    sub.add_argument(
        "--generate", action="store_true", help="also count what is named when the model answers by itself"
    )
    sub.add_argument("--samples", type=_positive, metavar="N", help="the data set's first N samples (default: all)")
    sub.add_argument("--answers", choices=("reference", "generated"), default="reference", help="whose answers")
    sub.add_argument("--split", help="of the data set (default: the data set's own, such as test or val2017)")
    sub.add_argument("--root", metavar="PATH", help="where the data lie, for data sets that are read from disk")
    sub.add_argument("--draws", type=_positive, default=8, metavar="N", help="random sets beside each (default: 8)")
    sub.add_argument("--copies", type=_positive, default=64, metavar="N", help="interventions at a time (default: 64)")
    sub.add_argument("--seed", type=int, default=0, help="of draws, halves and intervals (default: 0)")
    sub.add_argument("--batch", type=_positive, default=8, metavar="N", help="samples at a time (default: 8)")
    _shared(sub)


def _measured(sub: argparse.ArgumentParser) -> None:
    """How heads are measured."""
    sub.add_argument("--samples", type=_positive, metavar="N", help="the data set's first N samples (default: all)")
    sub.add_argument("--answers", choices=("reference", "generated"), default="reference", help="whose answers")
    sub.add_argument("--normalise", choices=("answer", "none"), default="answer", help="subtract the answer's mean map")
    _row(sub)
    sub.add_argument("--split", help="of the data set (default: the data set's own, such as test or val2017)")
    sub.add_argument("--root", metavar="PATH", help="where the data lie, for data sets that are read from disk")
    sub.add_argument("--nulls", type=int, default=8, metavar="N", help="masks of other images per phrase (default: 8)")
    sub.add_argument("--seed", type=int, default=0, help="of null masks, halves and intervals (default: 0)")
    sub.add_argument("--batch", type=_positive, default=8, metavar="N", help="samples at a time (default: 8)")


def _capture(sub: argparse.ArgumentParser) -> None:
    sub.description = "Writes capture.npz (the attention rows), one figure per phrase and report.html."
    sub.add_argument("model", metavar="MODEL", help="a shipped model, a folder, or a hub id")
    sub.add_argument("image", metavar="IMAGE", help="an image file")
    sub.add_argument("prompt", metavar="PROMPT", help="plain text, without template and image place")
    sub.add_argument("--answer", help="the answer to read (default: the model generates one)")
    sub.add_argument("--phrases", nargs="+", metavar="WORD", help="words of the answer (default: its noun phrases)")
    sub.add_argument("--normalise", choices=("answer", "none"), default="answer", help="subtract the answer's mean map")
    _row(sub)
    _shared(sub)


def _segment(sub: argparse.ArgumentParser) -> None:
    sub.description = (
        "Attend-and-segment: the model answers, the highest point of each noun phrase's attention map prompts a "
        "segmenter. Writes the overlay, coco.json, gcg/IMAGE.json, masks.npz, phrases.parquet and report.html."
    )
    sub.add_argument("model", metavar="MODEL", help="a shipped model, a folder, or a hub id")
    sub.add_argument("image", metavar="IMAGE", help="an image file")
    sub.add_argument("prompt", metavar="PROMPT", help="plain text, without template and image place")
    _masks(sub)
    sub.add_argument("--answer", help="the answer to read (default: the model generates one)")
    sub.add_argument("--phrases", nargs="+", metavar="WORD", help="words of the answer (default: its noun phrases)")
    sub.add_argument("--normalise", choices=("answer", "none"), default="answer", help="subtract the answer's mean map")
    _row(sub)
    sub.add_argument("--image-id", metavar="ID", help="in coco.json and gcg/ (default: the image file's name)")
    _shared(sub)


def _evaluate(sub: argparse.ArgumentParser) -> None:
    sub.description = (
        "Scores attend-and-segment on a data set with the benchmarks' own measures: gcg (AP50, mIoU, mask recall, "
        "METEOR, CIDEr), instances (COCO's AP, PAcc), referring (cIoU, gIoU, precision and box accuracy at 0.5), "
        "narrative (average recall). Writes samples.parquet, phrases.parquet, predictions.json and summary.csv, .json. "
        "Killed at any moment, the same command goes on where it was and ends with the same numbers."
    )
    sub.add_argument(
        "task", metavar="TASK", choices=("gcg", "instances", "referring", "narrative"), help="what to score"
    )
    sub.add_argument("model", metavar="MODEL", help="a shipped model, a folder, or a hub id")
    sub.add_argument("dataset", metavar="DATASET", help="see: interp list")
    sub.add_argument("--samples", type=_positive, metavar="N", help="the data set's first N samples (default: all)")
    sub.add_argument("--split", help="of the data set (default: the data set's own, such as val)")
    sub.add_argument("--root", metavar="PATH", help="where the data lie, for data sets that are read from disk")
    sub.add_argument(
        "--answers", choices=("reference", "generated"), help="whose answers (default: gcg, instances: the model's)"
    )
    _masks(sub)
    sub.add_argument("--normalise", choices=("answer", "none"), default="answer", help="subtract the answer's mean map")
    _row(sub)
    sub.add_argument(
        "--encoder", metavar="E", help="gcg: a BERT's folder or hub id, or words (default: bert-base-uncased)"
    )
    sub.add_argument("--predictions", metavar="P", help="score these in place of the model's: gcg: folder, coco: file")
    sub.add_argument("--max-new-tokens", type=_positive, default=128, metavar="N", help="of an answer (default: 128)")
    sub.add_argument("--seed", type=int, default=0, help="of the intervals (default: 0)")
    sub.add_argument("--batch", type=_positive, default=8, metavar="N", help="samples at a time (default: 8)")
    _shared(sub)


def _row(sub: argparse.ArgumentParser) -> None:
    """Which row is a word's, and what it holds."""
    sub.add_argument(
        "--query", choices=("predicting", "self"), default="predicting", help="which row stands for a word"
    )
    _weighting(sub)


def _weighting(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--weighting", choices=("attention", "value"), default="attention", help="value: times the value's norm"
    )


def _masks(sub: argparse.ArgumentParser) -> None:
    """How maps become masks."""
    sub.add_argument("--segmenter", metavar="S", help="see: interp list (default: mini-sam if shipped, else threshold)")
    sub.add_argument("--checkpoint", metavar="P", help="the segmenter's weights: folder or hub id")
    sub.add_argument("--preset", choices=("paper", "released"), help="arXiv 2410.08209, or what its code does")
    sub.add_argument("--heads", metavar="H", help="all, released, 14:24,14:26,... or top3 of --ranking (default: all)")
    sub.add_argument("--ranking", metavar="DIR", help="the folder of an `interp rank` run, for --heads topK")
    sub.add_argument("--weights", nargs="+", type=float, metavar="W", help="one per head (default: the mean)")
    sub.add_argument(
        "--prompting", choices=("argmax", "peaks", "box", "mask"), help="how a map prompts (default: argmax)"
    )
    sub.add_argument(
        "--choice", metavar="C", help="of several masks: last, best, or a number (default: the segmenter's)"
    )
    sub.add_argument("--remove-corners", action="store_true", help="corner patches get the lowest value")
    sub.add_argument("--drop-invisible", action="store_true", help='leave out "the image", "the left", ...')
    sub.add_argument("--min-confidence", type=float, metavar="X", help="leave out masks of a lower score")
    sub.add_argument("--merge", choices=("drop", "share"), help="phrases with the same mask: keep one, or share it")


def _demo(sub: argparse.ArgumentParser) -> None:
    sub.description = (
        "Runs the other commands on the shipped mini-llava and synthetic scenes, each into a folder of its own, and "
        "writes one page that leads to their reports; no network needed."
    )
    sub.add_argument("--samples", type=_positive, default=120, metavar="N", help="scenes to rank on (default: 120)")
    sub.add_argument("--model", default="mini-llava", help="another model in place of the shipped one")
    sub.set_defaults(parse=lambda words: parser().parse_args(words))
    _shared(sub)


def _convert(sub: argparse.ArgumentParser) -> None:
    sub.description = (
        "Joins released DiffLMM weights (adapter_config.json, adapter_model.*, non_lora_trainables.bin) with the parts "
        "that they were trained on, merges the adapter, and writes a self-contained folder."
    )
    sub.add_argument("family", choices=("difflmm",), help="what the weights are of")
    sub.add_argument("source", metavar="SOURCE", help="folder or hub id, e.g. Shengcao1006/difflmm-llava-v1.5-7b-lora")
    sub.add_argument("out", metavar="OUT", help="the folder to write")
    for part in ("language-model", "diffusion", "clip"):
        sub.add_argument(f"--{part}", metavar="P", help="folder or hub id (default: the one it was trained on)")
    sub.add_argument("--normalisation", choices=("released", "paper"), default="released", help="of the images")
    sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _shared(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", required=True, metavar="DIR", help="folder of the run")
    sub.add_argument("--force", action="store_true", help="throw away another run in that folder")
    sub.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    sub.add_argument("--device-map", metavar="MAP", help="spread a large model over GPUs, e.g. auto")
    sub.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="(default: the checkpoint's, CPU: float32)"
    )
    # Accepted on both sides of the command's name.
    sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def _explain(error: Exception) -> int:
    """Prints one message; an error that says what came and what was expected is the user's to mend."""
    message = str(error)
    if type(error).__name__ == "OutOfMemoryError":
        print(
            "interp: the GPU's memory is full; try a smaller --batch, --dtype bfloat16 or --device-map auto",
            file=sys.stderr,
        )
        return USAGE_ERROR
    expected = isinstance(error, ValueError | LookupError | OSError | ImportError) and not isinstance(
        error, KeyError | IndexError
    )
    if expected and message:
        print(f"interp: {message}", file=sys.stderr)
        return USAGE_ERROR
    print(
        f"interp: unexpected {type(error).__name__}: {message}\nRun the command with --debug for the whole traceback.",
        file=sys.stderr,
    )
    return UNEXPECTED


if __name__ == "__main__":
    sys.exit(main())
