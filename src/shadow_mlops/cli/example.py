"""Training the bundled example in a process of its own, so that ``shadow up`` never carries scikit-learn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rich.console import Console

from shadow_mlops.domain.errors import ShadowError, TrainingError
from shadow_mlops.processes.settings import Settings
from shadow_mlops.processes.spawn import settings_from_environment, settings_to_environment


def ensure_example(settings: Settings, console: Console, *, feature_repo: Path | None = None) -> Path:
    """Deployment file of the bundled example; its models are trained and registered the first time.

    Parameters
    ----------
    feature_repo
        Where the example's features are read; None: from nowhere.

    Raises
    ------
    TrainingError
        If the training failed; what it said is on standard error.
    """
    file = settings.data_dir / "example" / "shadow.yaml"  # written last: where it stands, the training was complete
    if file.exists():
        return file
    console.print("no deployment file: training the bundled churn example (once, about half a minute)")
    command = [sys.executable, "-m", "shadow_mlops.cli.example"]
    if feature_repo is not None:
        command.append(str(feature_repo.absolute()))
    done = subprocess.run(command, env=settings_to_environment(settings), check=False)
    if done.returncode != 0:
        raise TrainingError(
            "the example was not trained; name a deployment file with --deployment, or mend what is said above"
        )
    return file


def main() -> int:
    """Train the example with the settings of the environment."""
    from shadow_mlops.cli.steps import shown_on  # noqa: PLC0415 - with what is next
    from shadow_mlops.cli.train import train_example  # noqa: PLC0415 - scikit-learn
    from shadow_mlops.models.registry import Registry  # noqa: PLC0415

    settings = settings_from_environment()
    console = Console(stderr=True, highlight=False)
    try:
        registry = Registry(settings.tracking_uri, settings.artifact_root)
        repository = Path(sys.argv[1]) if len(sys.argv) > 1 else None
        step = shown_on(console)
        train_example(registry, settings.data_dir / "example", feature_repo=repository, step=step)
    except ShadowError as error:
        console.print(f"shadow: {error}", style="red", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
