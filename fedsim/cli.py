"""The command line: options and printing, no logic. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fedsim import __version__, stopping
from fedsim import options as opt
from fedsim.core.errors import FedsimError, ScenarioError, Stopped
from fedsim.core.events import Event

app = typer.Typer(
    help="Federated LoRA fine-tuning across banks, simulated on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedsim {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""


@app.command()
def check(files: Annotated[list[Path], typer.Argument(help="Scenario files.", metavar="FILE")]) -> None:
    """Report every problem of every scenario file, without reading data or starting anything."""
    from fedsim.build.load import check as problems_of

    if problems := problems_of(files):
        raise ScenarioError(problems)
    typer.echo(f"{len(files)} file{'s' * (len(files) > 1)}, no problems")


@app.command()
def run(
    file: opt.File,
    changes: opt.Changes = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run or grid directory. Default: one in results/runs.")
    ] = None,
    format_: opt.EndFormat = opt.Format.TEXT,
    quiet: opt.Quiet = False,
    inline: opt.InProcess = False,
    check_nodes: opt.CheckNodes = False,
    data_roots: opt.DataRoots = None,
    resuming: opt.ResumeOption = opt.Resuming.NEVER,
    steal_lock: opt.Steal = False,
    fallback: opt.Fallback = True,
    new_noise: opt.NewNoise = False,
    log: opt.LogFile = None,
) -> None:
    """Train across banks as a scenario says, and write a run directory.

    A scenario with vary: is a grid: every combination is a run with a directory of its own. Those that have ended
    before are not run again, and one that fails stops no other; the exit code is then the highest of theirs.
    """
    from fedsim.build.resume import Resume
    from fedsim.build.run import run as events_of

    how = Resume(resuming is opt.Resuming.AUTO, False, steal_lock, fallback, new_noise)
    _show(events_of(file, changes or (), out, inline, check_nodes, data_roots or (), how), format_, quiet, log)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="Run directory.", metavar="DIR")],
    changes: opt.Changes = None,
    format_: opt.EndFormat = opt.Format.TEXT,
    quiet: opt.Quiet = False,
    inline: opt.InProcess = False,
    data_roots: opt.DataRoots = None,
    steal_lock: opt.Steal = False,
    fallback: opt.Fallback = True,
    new_noise: opt.NewNoise = False,
    log: opt.LogFile = None,
) -> None:
    """Go on with a run that was stopped or killed, to the bits that it would have come to."""
    from fedsim.build.resume import Resume
    from fedsim.build.run import resume as events_of

    how = Resume(True, True, steal_lock, fallback, new_noise)
    _show(events_of(folder, changes or (), inline, data_roots or (), how), format_, quiet, log)


def _show(
    events: Generator[Event, None, None], format_: opt.Format, quiet: bool = False, log: str | None = None
) -> None:
    from fedsim.log import logged
    from fedsim.view import show

    with closing(logged(events, log) if log else events) as shown:
        finished = show(shown, format_ is opt.Format.JSON, quiet, sys.stdout, sys.stderr, stopping.announce)
    if finished.exit_code:
        raise typer.Exit(finished.exit_code)


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="Scenario file: the only file that is sent.", metavar="FILE")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Run directory: an absolute path that all nodes share.")],
    changes: opt.Changes = None,
    address: opt.Address = None,
    attempt: Annotated[int, typer.Option(min=1, help="2, 3, ...: send the same run again; it goes on.")] = 1,
    steal_lock: opt.Steal = False,
    run: Annotated[bool, typer.Option("--run/--print", help="Send the job, or print the command that does.")] = False,
) -> None:
    """Send a run to a Ray cluster as a job, or print the `ray job submit` command that does."""
    from fedsim.submit import send, submission

    job = submission(file, changes or (), out, attempt, steal_lock)
    if run:
        send(job, address)
    typer.echo(job.id if run else job.command(address))


@app.command()
def watch(
    target: Annotated[str, typer.Argument(help="Run directory, or a job's name.", metavar="DIR|JOB")],
    address: opt.Address = None,
    once: Annotated[bool, typer.Option("--once", help="Show what a run directory tells now, and end.")] = False,
    format_: opt.EndFormat = opt.Format.TEXT,
) -> None:
    """Show a run that goes on elsewhere; ends with the job's exit code, or with 0 if the run came to its end."""
    from fedsim.records.files import making_sense
    from fedsim.view import show_lines
    from fedsim.watch import is_folder, watch_job
    from fedsim.watch import watch as events_of

    if is_folder(target):
        with making_sense(Path(target)):
            _show(events_of(Path(target), once), format_)
    elif code := show_lines(watch_job(target, address), sys.stdout):
        raise typer.Exit(code)


@app.command()
def methods(
    format_: Annotated[
        opt.Sheets,
        typer.Option("--format", help="text: a table of 97 columns; markdown and json: titles and sources too."),
    ] = opt.Sheets.TEXT,
) -> None:
    """Compare the federated methods: what each trains, sends, keeps and promises."""
    from fedsim.methods import show

    show(format_.value, sys.stdout)


@app.command()
def inspect(
    file: opt.File,
    changes: opt.Changes = None,
    format_: Annotated[opt.Format, typer.Option("--format", help="How the numbers are written.")] = opt.Format.TEXT,
    pictures: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write pictures (SVG) there.")] = None,
    embeddings: opt.Embeddings = False,
) -> None:
    """Show which bank holds what and how far apart the banks are, without training."""
    from fedsim.build.inspect import as_json, as_text, save_pictures
    from fedsim.build.inspect import inspect as inspected

    splits = inspected(file, changes or (), embeddings)
    typer.echo(as_json(splits) if format_ is opt.Format.JSON else as_text(splits))
    if pictures is not None:
        for path in save_pictures(splits, pictures):
            typer.echo(f"written: {path}", err=True)


@app.command()
def plan(
    file: opt.File,
    changes: opt.Changes = None,
    format_: Annotated[opt.Format, typer.Option("--format", help="How the numbers are written.")] = opt.Format.TEXT,
    cross_check: opt.CrossCheck = False,
    measure: opt.Measure = False,
) -> None:
    """Show what a scenario will cost in privacy at every bank, and what is not protected, without training.

    With --measure a few local steps are timed and thrown away, and the fastest train.max_rows is told.
    """
    from fedsim.build.plan import as_json, as_text
    from fedsim.build.plan import plan as planned

    told = planned(file, changes or (), cross_check, measure, partial(typer.echo, err=True))
    typer.echo(as_json(told) if format_ is opt.Format.JSON else as_text(told))


@app.command()
def compare(
    folders: opt.Folders,
    format_: Annotated[opt.Rendering, typer.Option("--format", help="How the table is written.")] = opt.Rendering.TEXT,
    metric: opt.MetricName = None,
    against: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE", help="Also the difference to this, e.g. strategy=fedavg.")
    ] = None,
) -> None:
    """Compare ended runs: means over seeds, who gains and who loses by joining, and what it costs."""
    from fedsim.records.collect import collect
    from fedsim.records.compare import compare as compared
    from fedsim.records.compare import setting
    from fedsim.records.files import making_sense
    from fedsim.records.render import render

    with making_sense(*folders):
        found, notes = collect(folders)
        text = render(compared(found, metric, setting(against)), notes, format_.value)
    typer.echo(text)


@app.command()
def report(
    folders: opt.Folders,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The HTML file.")] = Path("report.html"),
    metric: opt.MetricName = None,
) -> None:
    """Write one HTML file about ended runs: tables, curves, gains, costs and splits; it needs no network."""
    from fedsim.records.collect import collect
    from fedsim.records.files import making_sense, write_atomically
    from fedsim.records.report import report as written

    with making_sense(*folders):
        found, notes = collect(folders)
        page = written(found, notes, metric)
    write_atomically(out, page)
    typer.echo(f"written: {out}")


@app.command()
def doctor(
    runs: opt.RunsFolder = None,
    clean: Annotated[bool, typer.Option("--clean", help="End processes of killed runs, remove their folders.")] = False,
    format_: Annotated[opt.Format, typer.Option("--format", help="How the findings are written.")] = opt.Format.TEXT,
) -> None:
    """Look whether fedsim can work here, and for what killed runs have left behind."""
    from fedsim.build.doctor import as_rows, as_text, exit_code
    from fedsim.build.doctor import doctor as examined

    findings = examined(clean, runs)
    typer.echo(json.dumps(as_rows(findings)) if format_ is opt.Format.JSON else as_text(findings))
    raise typer.Exit(exit_code(findings))


@app.command()
def bench(
    workload: opt.Workload,
    format_: Annotated[opt.Format, typer.Option("--format", help="How the figures are written.")] = opt.Format.TEXT,
) -> None:
    """Measure speed and memory on a fixed workload, beside a bare PEFT + Opacus loop in the same minutes."""
    from fedsim.bench.compare import as_text
    from fedsim.bench.compare import bench as compared

    figures = compared(workload.value)
    typer.echo(json.dumps(figures) if format_ is opt.Format.JSON else as_text(figures))


@app.command()
def schema() -> None:
    """Print the JSON Schema of scenario files, for editors that complete and check YAML."""
    from fedsim.build.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def main() -> None:
    """Entry point of ``fedsim``: an error is its message on stderr and its exit code."""
    stopping.listen()
    try:
        app([argument for argument in sys.argv[1:] if argument != "--debug"])
    except Stopped:
        stopping.leave(stopping.SIGTERM_EXIT)
    except KeyboardInterrupt:
        stopping.leave(stopping.SIGINT_EXIT)
    except SystemExit as ended:
        if ended.code == stopping.SIGINT_EXIT:
            stopping.leave(stopping.SIGINT_EXIT)
        raise
    except FedsimError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:  # the outermost frame: whatever else arrives here is a bug
        _fail(f"internal error: {type(error).__name__}: {error}; fedsim --debug shows where", FedsimError.exit_code)


def _fail(message: str, exit_code: int) -> NoReturn:
    """End the process with the error that is being handled."""
    if "--debug" in sys.argv:
        traceback.print_exc()
    else:
        typer.echo(message, err=True)
    raise SystemExit(exit_code) from None
