"""Child process of `vllm-conda build`: builds or tests one package with py-rattler-build.

A process of its own, in its own session, so that Ctrl-C and the next run after a kill can end
the whole compile (bash, cmake, ninja, cc1plus) by its session id. Reads one JSON request on
standard input and writes one JSON event a line on standard output, the result last.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any, TextIO

from rattler_build import (
    Package,
    RattlerBuildError,
    RenderConfig,
    Stage0Recipe,
    ToolConfiguration,
    VariantConfig,
    build_recipes,
)
from rattler_build.progress import (
    BuildStepEvent,
    DownloadCompleteEvent,
    DownloadProgressEvent,
    DownloadStartEvent,
    LogEvent,
)
from rattler_build.tool_config import PlatformConfig

# The metadata of a build is at its end: nothing of a package exists under this name before.
COMPRESSION_THREADS = 2


class EventWriter:
    """py-rattler-build's progress callback, one JSON line an event."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, **event: Any) -> None:
        self.stream.write(json.dumps(event) + "\n")
        self.stream.flush()

    def on_log(self, event: LogEvent) -> None:
        self.write(event="log", level=event.level, message=event.message)

    def on_build_step(self, event: BuildStepEvent) -> None:
        self.write(event="step", message=f"{event.step_name}: {event.message}")

    def on_download_start(self, event: DownloadStartEvent) -> None:
        self.write(event="log", level="info", message=f"Downloading {event.url}")

    def on_download_progress(self, event: DownloadProgressEvent) -> None:
        """Not reported: too many events that say little."""

    def on_download_complete(self, event: DownloadCompleteEvent) -> None:
        """Not reported: the start is."""


def build(request: dict[str, Any], events: EventWriter) -> dict[str, Any]:
    """Build the one output that ``request`` names; returns the package's path."""
    recipe = Stage0Recipe.from_file(request["recipe"])
    if request["platform"] != request["build_platform"]:
        return build_cross(request, events)
    config = RenderConfig(platform=PlatformConfig(target_platform=request["platform"]))
    for variant in recipe.render(VariantConfig(request["variant"]), config):
        stage1 = variant.recipe
        if (stage1.package.name, str(stage1.build.string)) == tuple(request["output"]):
            result = variant.run_build(
                tool_config=ToolConfiguration(
                    test_strategy="skip",
                    compression_threads=COMPRESSION_THREADS,
                    channel_priority="strict",
                ),
                output_dir=request["folder"],
                channels=request["channels"],
                progress_callback=events,
                # Stable paths: they enter the staging key, and the compiler cache hits more often.
                no_build_id=True,
            )
            return {"package": str(result.packages[0])}
    raise RattlerBuildError(f"the recipe no longer renders {'-'.join(request['output'])}")


def build_cross(request: dict[str, Any], events: EventWriter) -> dict[str, Any]:
    """Build the output for another platform than this machine's.

    ``RenderedVariant.run_build`` takes the host environment from this machine's platform whatever
    the recipe was rendered for (py-rattler-build 0.73); the older call takes it as an argument.
    What the channel in ``folder`` holds already is not built again. That call reports no progress,
    so the script's output is read from the file that it leaves.
    """
    platform, (name, build_string) = request["platform"], request["output"]
    started = time.time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            build_recipes(
                [request["recipe"]],
                up_to=name,
                build_platform=request["build_platform"],
                target_platform=platform,
                host_platform=platform,
                channel=request["channels"],
                variant_overrides=request["variant"],
                ignore_recipe_variants=True,
                no_build_id=True,
                compression_threads=COMPRESSION_THREADS,
                test="skip",
                output_dir=request["folder"],
                channel_priority="strict",
                skip_existing="local",
            )
    finally:
        for log in Path(request["folder"]).glob("bld/*/work/conda_build.log"):
            if log.stat().st_mtime >= started:
                for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
                    events.write(event="log", level="info", message=line)
    found = list((Path(request["folder"]) / platform).glob(f"{name}-*-{build_string}.conda"))
    if len(found) != 1:
        raise RattlerBuildError(f"the build left {len(found)} packages {name} {build_string}")
    return {"package": str(found[0])}


def test(request: dict[str, Any], events: EventWriter) -> dict[str, Any]:
    """Run the tests inside a package; returns the number of tests, or the failed one's output."""
    package = Package.from_file(request["package"])
    results = package.run_tests(
        channel=request["channels"], channel_priority="strict", progress_callback=events
    )
    failed = [result for result in results if not result.success]
    return {
        "tests": len(results),
        "failed": [result.test_index for result in failed],
        "output": [line for result in failed for line in result.output],
    }


def main() -> int:
    # The libraries print on standard output too, which is reserved for events.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    events = EventWriter(stream)
    request = json.load(sys.stdin)
    action = {"build": build, "test": test}[request["action"]]
    try:
        result = action(request, events)
    except (RattlerBuildError, OSError) as error:
        events.write(event="error", message=str(error), kind=type(error).__name__)
        return 1
    events.write(event="result", **result)
    return 0


if __name__ == "__main__":
    os.chdir(Path("/"))  # so that no folder is kept busy; every path in the request is absolute
    # No finalization: rattler's threads may abort it after the work is done.
    os._exit(main())
