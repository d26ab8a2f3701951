"""Have the data moved? ``python -m monitoring.detect_drift --help``; the same check as ``shadow drift check``.

Exit codes: 0 no alert, 1 drift, 2 an error.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from shadow_mlops.cli import driftrules
    from shadow_mlops.cli.driftoutput import check_destination, deliver
    from shadow_mlops.cli.driftsample import MAGNITUDE, draw_samples
    from shadow_mlops.cli.exits import ErrorsExitTwo
    from shadow_mlops.domain.errors import SettingsError, ShadowError
    from shadow_mlops.drift.detecting import detect
    from shadow_mlops.drift.opening import open_source
    from shadow_mlops.processes.settings import load_settings
except ModuleNotFoundError as error:  # Python's own exit code would be 1, which reads as drift
    print(
        f"detect_drift: {error}; run `make install`, then .venv/bin/python -m monitoring.detect_drift", file=sys.stderr
    )
    sys.exit(2)


def options() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.detect_drift",
        description="Compare current rows with reference rows, feature by feature.",
        epilog="exit codes: 0 no alert, 1 drift, 2 an error",
    )
    add = parser.add_argument
    add("--generate-sample", action="store_true", help="compare two samples of the bundled example, the second drifted")
    add("--reference", metavar="FILE", help="CSV or Parquet: a file, a quoted glob; or the URL of an SQL table")
    add("--current", metavar="FILE", help="what to compare with it")
    add("--psi-threshold", type=driftrules.psi_threshold, metavar="X", help="PSI above which a feature alerts")
    add("--ks-threshold", type=driftrules.ks_threshold, metavar="X", help="the same of the KS distance")
    add("--js-threshold", type=driftrules.js_threshold, metavar="X", help="the same of the Jensen-Shannon distance")
    add(
        "--format",
        choices=("text", "json", "html", "markdown"),
        default="text",
        help="form of the report (default: text)",
    )
    add("--output", type=Path, metavar="FILE", help="write the report there and print the verdict")
    add("--drift-features", nargs="+", metavar="F", help="features of the sample that drift (default: four)")
    add(
        "--drift-magnitude",
        type=lambda text: driftrules.number(text, "--drift-magnitude"),
        metavar="X",
        help=f"how far they drift, in standard deviations (default: {MAGNITUDE:g})",
    )
    return parser


def compared(given: argparse.Namespace) -> bool:
    """Compare as asked and deliver the report; True if there is drift."""
    settings = load_settings()
    check_destination(given.output)
    stated = driftrules.deployment_in_force(settings)
    if given.generate_sample:
        if given.reference or given.current:
            raise SettingsError("give --generate-sample or --reference and --current, not both")
        magnitude = MAGNITUDE if given.drift_magnitude is None else given.drift_magnitude
        reference, current = draw_samples(given.drift_features, magnitude)
        names = {"reference_name": "sample without drift", "current_name": f"sample with drift {magnitude:g}"}
    else:
        if given.drift_features or given.drift_magnitude is not None:
            raise SettingsError("--drift-features and --drift-magnitude shape the sample: add --generate-sample")
        if not (given.reference and given.current):
            raise SettingsError("name what to compare: --reference FILE --current FILE, or try --generate-sample")
        reference, current, names = open_source(given.reference), open_source(given.current), {}
    rules = driftrules.rules_in_force(
        settings, stated, psi=given.psi_threshold, ks=given.ks_threshold, js=given.js_threshold
    )
    found = detect(reference, current, rules=rules, bins=stated.drift.bins if stated else 10, **names)
    deliver(found, given.format, given.output)
    return found.verdict != "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; an error is one line on standard error."""
    try:
        with ErrorsExitTwo():
            return int(compared(options().parse_args(arguments)))
    except ShadowError as error:
        print(f"detect_drift: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
